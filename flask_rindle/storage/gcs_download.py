"""Bytes of one generation of an object, through breaks of the connection."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import requests
from google.api_core.exceptions import NotFound, from_http_status
from urllib3.exceptions import HTTPError

from flask_rindle.errors import ObjectChanged, StorageUnavailable
from flask_rindle.storage import gcs_connection
from flask_rindle.storage.base import CHUNK_BYTES
from flask_rindle.storage.gcs_errors import translate
from flask_rindle.storage.gcs_options import FARTHEST
from flask_rindle.types import ByteRange

RESUMES = 5
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(?:\d+|\*)")
BREAKS = (HTTPError, requests.RequestException, OSError)


class Download:
    """An open download; `generation` says of which version, None until the server has told."""

    def __init__(
        self,
        storage: str,
        connection: gcs_connection.Connection,
        key: str,
        byte_range: ByteRange,
        generation: str | None = None,
    ) -> None:
        self._storage = storage
        self._connection = connection
        self._key = key
        self._at = byte_range.start
        self._stop = byte_range.stop
        self.generation = generation
        self._resumes_left = RESUMES
        with translate(storage, key):
            self._open()

    def __iter__(self) -> Iterator[bytes]:
        """The bytes in bounded chunks; dropping the iterator closes the connection."""
        chunks = self._chunks()
        next(chunks)  # only a generator that has begun closes its connection when it is dropped
        return chunks

    def close(self) -> None:
        """Let go of the connection."""
        self._answer.close()

    def _chunks(self) -> Iterator[bytes]:
        with closing(self):
            yield b""
            while self._at < self._end:
                chunk = self._read()
                self._at += len(chunk)
                yield chunk

    def _read(self) -> bytes:
        """The next bytes, over a new connection when the old one breaks."""
        while True:
            try:
                # Raw: what is stored compressed is to arrive as it is stored.
                if chunk := self._answer.raw.read(min(CHUNK_BYTES, self._end - self._at), decode_content=False):
                    return bytes(chunk)
                failure: Exception = ConnectionError("the connection was closed too early")
            except BREAKS as error:
                failure = error
            self._resume(failure)

    def _resume(self, failure: Exception) -> None:
        self._answer.close()
        if not self._resumes_left or self.generation is None:
            raise StorageUnavailable(self._storage, self._key) from failure
        self._resumes_left -= 1
        with translate(self._storage, self._key):
            try:
                self._open()
            except NotFound as error:
                raise ObjectChanged(self._storage, self._key) from error

    def _open(self) -> None:
        self._answer = gcs_connection.RETRY(self._request)()
        self._end = self._at + self._length()
        self.generation = self.generation or self._answer.headers.get("X-Goog-Generation")

    def _request(self) -> Any:
        answer = self._connection.authorized.get(
            self._url(),
            params={"alt": "media", **({"generation": self.generation} if self.generation else {})},
            headers={"Accept-Encoding": "gzip", **self._range_header()},
            stream=True,
            timeout=gcs_connection.TIMEOUT,
        )
        if answer.status_code < HTTPStatus.BAD_REQUEST or self._is_past_the_end(answer):
            return answer
        with answer:
            raise from_http_status(answer.status_code, answer.text[:500], response=answer)

    def _url(self) -> str:
        options = self._connection.options
        return f"{options.endpoint}/download/storage/v1/b/{options.bucket}/o/{quote(self._key, safe='')}"

    def _range_header(self) -> dict[str, str]:
        if not self._at and self._stop is None:
            return {}  # of an empty object, Google refuses every range
        stop = "" if self._stop is None else min(self._stop - 1, FARTHEST)
        return {"Range": f"bytes={self._at}-{stop}"}

    def _is_past_the_end(self, answer: Any) -> bool:
        return int(answer.status_code) == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE

    def _length(self) -> int:
        """How many bytes will come."""
        answer = self._answer
        if self._is_past_the_end(answer):
            answer.close()
            return 0
        found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if found and int(found[1]) == self._at:
            return int(found[2]) + 1 - self._at
        whole = answer.headers.get("X-Goog-Stored-Content-Length") or answer.headers.get("Content-Length")
        if answer.status_code == HTTPStatus.OK and whole is not None and not self._range_header():
            return int(whole)
        answer.close()
        raise requests.RequestException("the server answered another range than was asked for")
