"""Moving an object within a bucket under the condition that nobody has rewritten it.

The copy carries the etag of what it was made from, so that a repeated call knows that it has been made.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from flask_rindle.errors import ObjectChanged, ObjectNotFound
from flask_rindle.storage.base import Part, StoredObject
from flask_rindle.storage.s3_bucket import Bucket
from flask_rindle.storage.s3_objects import object_headers, plain_etag, quoted, stored_object
from flask_rindle.storage.s3_writing import abort_quietly, complete_marked, start
from flask_rindle.types import GB

LARGEST_COPY_BYTES = 5 * GB
COPY_PART_BYTES = 1 * GB
COPIES_AT_ONCE = 4
PROOF = "rindle-source"


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One move of one version."""

    bucket: Bucket
    source_key: str
    target_key: str
    etag: str
    content_type: str | None
    public: bool

    def run(self) -> StoredObject:
        """What stands at the target afterwards. Raises ObjectChanged and ObjectNotFound."""
        moved = self._moved_before() or self._copy_or_find()
        self._remove_source()
        return moved

    def _moved_before(self) -> StoredObject | None:
        """The target, if it was made from the version that is asked for."""
        head = self.bucket.find(self.target_key)
        if head is None or head.get("Metadata", {}).get(PROOF) != self.etag:
            return None
        return stored_object(self.target_key, head)

    def _copy_or_find(self) -> StoredObject:
        try:
            return self._copy()
        except (ObjectChanged, ObjectNotFound):
            moved = self._moved_before()  # by somebody who was faster
            if moved is None:
                raise
            return moved

    def _copy(self) -> StoredObject:
        head = self.bucket.head(self.source_key)
        source = stored_object(self.source_key, head)
        self._require_unchanged(source)
        content_type = self.content_type or source.content_type
        headers = {
            **object_headers(self.target_key, content_type, public=self.public),
            **self.bucket.options.for_objects,
            "Metadata": {PROOF: self.etag},
        }
        if source.size_bytes > LARGEST_COPY_BYTES or (source.size_bytes and "-" in self.etag):
            etag = self._copy_parts(source.size_bytes, headers)
        else:
            etag = self._copy_whole(headers, encrypted_with_key="kms" in str(head.get("ServerSideEncryption")))
        return replace(source, key=self.target_key, etag=etag, content_type=content_type)

    def _require_unchanged(self, source: StoredObject) -> None:
        if source.etag != self.etag:
            raise ObjectChanged(self.bucket.storage, self.source_key)

    @property
    def _condition(self) -> dict[str, Any]:
        source = {"Bucket": self.bucket.options.bucket, "Key": self.source_key}
        return {"CopySource": source, "CopySourceIfMatch": quoted(self.etag)}

    def _copy_whole(self, headers: Mapping[str, Any], *, encrypted_with_key: bool) -> str:
        """Not every server heeds the condition: with another etag, of a source that has another by now, it is wrong."""
        params = {**self._condition, **headers, "MetadataDirective": "REPLACE"}
        etag = plain_etag(self.bucket.call("copy_object", self.target_key, params)["CopyObjectResult"])
        is_hash = not encrypted_with_key and "kms" not in str(self.bucket.options.server_side_encryption)
        if is_hash and etag != self.etag and self._is_rewritten():
            if self.target_key != self.source_key:
                self.bucket.call("delete_object", self.target_key)
            raise ObjectChanged(self.bucket.storage, self.source_key)
        return etag

    def _is_rewritten(self) -> bool:
        now = self.bucket.find(self.source_key)
        return now is not None and plain_etag(now) != self.etag

    def _copy_parts(self, size: int, headers: Mapping[str, Any]) -> str:
        """Not every server heeds the condition, so there is another look before the parts become an object."""
        upload_id = start(self.bucket, self.target_key, headers)
        try:
            starts = range(0, size, COPY_PART_BYTES)
            with ThreadPoolExecutor(COPIES_AT_ONCE, "rindle-copy") as threads:
                copying = [
                    threads.submit(self._copy_part, upload_id, number, start, min(start + COPY_PART_BYTES, size))
                    for number, start in enumerate(starts, 1)
                ]
                parts = [future.result() for future in copying]
            self._require_unchanged(stored_object(self.source_key, self.bucket.head(self.source_key)))
            return complete_marked(self.bucket, self.target_key, upload_id, parts, headers["Metadata"])
        except BaseException:
            abort_quietly(self.bucket, self.target_key, upload_id)
            raise

    def _copy_part(self, upload_id: str, number: int, start: int, stop: int) -> Part:
        params = {"UploadId": upload_id, "PartNumber": number, "CopySourceRange": f"bytes={start}-{stop - 1}"}
        answer = self.bucket.call("upload_part_copy", self.target_key, {**self._condition, **params})
        return Part(number=number, size_bytes=stop - start, etag=plain_etag(answer["CopyPartResult"]))

    def _remove_source(self) -> None:
        """Remove the source unless it was rewritten; what comes in between the two steps goes too."""
        if self.source_key == self.target_key:
            return
        head = self.bucket.find(self.source_key)
        if head is not None and plain_etag(head) == self.etag:
            self.bucket.call("delete_object", self.source_key)
