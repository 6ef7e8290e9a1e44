"""S3 needs as much memory for a large object as for one of 10 MB."""

from __future__ import annotations

import hashlib
import io
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, cast

import pytest
from s3_servers import S3Server

from flask_rindle.storage import s3_writing
from flask_rindle.storage.s3 import S3
from flask_rindle.types import MB

SMALL, BIG = 10 * MB, 80 * MB
TOLERANCE = 20 * MB


class Stream(io.RawIOBase):
    """So many bytes that are made when they are read."""

    def __init__(self, size: int) -> None:
        self._left = size
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        chunk = self._left.to_bytes(8, "big") * (min(size, self._left) // 8)
        self._left -= len(chunk)
        self.digest.update(chunk)
        return chunk


@pytest.fixture
def storage(localstack: S3Server, make_bucket: Callable[[S3Server], str]) -> Iterator[S3]:
    with closing(S3("media", **localstack.options(make_bucket(localstack)))) as storage:
        storage.put("warm", io.BytesIO(bytes(6 * MB)))
        yield storage


def peak(work: Callable[[], object]) -> int:
    """The most bytes that Python held during the work, beyond what it held before."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_object(storage: S3, tmp_path: Path) -> None:
    peaks = {}
    for size in (SMALL, BIG):
        stream = Stream(size)
        peaks["put", size] = peak(lambda stream=stream: storage.put("a", cast("BinaryIO", stream)))
        path = tmp_path / str(size)
        peaks["save", size] = peak(lambda path=path: storage.save_to("a", path))
        peaks["read", size] = peak(lambda: [None for _ in storage.read("a")])
        assert path.stat().st_size == size
        assert hashlib.sha256(path.read_bytes()).digest() == stream.digest.digest()
    for verb in ("put", "save", "read"):
        assert peaks[verb, BIG] - peaks[verb, SMALL] < TOLERANCE, verb
        assert peaks[verb, BIG] < 32 * MB, verb


def test_memory_does_not_grow_with_the_parts(storage: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of an object of terabytes wait in a file."""
    monkeypatch.setattr(s3_writing, "PARTS_BEFORE_GROWTH", 1)
    monkeypatch.setattr(s3_writing, "PARTS_OF_ONE_SIZE", 1)
    assert peak(lambda: storage.put("a", cast("BinaryIO", Stream(BIG)))) < 32 * MB
    assert storage.stat("a").size_bytes == BIG
