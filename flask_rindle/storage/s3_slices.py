"""A file as parts: each reads its own stretch from the disk, so that many can be sent at once and none is in memory."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from typing import BinaryIO

from flask_rindle.types import MB

SLICE_BYTES = 8 * MB
MOST_SLICES = 10_000


class Slice(io.RawIOBase):
    """A stretch of an open file, whatever its own position is. The file stays open."""

    def __init__(self, descriptor: int, start: int, size: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._start = start
        self._size = size
        self._at = 0

    def read(self, size: int | None = -1) -> bytes:
        left = max(self._size - self._at, 0)
        wanted = left if size is None or size < 0 else min(size, left)
        chunk = os.pread(self._descriptor, wanted, self._start + self._at)
        if wanted and not chunk:
            # The server waits for all that was announced, and we would wait for its answer.
            raise OSError(errno.EIO, "the file became shorter while it was sent")
        self._at += len(chunk)
        return chunk

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


def slices_of(source: BinaryIO) -> list[Slice]:
    """What a file on the disk has from where it stands, in equal parts; nothing for any other source."""
    # A wrapper may have a say in what is read, so only what `open` gives is a file.
    if not isinstance(source, (io.BufferedReader, io.FileIO)):
        return []
    descriptor, start = source.fileno(), source.tell()
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        return []
    return list(_cut(descriptor, start, max(status.st_size - start, 0)))


def _cut(descriptor: int, start: int, size: int) -> Iterator[Slice]:
    least = max(SLICE_BYTES, -(-size // MOST_SLICES))
    length = -(-least // MB) * MB
    for at in range(0, size, length):
        yield Slice(descriptor, start + at, min(length, size - at))
