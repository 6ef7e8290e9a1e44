"""A source of unknown length, sent through a resumable session in pieces of one size."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, BinaryIO

import google_crc32c

from flask_rindle.errors import StorageError
from flask_rindle.storage.base import CHUNK_BYTES
from flask_rindle.storage.gcs_errors import translate
from flask_rindle.storage.gcs_sessions import Sessions
from flask_rindle.types import MB

SMALL_BYTES = MB  # what is sent in one request
PIECE_BYTES = 8 * MB  # a multiple of 256 KB, which is what Google commits

Start = Callable[[], str]
Create = Callable[[bytes], Mapping[str, Any] | None]


class Upload:
    """Sends one source under one key; `checksum` tells of what has been sent, in Google's spelling."""

    def __init__(self, storage: str, key: str, sessions: Sessions) -> None:
        self._storage = storage
        self._key = key
        self._sessions = sessions
        self._crc32c: Any = google_crc32c.Checksum()  # type: ignore[no-untyped-call]

    @property
    def checksum(self) -> str:
        return base64.b64encode(self._crc32c.digest()).decode()

    def send(self, source: BinaryIO, start: Start, create: Create) -> Mapping[str, Any]:
        """The object that was made of all that `source` gives. Its own errors pass unchanged, and nothing is left.

        `create` is tried with what is small enough for one request.
        """
        made: Mapping[str, Any] | None = None
        uri, at = "", 0
        try:
            for piece, last in pieces_of(source):
                made = create(piece) if last and not at and len(piece) <= SMALL_BYTES else None
                if made is None:
                    uri = uri or start()
                    made = self._send(uri, piece, at=at, last=last)
                self._crc32c.update(piece)
                at += len(piece)
                del piece  # before the next one is read, or there would be two
        except BaseException:
            if uri:
                self._drop(uri)
            raise
        return made or {}

    def _send(self, uri: str, piece: bytes, *, at: int, last: bool) -> Mapping[str, Any] | None:
        with translate(self._storage, self._key):
            return self._sessions.send(uri, piece, at=at, last=last)

    def _drop(self, uri: str) -> None:
        # What went wrong before is what the caller is to hear, and Google forgets the session in a week.
        with suppress(StorageError), translate(self._storage, self._key):
            self._sessions.cancel(uri)


def pieces_of(source: BinaryIO) -> Iterator[tuple[bytes, bool]]:
    """Pieces of the one size and a shorter last one, which may be empty; and whether it is the last."""
    last = False
    while not last:
        piece = _read_piece(source)
        last = len(piece) < PIECE_BYTES
        yield piece, last
        del piece  # as above


def _read_piece(source: BinaryIO) -> bytes:
    piece = bytearray()
    while len(piece) < PIECE_BYTES and (chunk := source.read(min(CHUNK_BYTES, PIECE_BYTES - len(piece)))):
        piece += chunk
    return bytes(piece)
