"""What killed processes left: it goes, and what anybody is at stays."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_rindle.errors import StorageUnavailable
from flask_rindle.holding import hold, remove_abandoned
from flask_rindle.models import Asset
from flask_rindle.outbox import JobKind


@pytest.fixture
def app(make_app: Callable[..., Flask], tmp_path: Path) -> Flask:
    (tmp_path / "tmp").mkdir()
    return make_app(RINDLE_TMP_DIR=str(tmp_path / "tmp"))


def test_the_folder_of_a_killed_run_goes_with_the_bytes_in_it(
    app: Flask, engine: Any, staged: Callable[..., Any], photo: Callable[..., bytes], tmp_path: Path, rows: Any
) -> None:
    """Killed with the original on disk; the sweep of any other process removes it, and the job is done anew."""
    jobs, engine.outbox.send = engine.jobs, lambda _: None
    engine.uploads.complete(staged(photo()).id)
    pid = os.fork()
    if pid == 0:
        engine.pipeline._steps[JobKind.PROMOTE]._tools.probe.probe = lambda *_, **__: os.kill(os.getpid(), 9)
        jobs.drain()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    (left,) = (tmp_path / "tmp").iterdir()
    assert (left / "source").read_bytes() == photo()
    assert engine.leftovers.remove() == 1
    assert list((tmp_path / "tmp").iterdir()) == []
    assert [asset.state for asset in rows(Asset)] == ["analyzing"]


def test_the_folder_of_a_run_that_goes_on_stays(
    app: Flask, engine: Any, photo: Callable[..., bytes], host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = engine.pipeline._steps[JobKind.PROMOTE]
    real, removed = step._judge, []

    def swept(*args: Any) -> Any:
        with step._tools.run_dir() as directory:
            (directory / "source").write_bytes(b"bytes")
            removed.append(engine.leftovers.remove())
            assert (directory / "source").read_bytes() == b"bytes"
        return real(*args)

    monkeypatch.setattr(step, "_judge", swept)
    with app.app_context():
        asset = host.rindle.upload("avatar", io.BytesIO(photo()), filename="a.jpg")
        assert engine.feed.asset(asset.id).state == "ready"
    assert removed == [0]


def test_nothing_else_in_the_temporary_folder_is_touched(app: Flask, engine: Any, tmp_path: Path) -> None:
    folder = tmp_path / "tmp"
    (folder / "somebody-elses").mkdir()
    (folder / "rindle-run-file").write_text("no folder")
    (tmp_path / "outside").mkdir()
    (folder / "rindle-run-link").symlink_to(tmp_path / "outside")
    assert engine.leftovers.remove() == 0
    assert {path.name for path in folder.iterdir()} == {"somebody-elses", "rindle-run-file", "rindle-run-link"}


def test_a_temporary_folder_that_is_gone_holds_nothing(app: Flask, engine: Any, tmp_path: Path) -> None:
    (tmp_path / "tmp").rmdir()
    assert engine.leftovers.remove() == 0


def test_a_storage_that_cannot_be_tidied_keeps_nothing_else_from_being_swept(
    app: Flask, engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> int:
        raise StorageUnavailable("default", "")

    monkeypatch.setattr(engine.storages["default"], "tidy", broken)
    (tmp_path / "tmp" / "rindle-run-x").mkdir()
    assert engine.leftovers.remove() == 1


def test_what_cannot_be_removed_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a sweep that goes on until nothing is left would never end."""
    folder = tmp_path / "rindle-run-x"
    folder.mkdir()
    monkeypatch.setattr("flask_rindle.holding.shutil.rmtree", lambda *_, **__: None)
    assert not remove_abandoned(folder)


def test_a_folder_that_was_tidied_up_before_it_was_held_is_made_again(
    app: Flask, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools, removed, real = engine.pipeline._steps[JobKind.PROMOTE]._tools, [], hold

    def late(descriptor: int) -> None:
        if not removed:
            removed.append(engine.leftovers.remove())
        real(descriptor)

    monkeypatch.setattr("flask_rindle.pipeline.tools.hold", late)
    with tools.run_dir() as directory:
        assert (directory.is_dir(), removed) == (True, [1])
        assert engine.leftovers.remove() == 0
    assert not directory.exists()
