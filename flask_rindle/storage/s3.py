"""A bucket of S3, or of a server that speaks its language, as storage. Needs `flask-rindle[s3]`.

Clients send to the bucket and read from it by themselves, at signed URLs. The server's own calls are
requests with a signed header, so no URL that could be replayed is in a log.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from flask_rindle.errors import CapabilityMissing, ObjectNotFound, PartsRefused, TooLarge, UploadGone
from flask_rindle.security.names import content_disposition
from flask_rindle.security.origins import check_origin
from flask_rindle.storage.base import (
    Capability,
    ConfiguresCors,
    LinkTerms,
    Part,
    PresignedUpload,
    PresignsPut,
    Promotes,
    PutTerms,
    Storage,
    StoredObject,
    UploadsParts,
    UploadTerms,
)
from flask_rindle.storage.s3_bucket import Bucket
from flask_rindle.storage.s3_errors import OF_UPLOADS
from flask_rindle.storage.s3_moving import Move
from flask_rindle.storage.s3_objects import object_headers, plain_etag, stored_object
from flask_rindle.storage.s3_options import S3Options
from flask_rindle.storage.s3_reading import read_range, save
from flask_rindle.storage.s3_signing import LONGEST, presign, put_params, sent_headers, whole_seconds
from flask_rindle.storage.s3_writing import abort, abort_all, complete, put_stream, read_part, send_part, start
from flask_rindle.types import GB, ByteRange

LARGEST_PUT_BYTES = 5 * GB
PREFLIGHT_SECONDS = 3600
LIST_PAGE = 1000


class S3(Storage, PresignsPut, UploadsParts, Promotes, ConfiguresCors):
    """Objects in a bucket, of S3 or of a server that speaks its language."""

    capabilities = frozenset(
        {
            Capability.SIGNED_URL,
            Capability.PRESIGNED_PUT,
            Capability.MULTIPART_UPLOAD,
            Capability.PROMOTE,
            Capability.CORS,
        }
    )
    longest_url = LONGEST
    largest_put_bytes = LARGEST_PUT_BYTES

    def __init__(
        self,
        name: str,
        *,
        bucket: str,
        region: str | None = None,
        endpoint_url: str | None = None,
        public_endpoint: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        session_token: str | None = None,
        path_style: bool | None = None,
        server_side_encryption: str | None = None,
        kms_key_id: str | None = None,
        storage_class: str | None = None,
        public_base_url: str | None = None,
        if_none_match: bool = True,
    ) -> None:
        """Connects to nothing. Raises ValueError or TypeError, which say what to write, and MissingExtra.

        `public_endpoint`: the address under which browsers know the server. `public_base_url`: where everybody
        may read, such as a CDN in front of the bucket. `if_none_match`: whether the server takes `If-None-Match: *`
        on a PUT.
        """
        super().__init__(name)
        options = S3Options(
            bucket=bucket,
            region=region,
            endpoint_url=endpoint_url,
            public_endpoint=public_endpoint,
            access_key_id=access_key_id,
            secret_access_key=secret_access_key,
            session_token=session_token,
            path_style=path_style,
            server_side_encryption=server_side_encryption,
            kms_key_id=kms_key_id,
            storage_class=storage_class,
            public_base_url=public_base_url,
            if_none_match=if_none_match,
        )
        self.bucket = Bucket(name, options)
        if public_base_url is not None:
            self.capabilities = self.capabilities | {Capability.PUBLIC_URL}

    def put(self, key: str, source: BinaryIO, *, content_type: str | None = None, public: bool = False) -> StoredObject:
        """Store everything that `source` gives, in parts where it is large. Its own errors pass unchanged."""
        headers = self._headers(self._check(key), content_type, public=public)
        size, etag = put_stream(self.bucket, key, source, headers)
        return StoredObject(key=key, size_bytes=size, etag=etag, content_type=content_type)

    def read(self, key: str, byte_range: ByteRange | None = None) -> Iterator[bytes]:
        """The bytes in bounded chunks, of the version that stood there at the call."""
        return read_range(self.bucket, self._check(key), byte_range or ByteRange(0))

    def stat(self, key: str) -> StoredObject:
        """Size, etag and type. Raises ObjectNotFound."""
        return stored_object(key, self.bucket.head(self._check(key)))

    def delete(self, key: str) -> None:
        """Remove the object; no error when there is none."""
        try:
            self.bucket.call("delete_object", self._check(key))
        except ObjectNotFound:  # S3 itself says nothing of the sort, other servers may
            return

    def save_to(self, key: str, path: Path) -> StoredObject:
        """Write one version into a new file at `path`, in pieces at once; leaves no file behind when it fails."""
        return save(self.bucket, self._check(key), path)

    def url(self, key: str, terms: LinkTerms) -> str:
        """A signed URL of the bucket, or for a permanent one the public address. Asks no server."""
        self._check(key)
        if terms.expires_in is None:
            return self._public_url(key)
        seconds = whole_seconds(terms.expires_in)
        params = {
            "ResponseContentType": terms.content_type,
            "ResponseContentDisposition": content_disposition(terms.disposition, terms.filename),
            "ResponseCacheControl": f"private, max-age={seconds}, immutable",
        }
        return self.bucket.sign("get_object", key, params, seconds)

    def presign_put(self, key: str, terms: PutTerms) -> PresignedUpload:
        """A URL that takes just these bytes; TooLarge where S3 takes them in parts only."""
        self._check(key)
        if terms.size_bytes > self.largest_put_bytes:
            raise TooLarge(self.largest_put_bytes, terms.size_bytes)
        return presign(self.bucket, "put_object", key, put_params(self.bucket, terms), terms.expires_in)

    def start_parts(self, key: str, terms: UploadTerms) -> str:
        """Begin an upload; its id at the server."""
        headers = self._headers(self._check(key), terms.content_type, public=terms.public)
        return start(self.bucket, key, headers)

    def presign_part(
        self, key: str, upload_id: str, number: int, *, size_bytes: int, expires_in: timedelta
    ) -> PresignedUpload:
        """A URL that takes this part, of just this size."""
        params = {"UploadId": upload_id, "PartNumber": number, "ContentLength": size_bytes}
        return presign(self.bucket, "upload_part", self._check(key), params, expires_in)

    def put_part(self, key: str, upload_id: str, number: int, source: BinaryIO, *, size_bytes: int) -> Part:
        """Send a part from here, replacing one of the same number. Errors of the source pass unchanged."""
        self._check(key)
        return send_part(self.bucket, key, upload_id, number, read_part(source, size_bytes))

    def list_parts(self, key: str, upload_id: str) -> list[Part]:
        """The parts that the server has, by number."""
        return sorted(self._each_part(self._check(key), upload_id), key=lambda part: part.number)

    def complete_parts(self, key: str, upload_id: str, parts: Sequence[Part]) -> StoredObject:
        """Put these parts together; what stands under the key afterwards, also when that was done before."""
        self._check(key)
        numbers = [part.number for part in parts]
        if not numbers or numbers != sorted(set(numbers)):  # some servers sort them by themselves
            raise PartsRefused(self.name, key)
        try:
            complete(self.bucket, key, upload_id, parts)
        except UploadGone:
            return self._completed_before(key, parts)
        return self.stat(key)

    def abort_parts(self, key: str, upload_id: str | None) -> None:
        """Remove what has come in, of every upload under the key for None; quiet when it is over."""
        self._check(key)
        if upload_id is None:
            abort_all(self.bucket, key)
        else:
            abort(self.bucket, key, upload_id)

    def promote(
        self, source_key: str, target_key: str, *, etag: str, content_type: str | None = None, public: bool = False
    ) -> StoredObject:
        """Move the object if its etag is still `etag`. A repeated call returns the same answer."""
        move = Move(
            bucket=self.bucket,
            source_key=self._check(source_key),
            target_key=self._check(target_key),
            etag=etag,
            content_type=content_type,
            public=public,
        )
        return move.run()

    def cors_rules(self, origins: Sequence[str]) -> dict[str, object]:
        """What these origins need, as `aws s3api put-bucket-cors` takes it. Raises ValueError for what is no origin."""
        rule = {
            "AllowedOrigins": [check_origin(origin) for origin in origins],
            "AllowedMethods": ["PUT", "GET", "HEAD"],
            "AllowedHeaders": [*sent_headers(self.bucket), "range"],
            "ExposeHeaders": ["ETag", "Content-Range", "Content-Length", "Retry-After"],
            "MaxAgeSeconds": PREFLIGHT_SECONDS,
        }
        return {"CORSRules": [rule]}

    def apply_cors(self, origins: Sequence[str]) -> None:
        """Replace the bucket's rules by these."""
        rules, bucket = self.cors_rules(origins), self.bucket.options.bucket
        with self.bucket.translate(bucket):
            self.bucket.client().put_bucket_cors(Bucket=bucket, CORSConfiguration=rules)

    def close(self) -> None:
        """Close the connections."""
        self.bucket.close()

    def _check(self, key: str) -> str:
        return self.bucket.check(key)

    def _headers(self, key: str, content_type: str | None, *, public: bool) -> dict[str, Any]:
        return {**object_headers(key, content_type, public=public), **self.bucket.options.for_objects}

    def _public_url(self, key: str) -> str:
        base = self.bucket.options.public_base_url
        if base is None:
            raise CapabilityMissing(f"storage {self.name!r}", Capability.PUBLIC_URL)
        return f"{base.rstrip('/')}/{quote(key, safe='/~')}"

    def _each_part(self, key: str, upload_id: str) -> Iterator[Part]:
        place: Mapping[str, Any] = {}
        while True:
            params = {"UploadId": upload_id, "MaxParts": LIST_PAGE, **place}
            page = self.bucket.call("list_parts", key, params, meanings=OF_UPLOADS)
            for part in page.get("Parts", ()):
                yield Part(number=part["PartNumber"], size_bytes=part["Size"], etag=plain_etag(part))
            if not page.get("IsTruncated"):
                return
            place = {"PartNumberMarker": page["NextPartNumberMarker"]}

    def _completed_before(self, key: str, parts: Sequence[Part]) -> StoredObject:
        try:
            stored = self.stat(key)
        except ObjectNotFound:
            raise UploadGone(self.name, key) from None
        if stored.size_bytes != sum(part.size_bytes for part in parts):
            raise UploadGone(self.name, key)
        return stored
