"""Resumable upload sessions: what is sent to their URIs, which are secrets and need no other credentials."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import requests
from google.api_core.exceptions import ServiceUnavailable, from_http_status

from flask_rindle.storage import gcs_connection
from flask_rindle.storage.base import ResumableProgress, ResumableState
from flask_rindle.storage.gcs_errors import without_secrets

CANCELLED = 499
RESUME_INCOMPLETE = 308
DONE = (HTTPStatus.OK, HTTPStatus.CREATED)
GONE = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE, CANCELLED)
_RANGE = re.compile(r"bytes=0-(\d+)")

EXPIRED = ResumableProgress(committed_bytes=0, state=ResumableState.EXPIRED)


class Sessions:
    """Speaks to session URIs. What it raises never quotes one."""

    def __init__(self, connection: gcs_connection.Connection) -> None:
        self._connection = connection

    def progress(self, uri: str) -> ResumableProgress:
        """How far the upload is."""
        answer = gcs_connection.RETRY(self._ask)(uri, "*")
        if answer.status_code in GONE:
            return EXPIRED
        if answer.status_code in DONE:
            return ResumableProgress(committed_bytes=int(answer.json()["size"]), state=ResumableState.COMPLETE)
        return ResumableProgress(committed_bytes=committed_bytes(answer), state=ResumableState.IN_PROGRESS)

    def cancel(self, uri: str) -> None:
        """End the session; quiet when it is over."""
        gcs_connection.RETRY(self._request)("DELETE", uri, {}, expected=(*DONE, HTTPStatus.NO_CONTENT, *GONE))

    def send(self, uri: str, data: bytes, *, at: int, last: bool) -> Mapping[str, Any] | None:
        """Store `data`, which follows `at` bytes; the object when it was the last. Goes on where a break left it."""
        piece = Piece(self, uri, data, at=at, last=last)
        made: Mapping[str, Any] | None = gcs_connection.RETRY(piece.attempt)()
        return made

    def put(self, uri: str, data: bytes, content_range: str) -> requests.Response:
        """Send bytes. A status that is none of an upload's is raised as Google's own error."""
        expected = (*DONE, RESUME_INCOMPLETE, *GONE)
        answer = self._request("PUT", uri, {"Content-Range": content_range}, data, expected=expected)
        if answer.status_code in GONE:
            # Not as Google's NotFound: no object is missing, and another session may do.
            raise requests.RequestException("the upload session is gone")
        return answer

    def _ask(self, uri: str, total: int | str) -> requests.Response:
        headers = {"Content-Range": f"bytes */{total}"}
        return self._request("PUT", uri, headers, expected=(*DONE, RESUME_INCOMPLETE, *GONE))

    def _request(
        self, method: str, uri: str, headers: Mapping[str, str], data: bytes = b"", *, expected: tuple[int, ...]
    ) -> requests.Response:
        failure: requests.RequestException
        try:
            # As a file it goes out in small blocks, each with the timeout to itself.
            answer = self._connection.bare.request(
                method,
                uri,
                data=io.BytesIO(data) if data else b"",
                headers=headers,
                timeout=gcs_connection.TIMEOUT,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            failure = without_secrets(error)
        else:
            if answer.status_code in expected:
                return answer
            raise from_http_status(answer.status_code, "refused by the upload session", response=answer)
        raise failure  # outside of the handler, or the original would be its context and be printed


@dataclass
class Piece:
    """Some bytes on their way into a session, and how many of them are there."""

    sessions: Sessions
    uri: str
    data: bytes
    at: int
    last: bool
    in_doubt: bool = False

    def __post_init__(self) -> None:
        self.committed = self.at
        self.end = self.at + len(self.data)

    def attempt(self) -> Mapping[str, Any] | None:
        """Send what is missing until everything is there; after a break, ask first how much is."""
        while self.last or self.committed < self.end:
            doubted, self.in_doubt = self.in_doubt, True
            answer = self._put(b"") if doubted else self._put(self.data[self.committed - self.at :])
            self.in_doubt = False
            if answer.status_code in DONE:
                return self._object(answer)
            self._advance(committed_bytes(answer), asked=doubted)
        return None

    def _put(self, rest: bytes) -> requests.Response:
        total = str(self.end) if self.last else "*"
        sent = f"{self.committed}-{self.end - 1}" if rest else "*"
        return self.sessions.put(self.uri, rest, f"bytes {sent}/{total}")

    def _object(self, answer: requests.Response) -> Mapping[str, Any]:
        found: Mapping[str, Any] = answer.json()
        return found

    def _advance(self, committed: int, *, asked: bool) -> None:
        if not self.at <= committed <= self.end:
            raise requests.RequestException("the upload session is at another byte than was sent")
        if committed == self.committed and not asked:
            self.in_doubt = True
            raise ServiceUnavailable("the upload session took no bytes")
        self.committed = committed


def committed_bytes(answer: requests.Response) -> int:
    """How many bytes a 308 says are there; without a Range there are none."""
    match = _RANGE.fullmatch(answer.headers.get("Range", ""))
    return int(match[1]) + 1 if match else 0
