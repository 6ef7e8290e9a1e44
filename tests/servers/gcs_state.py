"""What the fake of Google Cloud Storage keeps: buckets, generations of objects, upload sessions, rewrites."""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from threading import RLock
from typing import Any

import google_crc32c

GRANULE = 256 * 1024  # what a session commits before its last request
KEPT_ABOUT_AN_OBJECT = (
    "contentType",
    "cacheControl",
    "contentDisposition",
    "contentEncoding",
    "storageClass",
    "metadata",
)


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message


def crc32c(data: bytes) -> str:
    """As Google spells it."""
    return base64.b64encode(google_crc32c.Checksum(data).digest()).decode()


@dataclass(frozen=True)
class Blob:
    """One generation of an object."""

    bucket: str
    name: str
    data: bytes
    generation: int
    about: Mapping[str, Any]
    kms_key_name: str | None = None

    @property
    def crc32c(self) -> str:
        return crc32c(self.data)

    @property
    def md5(self) -> str:
        return base64.b64encode(hashlib.md5(self.data, usedforsecurity=False).digest()).decode()

    def as_json(self) -> dict[str, Any]:
        found = {
            "kind": "storage#object",
            "bucket": self.bucket,
            "name": self.name,
            "size": str(len(self.data)),
            "generation": str(self.generation),
            "metageneration": "1",
            "etag": base64.b64encode(str(self.generation).encode()).decode(),
            "crc32c": self.crc32c,
            "md5Hash": self.md5,
            "storageClass": "STANDARD",
            **self.about,
        }
        return found | ({"kmsKeyName": f"{self.kms_key_name}/cryptoKeyVersions/1"} if self.kms_key_name else {})


@dataclass
class Session:
    """A resumable upload."""

    bucket: str
    name: str
    about: dict[str, Any]
    size: int | None
    origin: str | None
    only_if_generation: int | None
    kms_key_name: str | None = None
    data: bytearray = field(default_factory=bytearray)
    state: str = "open"  # or made, cancelled, expired, failed
    made: Blob | None = None


@dataclass
class Rewrite:
    """A copy that takes several calls, bound to what it was begun with."""

    terms: tuple[object, ...]
    rewritten: int = 0


class State:
    """Everything, behind one lock."""

    def __init__(self) -> None:
        self.lock = RLock()
        self.objects: dict[str, dict[str, Blob]] = {}
        self.cors: dict[str, list[dict[str, Any]]] = {}
        self.sessions: dict[str, Session] = {}
        self.rewrites: dict[str, Rewrite] = {}
        self._generations = count(1_700_000_000_000_000)

    def add_bucket(self, name: str) -> None:
        self.objects[name] = {}

    def in_bucket(self, bucket: str) -> dict[str, Blob]:
        try:
            return self.objects[bucket]
        except KeyError:
            raise Refusal(404, "notFound", "The specified bucket does not exist.") from None

    def find(self, bucket: str, name: str, generation: int | None = None) -> Blob:
        blob = self.in_bucket(bucket).get(name)
        if blob is None or generation not in (None, blob.generation):
            raise Refusal(404, "notFound", f"No such object: {bucket}/{name}")
        return blob

    def require_generation(self, bucket: str, name: str, wanted: int | None) -> None:
        """412 unless the object is of this generation; 0 means that there must be none."""
        standing = self.in_bucket(bucket).get(name)
        if wanted is not None and wanted != (standing.generation if standing else 0):
            raise Refusal(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")

    def write(
        self,
        bucket: str,
        name: str,
        data: bytes,
        about: Mapping[str, Any],
        *,
        only_if_generation: int | None = None,
        kms_key_name: str | None = None,
    ) -> Blob:
        with self.lock:
            self.require_generation(bucket, name, only_if_generation)
            kept = {key: about[key] for key in KEPT_ABOUT_AN_OBJECT if about.get(key)}
            blob = Blob(bucket, name, data, next(self._generations), kept, kms_key_name)
            self.in_bucket(bucket)[name] = blob
            return blob

    def remove(self, bucket: str, name: str, only_if_generation: int | None) -> None:
        with self.lock:
            self.find(bucket, name)
            self.require_generation(bucket, name, only_if_generation)
            del self.in_bucket(bucket)[name]

    def open_session(self, session: Session) -> str:
        self.in_bucket(session.bucket)
        upload_id = uuid.uuid4().hex * 3
        self.sessions[upload_id] = session
        return upload_id
