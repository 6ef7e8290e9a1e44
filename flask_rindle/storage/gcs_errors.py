"""What the failures of Google's SDK mean, and how they leave without a secret in their text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import TypeVar

import requests
from google.api_core.exceptions import GoogleAPICallError, RetryError
from google.auth.exceptions import GoogleAuthError, TransportError
from urllib3.exceptions import HTTPError

from flask_rindle.errors import (
    ObjectChanged,
    ObjectNotFound,
    StorageDenied,
    StorageError,
    StorageFull,
    StorageUnavailable,
)

E = TypeVar("E", bound=BaseException)

FAILURES = (
    GoogleAPICallError,
    RetryError,
    GoogleAuthError,
    requests.RequestException,
    HTTPError,
    ConnectionError,
    TimeoutError,
)
MEANINGS: dict[int, Callable[[str, str], StorageError]] = {
    HTTPStatus.NOT_FOUND: ObjectNotFound,
    HTTPStatus.PRECONDITION_FAILED: ObjectChanged,
    HTTPStatus.UNAUTHORIZED: StorageDenied,
    HTTPStatus.FORBIDDEN: StorageDenied,
    HTTPStatus.REQUEST_TIMEOUT: StorageUnavailable,
    HTTPStatus.TOO_MANY_REQUESTS: StorageUnavailable,
    HTTPStatus.INSUFFICIENT_STORAGE: StorageFull,
}
# Google answers 403 to these as well, and they pass, or have nothing to do with permissions.
REASONS: dict[str, Callable[[str, str], StorageError]] = {
    "rateLimitExceeded": StorageUnavailable,
    "userRateLimitExceeded": StorageUnavailable,
    "quotaExceeded": StorageFull,
}
BUCKET_MISSING = "bucket does not exist"
SECRET = re.compile(r"\b(upload_id|X-Goog-Signature|X-Goog-Credential)=[^&\s'\")]+", re.IGNORECASE)


@contextmanager
def translate(storage: str, key: str) -> Iterator[None]:
    """Let a failure of the SDK leave as the StorageError that it means, with itself as the cause."""
    try:
        yield
    except FAILURES as error:
        # Out of patience: the last failure says more than the fact.
        cause = error.cause if isinstance(error, RetryError) and error.cause else error
        raise meaning(storage, key, cause) from cause


def meaning(storage: str, key: str, error: BaseException) -> StorageError:
    """The StorageError for a failure."""
    if isinstance(error, GoogleAPICallError):
        return _of_answer(storage, key, error)
    passes = isinstance(error, TransportError) or getattr(error, "retryable", False)
    if isinstance(error, GoogleAuthError) and not passes:
        return StorageDenied(storage, key)
    return StorageUnavailable(storage, key)


def _of_answer(storage: str, key: str, error: GoogleAPICallError) -> StorageError:
    status = int(error.code or 0)
    reasons = _reasons(error)
    if status == HTTPStatus.NOT_FOUND and BUCKET_MISSING in str(error):
        return StorageError(storage, key, "the bucket does not exist")
    for reason in filter(REASONS.__contains__, reasons):
        return REASONS[reason](storage, key)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return MEANINGS.get(status, StorageUnavailable)(storage, key)
    if status in MEANINGS:
        return MEANINGS[status](storage, key)
    return StorageError(storage, key, f"the request was refused with status {status}")


def _reasons(error: GoogleAPICallError) -> list[str]:
    """Google's words for it. The client parses them for some requests only."""
    told = error.errors
    if not told and isinstance(error.response, requests.Response):
        try:
            told = error.response.json()["error"]["errors"]
        except (ValueError, LookupError, TypeError):  # a proxy's page, or none
            return []
    return [str(found.get("reason")) for found in told if isinstance(found, dict)]


def redact(text: str) -> str:
    """The text without session ids and signatures."""
    return SECRET.sub(r"\1=[hidden]", text)


def without_secrets(error: E) -> E:
    """The error, or one like it whose text can be logged: those of requests quote the whole URL."""
    text = str(error)
    if redact(text) == text:
        return error
    return type(error)(redact(text))
