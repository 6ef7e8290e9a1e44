"""Requests that a client may make by itself: what is signed, and the headers that it has to send therefore."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from flask_rindle.errors import MalformedRequest
from flask_rindle.storage.base import PresignedUpload, PutTerms
from flask_rindle.storage.s3_bucket import Bucket
from flask_rindle.types import Checksum, utcnow

LONGEST = timedelta(days=7)  # of signature version 4
HEADERS: Mapping[str, str] = {
    "ContentLength": "Content-Length",
    "ContentType": "Content-Type",
    "ChecksumSHA256": "x-amz-checksum-sha256",
    "IfNoneMatch": "If-None-Match",
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "SSEKMSKeyId": "x-amz-server-side-encryption-aws-kms-key-id",
    "StorageClass": "x-amz-storage-class",
}


def put_params(bucket: Bucket, terms: PutTerms) -> dict[str, Any]:
    """What a PUT of one object is bound to."""
    params: dict[str, Any] = {
        "ContentLength": terms.size_bytes,
        "ContentType": terms.content_type,
        **bucket.options.for_objects,
    }
    if terms.checksum is not None:
        params["ChecksumSHA256"] = _base64(terms.checksum)
    if bucket.options.if_none_match:
        params["IfNoneMatch"] = "*"
    return params


def sent_headers(bucket: Bucket) -> list[str]:
    """The names of all headers that a PUT may have to send, in small letters."""
    skipped = {"IfNoneMatch"} if not bucket.options.if_none_match else set()
    optional = {"ServerSideEncryption", "SSEKMSKeyId", "StorageClass"} - set(bucket.options.for_objects)
    return [header.lower() for name, header in HEADERS.items() if name not in skipped | optional]


def presign(
    bucket: Bucket, operation: str, key: str, params: Mapping[str, Any], expires_in: timedelta
) -> PresignedUpload:
    """A URL for one such PUT, with the headers that it takes."""
    seconds = whole_seconds(expires_in)
    now = utcnow().replace(microsecond=0)
    url = bucket.sign(operation, key, params, seconds)
    headers = {HEADERS[name]: str(value) for name, value in params.items() if name in HEADERS}
    return PresignedUpload(url=url, headers=headers, expires_at=now + timedelta(seconds=seconds))


def whole_seconds(expires_in: timedelta) -> int:
    """The life of a URL. Raises MalformedRequest for one that cannot be signed."""
    seconds = int(expires_in.total_seconds())
    if expires_in > LONGEST:
        raise MalformedRequest("expires_in", f"must be at most {int(LONGEST.total_seconds())} seconds")
    if seconds < 1:
        raise MalformedRequest("expires_in", "must be at least 1 second")
    return seconds


def _base64(checksum: Checksum) -> str:
    return base64.b64encode(bytes.fromhex(checksum.hex)).decode()
