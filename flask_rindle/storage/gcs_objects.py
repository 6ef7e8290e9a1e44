"""What is asked of Google's client about objects, each a short call whose failures are StorageErrors."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from flask_rindle.errors import ObjectChanged, ObjectNotFound
from flask_rindle.security.mime import OCTET_STREAM, may_show_inline
from flask_rindle.security.names import is_staged
from flask_rindle.storage import gcs_connection
from flask_rindle.storage.base import StoredObject, UploadTerms
from flask_rindle.storage.gcs_errors import translate

SOURCE = "rindle-source"  # metadata of a promoted object: the generation that it was made from


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands under a key, and of which generation of another object it was made, if of one."""

    stored: StoredObject
    source_etag: str | None


class Objects:
    """The objects of one bucket."""

    def __init__(self, storage: str, connection: gcs_connection.Connection) -> None:
        self._storage = storage
        self._connection = connection

    def stat(self, key: str) -> Standing:
        """What stands there. Raises ObjectNotFound."""
        blob = self._connection.blob(key)
        with translate(self._storage, key):
            blob.reload(timeout=gcs_connection.TIMEOUT, retry=gcs_connection.RETRY)
        return Standing(described(key, blob._properties), (blob.metadata or {}).get(SOURCE))  # noqa: SLF001

    def find(self, key: str) -> Standing | None:
        """What stands there, or None."""
        try:
            return self.stat(key)
        except ObjectNotFound:
            return None

    def delete(self, key: str, *, etag: str | None = None) -> None:
        """Remove the object, if it is the one of `etag`; quiet when it is not, or there is none."""
        blob = self._connection.blob(key)
        with suppress(ObjectNotFound, ObjectChanged), translate(self._storage, key):
            blob.delete(
                if_generation_match=int(etag) if etag else None,
                timeout=gcs_connection.TIMEOUT,
                retry=gcs_connection.RETRY,
            )

    def copy(self, source: StoredObject, target_key: str, *, public: bool, over: StoredObject | None) -> StoredObject:
        """Copy this very version, over what stands at the target. Raises ObjectChanged when either is another."""
        blob = self._new_blob(target_key, source.content_type, public=public)
        blob.content_type = source.content_type
        blob.metadata = {SOURCE: source.etag}
        original = self._connection.bucket.blob(source.key)
        token = None
        while True:
            with translate(self._storage, source.key):
                token, _, _ = blob.rewrite(
                    original,
                    token=token,
                    if_generation_match=int(over.etag) if over else 0,
                    if_source_generation_match=int(source.etag),
                    timeout=gcs_connection.TIMEOUT,
                    retry=gcs_connection.RETRY,
                )
            if token is None:
                return described(target_key, blob._properties)  # noqa: SLF001

    def create(self, key: str, data: bytes, terms: UploadTerms) -> Mapping[str, Any] | None:
        """The object, made in one request; None when something stands there, which may be what a lost answer told of.

        Without the condition, a request that was given up could still arrive, and overwrite what came after it.
        """
        blob = self._new_blob(key, terms.content_type, public=terms.public)
        with suppress(ObjectChanged), translate(self._storage, key):
            blob.upload_from_file(
                io.BytesIO(data),
                size=len(data),
                content_type=terms.content_type,
                if_generation_match=0,
                checksum="crc32c",
                timeout=gcs_connection.TIMEOUT,
                retry=gcs_connection.RETRY,
            )
            made: Mapping[str, Any] = blob._properties  # noqa: SLF001
            return made
        return None

    def start_session(self, key: str, terms: UploadTerms, *, origin: str | None, only_new: bool) -> str:
        """The URI of a new resumable upload; `only_new`: it fails when something stands there by then."""
        blob = self._new_blob(key, terms.content_type, public=terms.public)
        with translate(self._storage, key):
            uri: str = blob.create_resumable_upload_session(
                content_type=terms.content_type,
                size=terms.size_bytes,
                origin=origin,
                if_generation_match=0 if only_new else None,
                timeout=gcs_connection.TIMEOUT,
                retry=gcs_connection.RETRY,
            )
        return uri

    def sign(self, method: str, key: str, expires_in: timedelta, **more: object) -> str:
        """A V4 signed URL, made without a request."""
        url: str = self._connection.blob(key).generate_signed_url(
            version="v4",
            method=method,
            expiration=expires_in,
            api_access_endpoint=self._connection.options.endpoint,
            credentials=self._connection.signer,
            **more,
        )
        return url

    def set_cors(self, rules: Sequence[Mapping[str, object]]) -> None:
        """Replace the bucket's rules for other origins."""
        bucket = self._connection.bucket
        bucket.cors = rules
        with translate(self._storage, bucket.name):
            bucket.patch(timeout=gcs_connection.TIMEOUT, retry=gcs_connection.RETRY)

    def _new_blob(self, key: str, content_type: str | None, *, public: bool) -> Any:
        """A handle that carries what is kept beside the bytes."""
        blob = self._connection.blob(key)
        if not may_show_inline(content_type or OCTET_STREAM):
            blob.content_disposition = "attachment"
        if not is_staged(key):
            blob.cache_control = f"{'public' if public else 'private'}, max-age=31536000, immutable"
            if self._connection.options.storage_class:
                blob.storage_class = self._connection.options.storage_class
        return blob


def described(key: str, properties: Mapping[str, Any]) -> StoredObject:
    """The object as Google's JSON tells of it."""
    return StoredObject(
        key=key,
        size_bytes=int(properties["size"]),
        etag=str(properties["generation"]),
        content_type=properties.get("contentType"),
    )
