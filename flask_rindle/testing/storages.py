"""Storages in memory with the abilities of the large ones, for tests of uploads that never meet a network.

Their signed URLs lead nowhere: a test sends bytes with `put_part` and `send`.
"""

from __future__ import annotations

import hashlib
import io
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Lock
from typing import BinaryIO

from flask_rindle.errors import PartsRefused, UploadGone
from flask_rindle.storage.base import (
    Part,
    PresignedUpload,
    ResumableProgress,
    ResumableStart,
    ResumableState,
    StoredObject,
    UploadsParts,
    UploadsResumably,
    UploadTerms,
)
from flask_rindle.storage.memory import Memory
from flask_rindle.types import utcnow

RESUMABLE_LIFE = timedelta(days=7)


@dataclass
class _Parts:
    """A multipart upload that is not over."""

    key: str
    terms: UploadTerms
    data: dict[int, tuple[Part, bytes]] = field(default_factory=dict)


class MemoryOfParts(Memory, UploadsParts):
    """Memory that takes multipart uploads."""

    capabilities = Memory.capabilities | {UploadsParts.capability}

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.uploads: dict[str, _Parts] = {}
        self._parts_lock = Lock()

    def start_parts(self, key: str, terms: UploadTerms) -> str:
        """Begin an upload; its id."""
        self._check(key)
        upload_id = uuid.uuid4().hex
        self.uploads[upload_id] = _Parts(key, terms)
        return upload_id

    def presign_part(
        self, key: str, upload_id: str, number: int, *, size_bytes: int, expires_in: timedelta
    ) -> PresignedUpload:
        """A URL that leads nowhere."""
        url = f"https://memory.test/{self._check(key)}?upload={upload_id}&part={number}&size={size_bytes}"
        return PresignedUpload(url=url, headers={}, expires_at=utcnow() + expires_in)

    def put_part(self, key: str, upload_id: str, number: int, source: BinaryIO, *, size_bytes: int) -> Part:
        """Send a part, replacing one of the same number."""
        data = source.read(size_bytes)
        part = Part(number=number, size_bytes=len(data), etag=hashlib.md5(data, usedforsecurity=False).hexdigest())
        with self._upload(key, upload_id) as upload:
            upload.data[number] = (part, data)
        return part

    def list_parts(self, key: str, upload_id: str) -> list[Part]:
        """The parts so far, by number."""
        with self._upload(key, upload_id) as upload:
            return [upload.data[number][0] for number in sorted(upload.data)]

    def complete_parts(self, key: str, upload_id: str, parts: Sequence[Part]) -> StoredObject:
        """Put the parts together. A repeated call after success returns the same answer."""
        try:
            with self._upload(key, upload_id) as upload:
                self._require_whole(key, upload, parts)
                data = b"".join(upload.data[part.number][1] for part in parts)
                stored = self.put(key, io.BytesIO(data), content_type=upload.terms.content_type)
                del self.uploads[upload_id]
                return stored
        except UploadGone:
            standing = self._objects.get(key)
            if standing is None or standing.stored.size_bytes != sum(part.size_bytes for part in parts):
                raise
            return standing.stored

    def abort_parts(self, key: str, upload_id: str | None) -> None:
        """Forget the upload, or every one under the key; quiet when it is over."""
        self._check(key)
        with self._parts_lock:
            for each in [each for each, upload in self.uploads.items() if upload.key == key]:
                if upload_id in (each, None):
                    del self.uploads[each]

    def _require_whole(self, key: str, upload: _Parts, parts: Sequence[Part]) -> None:
        numbers = [part.number for part in parts]
        known = all(upload.data.get(part.number, (None,))[0] == part for part in parts)
        large = all(part.size_bytes >= self.part_limits.smallest_bytes for part in parts[:-1])
        if not parts or not known or not large or numbers != sorted(set(numbers)):
            raise PartsRefused(self.name, key)

    @contextmanager
    def _upload(self, key: str, upload_id: str) -> Iterator[_Parts]:
        self._check(key)
        with self._parts_lock:
            upload = self.uploads.get(upload_id)
            if upload is None or upload.key != key:
                raise UploadGone(self.name, key)
            yield upload


@dataclass
class _Stream:
    """A resumable upload that is not over."""

    key: str
    terms: UploadTerms
    origin: str | None
    data: bytearray = field(default_factory=bytearray)


class ResumableMemory(Memory, UploadsResumably):
    """Memory that takes resumable uploads."""

    capabilities = Memory.capabilities | {UploadsResumably.capability}

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.uploads: dict[str, _Stream] = {}
        self._complete: dict[str, int] = {}

    def start_resumable(self, key: str, terms: UploadTerms, *, origin: str | None = None) -> ResumableStart:
        """Begin an upload."""
        upload_id = uuid.uuid4().hex
        uri = f"https://memory.test/{self._check(key)}?upload_id={upload_id}"
        self.uploads[uri] = _Stream(key, terms, origin)
        return ResumableStart(uri=uri, upload_id=upload_id, expires_at=utcnow() + RESUMABLE_LIFE)

    def resumable_progress(self, key: str, uri: str) -> ResumableProgress:
        """How far it is."""
        self._check(key)
        if uri in self._complete:
            return ResumableProgress(committed_bytes=self._complete[uri], state=ResumableState.COMPLETE)
        if uri in self.uploads:
            return ResumableProgress(committed_bytes=len(self.uploads[uri].data), state=ResumableState.IN_PROGRESS)
        return ResumableProgress(committed_bytes=0, state=ResumableState.EXPIRED)

    def cancel_resumable(self, key: str, uri: str) -> None:
        """Forget the upload; quiet when it is over."""
        self._check(key)
        self.uploads.pop(uri, None)

    def send(self, uri: str, data: bytes, *, last: bool = False) -> None:
        """What a client does: more bytes, and the end of them. Raises UploadGone."""
        stream = self.uploads.get(uri)
        if stream is None:
            raise UploadGone(self.name, uri)
        stream.data += data
        if last:
            self.put(stream.key, io.BytesIO(bytes(stream.data)), content_type=stream.terms.content_type)
            self._complete[uri] = len(self.uploads.pop(uri).data)
