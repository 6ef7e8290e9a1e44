"""A source of unknown length, sent through a resumable session in pieces of one size."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import chain
from typing import Any, BinaryIO

import google_crc32c

from flask_rindle.errors import StorageError
from flask_rindle.storage.gcs_errors import translate
from flask_rindle.storage.gcs_sessions import Sessions
from flask_rindle.types import MB

PIECE_BYTES = 8 * MB  # a multiple of 256 KB, which is what Google commits

Pieces = Iterable[tuple[bytes, bool]]


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

    def send(self, source: BinaryIO, start: Callable[[], str]) -> Mapping[str, Any]:
        """The object that was made of all that `source` gives. Its own errors pass unchanged, and nothing is left."""
        pieces = pieces_of(source)
        first = next(pieces)
        uri = start()
        try:
            return self._fill(uri, chain([first], pieces))
        except BaseException:
            self._drop(uri)
            raise

    def _fill(self, uri: str, pieces: Pieces) -> Mapping[str, Any]:
        made: Mapping[str, Any] | None = None
        at = 0
        for piece, last in pieces:
            with translate(self._storage, self._key):
                made = self._sessions.send(uri, piece, at=at, last=last)
            self._crc32c.update(piece)
            at += len(piece)
        return made or {}

    def _drop(self, uri: str) -> None:
        # What went wrong before is what the caller is to hear, and Google forgets the session in a week.
        with suppress(StorageError), translate(self._storage, self._key):
            self._sessions.cancel(uri)


def pieces_of(source: BinaryIO) -> Iterator[tuple[bytes, bool]]:
    """Pieces of the one size and a shorter last one, which may be empty; and whether it is the last."""
    last = False
    while not last:
        piece = bytearray()
        while len(piece) < PIECE_BYTES and (chunk := source.read(PIECE_BYTES - len(piece))):
            piece += chunk
        last = len(piece) < PIECE_BYTES
        yield bytes(piece), last
