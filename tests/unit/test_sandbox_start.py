"""A decoder that cannot be started: nothing of it stays, and the next one starts."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from PIL import Image

from flask_rindle.errors import SandboxFailed
from flask_rindle.processing.probes import FileProbe
from flask_rindle.processing.sandbox import Sandbox

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.linear_gradient("L").save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where decoders have their directories."""
    path = tmp_path / "decoders"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """The process may open so many more files, and no others."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, descriptors())) + 20, before[1]))
    held: list[int] = []
    try:
        while True:
            held.append(os.dup(0))
    except OSError:
        pass
    try:
        for _ in range(count):
            os.close(held.pop())
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("left", range(8))
def test_a_process_without_descriptors_keeps_nothing_of_a_decoder_that_it_could_not_start(
    picture: Path, folder: Path, left: int
) -> None:
    """Wherever in the start it is that there are no more."""
    before = descriptors()
    with closing(Sandbox()) as sandbox:
        with descriptors_left(left), pytest.raises((SandboxFailed, OSError)):
            FileProbe(sandbox).probe(picture)
        assert (list(folder.iterdir()), descriptors(), sandbox._children) == ([], before, set())
        assert FileProbe(sandbox).probe(picture).width == 256
    assert (list(folder.iterdir()), descriptors()) == ([], before)


def test_a_missing_temp_directory_is_trouble_of_the_start(
    picture: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = descriptors()
    with closing(Sandbox()) as sandbox:
        folder.rmdir()
        with pytest.raises(SandboxFailed) as caught:
            FileProbe(sandbox).probe(picture)
        assert (caught.value.reason, descriptors()) == ("start", before)
        folder.mkdir()
        assert FileProbe(sandbox).probe(picture).width == 256
