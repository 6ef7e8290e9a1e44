"""Google Cloud Storage: signed URLs, uploads that resume, and conditions on generations.

An etag here is the generation of the object, which changes with every write and never with what is written about it.
Without the key of a service account nothing can be signed here, so those abilities are not declared then.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import parse_qs, quote, urlsplit

from flask_rindle.errors import (
    CapabilityMissing,
    MalformedRequest,
    MissingExtra,
    ObjectChanged,
    ObjectNotFound,
    StorageUnavailable,
)
from flask_rindle.security.mime import OCTET_STREAM
from flask_rindle.security.names import content_disposition
from flask_rindle.security.origins import check_origin
from flask_rindle.storage.base import (
    Capability,
    ConfiguresCors,
    LinkTerms,
    PresignedUpload,
    PresignsPut,
    Promotes,
    PutTerms,
    ResumableProgress,
    ResumableStart,
    Storage,
    StoredObject,
    UploadsResumably,
    UploadTerms,
    check_key,
)
from flask_rindle.storage.gcs_options import FARTHEST, Options, checked_options
from flask_rindle.types import ByteRange, utcnow

if TYPE_CHECKING:
    from flask_rindle.storage.gcs_bucket import Bucket

WEEK = timedelta(days=7)
OVERWRITES = 5  # how often an object may be overwritten under our hands before we give up
CORS_METHODS = ("GET", "HEAD", "PUT", "POST")
CORS_HEADERS = (
    "Content-Type",
    "Content-Range",
    "Content-Length",
    "Range",
    "ETag",
    "Location",
    "Retry-After",
    "X-Upload-Content-Type",
    "X-Upload-Content-Length",
    "x-goog-content-length-range",
    "x-goog-if-generation-match",
    "x-goog-generation",
    "x-goog-hash",
    "x-goog-resumable",
    "x-goog-stored-content-length",
)


class GCS(Storage, PresignsPut, UploadsResumably, Promotes, ConfiguresCors):
    """Objects in a bucket of Google Cloud Storage."""

    capabilities = frozenset(
        {
            Capability.SIGNED_URL,
            Capability.PUBLIC_URL,
            Capability.PRESIGNED_PUT,
            Capability.RESUMABLE_UPLOAD,
            Capability.PROMOTE,
            Capability.CORS,
        }
    )
    longest_url = WEEK

    def __init__(
        self,
        name: str,
        *,
        bucket: str,
        credentials: Mapping[str, object] | str | os.PathLike[str] | None = None,
        project: str | None = None,
        endpoint_url: str | None = None,
        public_base_url: str | None = None,
        kms_key_name: str | None = None,
        storage_class: str | None = None,
    ) -> None:
        """`credentials`: the key of a service account, as a dict or a path; None for the environment's own."""
        super().__init__(name)
        options = checked_options(
            bucket=bucket,
            credentials=credentials,
            project=project,
            endpoint_url=endpoint_url,
            public_base_url=public_base_url,
            kms_key_name=kms_key_name,
            storage_class=storage_class,
        )
        self.capabilities = GCS.capabilities - _lacking(options)
        self._public_base_url = options.public_base_url
        self._bucket = _bucket(name, options)

    def put(self, key: str, source: BinaryIO, *, content_type: str | None = None, public: bool = False) -> StoredObject:
        """Store everything that `source` gives, in bounded memory. Its own errors pass unchanged."""
        terms = UploadTerms(content_type=content_type or OCTET_STREAM, size_bytes=None, public=public)
        return self._bucket.put(self._check(key), source, terms)

    def read(self, key: str, byte_range: ByteRange | None = None) -> Iterator[bytes]:
        """The bytes in bounded chunks, of the version that stood there at the call."""
        self._check(key)
        wanted = byte_range or ByteRange(0)
        if wanted.start == wanted.stop or wanted.start > FARTHEST:
            self._bucket.objects.stat(key)
            return iter(())
        return iter(self._bucket.download(key, wanted))

    def stat(self, key: str) -> StoredObject:
        """Size, generation and type. Raises ObjectNotFound."""
        return self._bucket.objects.stat(self._check(key)).stored

    def delete(self, key: str) -> None:
        """Remove the object; no error when there is none."""
        self._bucket.objects.delete(self._check(key))

    def save_to(self, key: str, path: Path) -> StoredObject:
        """Copy the object into a new file at `path`; the answer is about exactly these bytes."""
        stored, chunks = self._open_known(self._check(key))
        with path.open("xb") as target:
            try:
                target.writelines(chunks)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
        return stored

    def url(self, key: str, terms: LinkTerms) -> str:
        """A signed URL of Google, or a plain one under `public_base_url`; either made without a request."""
        self._check(key)
        if terms.expires_in is None:
            self._require(Capability.PUBLIC_URL)
            return f"{self._public_base_url}/{quote(key, safe='/~')}"
        self._require(Capability.SIGNED_URL)
        return self._bucket.objects.sign(
            "GET",
            key,
            _signable(terms.expires_in),
            response_type=terms.content_type,
            response_disposition=content_disposition(terms.disposition, terms.filename),
        )

    def presign_put(self, key: str, terms: PutTerms) -> PresignedUpload:
        """A URL that takes so many bytes of this type, once: a second PUT is answered 412.

        Google compares no SHA-256, so `terms.checksum` is not bound; whoever verifies the upload compares it.
        """
        self._check(key)
        self._require(Capability.PRESIGNED_PUT)
        headers = {
            "Content-Type": terms.content_type,
            "x-goog-content-length-range": f"{terms.size_bytes},{terms.size_bytes}",
            "x-goog-if-generation-match": "0",
        }
        expires_in = _signable(terms.expires_in)
        expires_at = utcnow().replace(microsecond=0) + expires_in
        url = self._bucket.objects.sign("PUT", key, expires_in, headers=dict(headers))
        return PresignedUpload(url=url, headers=headers, expires_at=expires_at)

    def start_resumable(self, key: str, terms: UploadTerms, *, origin: str | None = None) -> ResumableStart:
        """Begin an upload, whose last request fails when something stands under the key by then."""
        expires_at = utcnow() + WEEK
        uri = self._bucket.objects.start_session(self._check(key), terms, origin=origin, only_new=True)
        upload_id = parse_qs(urlsplit(uri).query).get("upload_id", [uri])[0]
        return ResumableStart(uri=uri, upload_id=upload_id, expires_at=expires_at)

    def resumable_progress(self, key: str, uri: str) -> ResumableProgress:
        """How far it is, in Google's own words; EXPIRED when it knows the upload no more."""
        return self._bucket.progress(self._check(key), uri)

    def cancel_resumable(self, key: str, uri: str) -> None:
        """Remove what has come in, and refuse what still comes; quiet when the upload is over."""
        self._bucket.cancel(self._check(key), uri)

    def promote(
        self, source_key: str, target_key: str, *, etag: str, content_type: str | None = None, public: bool = False
    ) -> StoredObject:
        """Move the object if its etag is still `etag`; safe against late writers and a second promoter.

        The copy notes which generation it was made from, so a repeated call knows it, and is made under conditions
        on both ends, so bytes that were not compared never stand at the target.
        """
        self._check(source_key)
        self._check(target_key)
        for _ in range(OVERWRITES):
            standing = self._bucket.objects.find(target_key)
            if standing is not None and standing.source_etag == etag:
                self._bucket.objects.delete(source_key, etag=etag)
                return standing.stored
            source = self._unchanged(source_key, etag)
            with suppress(ObjectChanged, ObjectNotFound):  # to look again: which of the two it was is not said
                over = standing.stored if standing else None
                typed = replace(source, content_type=content_type or source.content_type)
                promoted = self._bucket.objects.copy(typed, target_key, public=public, over=over)
                self._bucket.objects.delete(source_key, etag=etag)
                return promoted
        raise StorageUnavailable(self.name, target_key)

    def cors_rules(self, origins: Sequence[str]) -> list[dict[str, object]]:
        """What these origins need, as `gcloud storage buckets update --cors-file` takes it."""
        return [
            {
                "origin": [check_origin(origin) for origin in origins],
                "method": list(CORS_METHODS),
                "responseHeader": list(CORS_HEADERS),
                "maxAgeSeconds": 3600,
            }
        ]

    def apply_cors(self, origins: Sequence[str]) -> None:
        """Replace the bucket's rules by these. Needs `storage.buckets.update`."""
        self._bucket.objects.set_cors(self.cors_rules(origins) if origins else [])

    def close(self) -> None:
        """Let go of connections; the storage is not used afterwards."""
        self._bucket.close()

    def _check(self, key: str) -> str:
        return check_key(self.name, key)

    def _require(self, capability: Capability) -> None:
        if capability not in self.capabilities:
            raise CapabilityMissing(f"storage {self.name!r}", capability)

    def _unchanged(self, key: str, etag: str) -> StoredObject:
        found = self.stat(key)
        if found.etag != etag:
            raise ObjectChanged(self.name, key)
        return found

    def _open_known(self, key: str) -> tuple[StoredObject, Iterator[bytes]]:
        """What stands at the key and its bytes, both of one version."""
        for _ in range(OVERWRITES):
            stored = self.stat(key)
            with suppress(ObjectNotFound):  # overwritten between the two steps
                return stored, iter(self._bucket.download(key, ByteRange(0), stored.etag))
        raise StorageUnavailable(self.name, key)


def _bucket(storage: str, options: Options) -> Bucket:
    try:
        from flask_rindle.storage.gcs_bucket import Bucket  # the SDK, which most apps do without
    except ImportError as error:
        raise MissingExtra(f"the storage {storage!r}", "gcs") from error
    return Bucket(storage, options)


def _lacking(options: Options) -> set[Capability]:
    """What cannot be done with these options."""
    lacking = set() if options.key else {Capability.SIGNED_URL, Capability.PRESIGNED_PUT}
    return lacking if options.public_base_url else {*lacking, Capability.PUBLIC_URL}


def _signable(expires_in: timedelta) -> timedelta:
    """The life of a signed URL in whole seconds, at least one."""
    if expires_in > WEEK:
        raise MalformedRequest("expires_in", f"must be at most {int(WEEK.total_seconds())} seconds")
    return max(timedelta(seconds=1), timedelta(seconds=int(expires_in.total_seconds())))
