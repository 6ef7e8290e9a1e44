"""Objects in this process, for tests and demos: gone with it, and not shared with another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from threading import Lock
from typing import BinaryIO

from flask_rindle.errors import ObjectChanged, ObjectNotFound
from flask_rindle.storage.base import (
    CHUNK_BYTES,
    Capability,
    LinksThroughApp,
    LinkTerms,
    PresignedUpload,
    PresignsPut,
    Promotes,
    PutTerms,
    Storage,
    StoredObject,
    check_key,
)
from flask_rindle.types import ByteRange


@dataclass(frozen=True, slots=True)
class Held:
    """One version of an object."""

    stored: StoredObject
    data: bytes


class Memory(Storage, PresignsPut, Promotes, LinksThroughApp):
    """A dictionary with the manners of a storage."""

    capabilities = frozenset(
        {Capability.SIGNED_URL, Capability.PUBLIC_URL, Capability.PRESIGNED_PUT, Capability.PROMOTE}
    )

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._lock = Lock()
        self._objects: dict[str, Held] = {}
        self._versions = count(1)

    def put(self, key: str, source: BinaryIO, *, content_type: str | None = None, public: bool = False) -> StoredObject:
        """Store everything that `source` gives. Its own errors pass unchanged."""
        self._check(key)
        data = b"".join(iter(lambda: source.read(CHUNK_BYTES), b""))
        with self._lock:
            etag = str(next(self._versions))
            stored = StoredObject(key=key, size_bytes=len(data), etag=etag, content_type=content_type)
            self._objects[key] = Held(stored, data)
        return stored

    def read(self, key: str, byte_range: ByteRange | None = None) -> Iterator[bytes]:
        """The bytes in bounded chunks, of the version that stood there at the call."""
        wanted = byte_range or ByteRange(0)
        data = self._get(key).data[wanted.start : wanted.stop]
        return (data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES))

    def stat(self, key: str) -> StoredObject:
        """Size, etag and type. Raises ObjectNotFound."""
        return self._get(key).stored

    def delete(self, key: str) -> None:
        """Remove the object; no error when there is none."""
        self._check(key)
        with self._lock:
            self._objects.pop(key, None)

    def url(self, key: str, terms: LinkTerms) -> str:
        """A URL of the app, made without looking whether the object exists."""
        return self.links.file_url(self.name, self._check(key), terms)

    def presign_put(self, key: str, terms: PutTerms) -> PresignedUpload:
        """A URL of the app that takes just these bytes."""
        return self.links.put(self.name, self._check(key), terms)

    def promote(
        self, source_key: str, target_key: str, *, etag: str, content_type: str | None = None, public: bool = False
    ) -> StoredObject:
        """Move the object if its etag is still `etag`. A repeated call returns the same answer."""
        self._check(source_key)
        self._check(target_key)
        with self._lock:
            source, target = self._objects.get(source_key), self._objects.get(target_key)
            if source is not None and source.stored.etag == etag:
                return self._move(source_key, target_key, content_type)
            if target is not None and target.stored.etag == etag:
                return target.stored
        raise (ObjectChanged if source else ObjectNotFound)(self.name, source_key)

    def _move(self, source_key: str, target_key: str, content_type: str | None = None) -> StoredObject:
        held = self._objects.pop(source_key)
        found = content_type or held.stored.content_type
        moved = replace(held, stored=replace(held.stored, key=target_key, content_type=found))
        self._objects[target_key] = moved
        return moved.stored

    def _check(self, key: str) -> str:
        return check_key(self.name, key)

    def _get(self, key: str) -> Held:
        self._check(key)
        with self._lock:
            held = self._objects.get(key)
        if held is None:
            raise ObjectNotFound(self.name, key)
        return held
