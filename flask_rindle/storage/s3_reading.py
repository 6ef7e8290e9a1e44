"""Reading from S3: one version from the first byte to the last, also when a connection breaks in between."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from flask_rindle.errors import ObjectChanged, ObjectNotFound, StorageError, StorageUnavailable
from flask_rindle.storage.base import CHUNK_BYTES, StoredObject
from flask_rindle.storage.s3_bucket import Bucket
from flask_rindle.storage.s3_errors import status_of
from flask_rindle.storage.s3_objects import plain_etag, quoted, stored_object
from flask_rindle.types import MB, ByteRange

# Beyond every object, and a number that every server can read.
FARTHEST = 2**53
RANGE_NOT_SATISFIABLE = 416
RESUMES = 4
PIECE_BYTES = 8 * MB
PIECES_AT_ONCE = 4
SAVE_CHUNK_BYTES = 1 * MB
SAVE_TRIES = 3


@dataclass(frozen=True, slots=True)
class Opened:
    """The answer to a GET: bytes of one version, from `start` to before `stop`."""

    body: Any
    start: int
    stop: int
    etag: str


def read_range(bucket: Bucket, key: str, byte_range: ByteRange) -> Iterator[bytes]:
    """The bytes in bounded chunks; past the end there is nothing. Raises ObjectNotFound at the call."""
    start = byte_range.start
    stop = FARTHEST if byte_range.stop is None else min(byte_range.stop, FARTHEST)
    if start >= stop:  # S3 has no words for a range of no bytes
        bucket.head(key)
        return iter(())
    opened = open_range(bucket, key, start, stop)
    return begun(chunks(bucket, key, opened, CHUNK_BYTES)) if opened else iter(())


def begun(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Only a generator that has begun closes its connection when it is dropped."""
    next(chunks)
    return chunks


def open_range(bucket: Bucket, key: str, start: int, stop: int, etag: str | None = None) -> Opened | None:
    """Ask for the bytes, of the version `etag` where it is given; None when they are past the end."""
    params = {} if etag is None else {"IfMatch": quoted(etag)}
    if start or stop < FARTHEST:
        params["Range"] = f"bytes={start}-{'' if stop == FARTHEST else stop - 1}"
    try:
        answer = bucket.call("get_object", key, params)
    except StorageError as error:
        if status_of(error.__cause__) == RANGE_NOT_SATISFIABLE:
            return None
        raise
    given = str(answer.get("ContentRange", "bytes 0-"))
    if not given.startswith(f"bytes {start}-"):
        answer["Body"].close()
        raise StorageError(bucket.storage, key, "it answered with another range")
    return Opened(answer["Body"], start, start + int(answer["ContentLength"]), plain_etag(answer))


def chunks(bucket: Bucket, key: str, opened: Opened, size: int) -> Iterator[bytes]:
    """All bytes of the answer; a connection that breaks is made again where it broke. Empty first, for `begun`."""
    at, resumed = opened.start, count(1)
    while True:
        try:
            for chunk in _of_one_answer(bucket, key, opened, size):
                at += len(chunk)
                yield chunk
            _require_end(bucket, key, at, opened.stop)
            return  # noqa: TRY300
        except StorageUnavailable:
            if next(resumed) > RESUMES:
                raise
        again = open_range(bucket, key, at, opened.stop, opened.etag)
        if again is None:
            raise ObjectChanged(bucket.storage, key)
        opened = Opened(again.body, at, opened.stop, opened.etag)


def _require_end(bucket: Bucket, key: str, at: int, stop: int) -> None:
    if at != stop:
        raise StorageUnavailable(bucket.storage, key)


def _of_one_answer(bucket: Bucket, key: str, opened: Opened, size: int) -> Iterator[bytes]:
    try:
        yield b""
        while True:
            with bucket.translate(key):
                chunk: bytes = opened.body.read(size)
            if not chunk:
                return
            yield chunk
    finally:
        opened.body.close()


def save(bucket: Bucket, key: str, path: Path) -> StoredObject:
    """Write one version into a new file at `path`, in pieces at once. Leaves no file behind when it fails."""
    stored = stored_object(key, bucket.head(key))
    with path.open("xb") as target:
        try:
            for tries_left in reversed(range(SAVE_TRIES)):
                try:
                    _save_pieces(bucket, stored, target)
                    break
                except (ObjectChanged, ObjectNotFound):
                    if not tries_left:
                        raise
                stored = stored_object(key, bucket.head(key))
                target.truncate(0)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    return stored


def _save_pieces(bucket: Bucket, stored: StoredObject, target: BinaryIO) -> None:
    pieces = range(0, stored.size_bytes, PIECE_BYTES)
    if len(pieces) <= 1:
        for start in pieces:
            _save_piece(bucket, stored, target, start)
        return
    with ThreadPoolExecutor(PIECES_AT_ONCE, "rindle-save") as threads:
        try:
            saving = [threads.submit(_save_piece, bucket, stored, target, start) for start in pieces]
            for future in saving:
                future.result()
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def _save_piece(bucket: Bucket, stored: StoredObject, target: BinaryIO, start: int) -> None:
    stop = min(start + PIECE_BYTES, stored.size_bytes)
    opened = open_range(bucket, stored.key, start, stop, stored.etag)
    if opened is None or opened.stop != stop:
        if opened is not None:
            opened.body.close()
        raise ObjectChanged(bucket.storage, stored.key)
    for chunk in chunks(bucket, stored.key, opened, SAVE_CHUNK_BYTES):
        _write_at(target.fileno(), chunk, start)
        start += len(chunk)


def _write_at(descriptor: int, chunk: bytes, at: int) -> None:
    rest = memoryview(chunk)
    while rest:
        written = os.pwrite(descriptor, rest, at)
        rest, at = rest[written:], at + written
