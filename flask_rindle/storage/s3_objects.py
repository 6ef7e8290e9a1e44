"""Objects in the words of S3: the headers that they are stored with, and what its answers tell of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask_rindle.security.mime import may_show_inline
from flask_rindle.storage.base import StoredObject

# What S3 calls bytes of which nobody has said what they are.
NO_TYPE = "binary/octet-stream"
STAGING = "incoming/"
YEAR_SECONDS = 31_536_000


def object_headers(key: str, content_type: str | None, *, public: bool) -> dict[str, str]:
    """How the server is to hand the object out to those who have a link to it."""
    headers = {"ContentType": content_type or NO_TYPE}
    if not may_show_inline(content_type or NO_TYPE):
        headers["ContentDisposition"] = "attachment"
    if not key.startswith(STAGING):
        headers["CacheControl"] = f"{'public' if public else 'private'}, max-age={YEAR_SECONDS}, immutable"
    return headers


def plain_etag(answer: Mapping[str, Any]) -> str:
    """The etag without the quotes that HTTP puts around it."""
    return str(answer.get("ETag", "")).removeprefix("W/").strip('"')


def quoted(etag: str) -> str:
    """The etag as a condition wants it."""
    return f'"{etag}"'


def stored_object(key: str, head: Mapping[str, Any]) -> StoredObject:
    """What the answer to a HEAD tells."""
    return StoredObject(
        key=key, size_bytes=int(head["ContentLength"]), etag=plain_etag(head), content_type=type_of(head)
    )


def type_of(head: Mapping[str, Any]) -> str | None:
    """The type that somebody gave, or None."""
    content_type = head.get("ContentType")
    return None if content_type in (None, "", NO_TYPE) else str(content_type)
