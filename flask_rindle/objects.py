"""Objects under bare keys, in the storage of a profile: for files that are no uploads of anybody."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

from flask_rindle.errors import MalformedRequest, StorageError, UploadUnsupported
from flask_rindle.profiles import Profile, ProfileRegistry
from flask_rindle.security.mime import canonical_type
from flask_rindle.storage.base import PresignedUpload, PresignsPut, PutTerms, Storage, StoredObject, require
from flask_rindle.types import Checksum, life

log = logging.getLogger("flask_rindle.objects")

ProfileLike = type[Profile] | str


class Objects:
    """The verbs of storages, by profile. Nothing here is checked against the profile, and no row is written."""

    def __init__(self, profiles: ProfileRegistry, storages: Mapping[str, Storage], url_ttl: timedelta) -> None:
        self._profiles = profiles
        self._storages = storages
        self._url_ttl = url_ttl

    def storage_for(self, profile: ProfileLike) -> Storage:
        """The storage that new uploads of a profile go to."""
        return self._storages[self._profiles.get(profile).storage]

    def store(self, profile: ProfileLike, key: str, file: BinaryIO, *, content_type: str | None = None) -> StoredObject:
        """Store everything that `file` gives, replacing what was there."""
        public = self._profiles.get(profile).public
        return self.storage_for(profile).put(_text(key), file, content_type=content_type, public=public)

    def store_variant(
        self,
        profile: ProfileLike,
        key: str,
        file: BinaryIO,
        *,
        asset: object,
        name: str,
        content_type: str | None = None,
    ) -> StoredObject:
        """As `store`; a failure is logged with the asset and the variant that the object belongs to."""
        try:
            return self.store(profile, key, file, content_type=content_type)
        except StorageError as error:
            log.warning("variant %r of asset %s was not stored: %s", name, asset, error)
            raise

    def presigned_put(
        self,
        profile: ProfileLike,
        key: str,
        *,
        byte_size: int,
        content_type: str | None = None,
        checksum: str | Checksum | None = None,
        expires_in: int | None = None,
    ) -> PresignedUpload:
        """A URL to PUT just these bytes at; `expires_in` in seconds. Raises UploadUnsupported, MalformedRequest."""
        if type(byte_size) is not int or byte_size < 0:
            raise MalformedRequest("byte_size", "must be a whole number of bytes")
        if content_type is not None and not isinstance(content_type, str):
            raise MalformedRequest("content_type", "must be text")
        terms = PutTerms(
            expires_in=self._url_ttl if expires_in is None else life("expires_in", expires_in),
            content_type=canonical_type(content_type),
            size_bytes=byte_size,
            checksum=Checksum.of(checksum),
        )
        return require(self.storage_for(profile), PresignsPut, UploadUnsupported).presign_put(_text(key), terms)

    def download(self, profile: ProfileLike, key: str, path: Path) -> StoredObject:
        """Write an object into a new file, and tell which version it was. Raises ObjectNotFound."""
        return self.storage_for(profile).save_to(_text(key), Path(path))

    def head(self, profile: ProfileLike, key: str) -> StoredObject:
        """Size, etag and type of an object. Raises ObjectNotFound."""
        return self.storage_for(profile).stat(_text(key))

    def delete(self, profile: ProfileLike, key: str) -> None:
        """Remove an object; no error when there is none."""
        self.storage_for(profile).delete(_text(key))


def _text(key: object) -> str:
    if not isinstance(key, str):
        raise MalformedRequest("key", "must be text")
    return key
