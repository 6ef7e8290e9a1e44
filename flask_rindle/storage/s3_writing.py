"""Writing to S3: a small object in one request, a large one in parts, whatever the length of its source.

At most four parts of 5 MiB are in memory at once. Parts grow with the object, because there may be 10,000 of
them; those that have grown wait their turn in a temporary file.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from itertools import count
from typing import Any, BinaryIO

from flask_rindle.errors import StorageError, StorageUnavailable, UploadGone
from flask_rindle.storage.base import CHUNK_BYTES, Part
from flask_rindle.storage.s3_bucket import Bucket
from flask_rindle.storage.s3_errors import OF_UPLOADS
from flask_rindle.storage.s3_objects import plain_etag, quoted
from flask_rindle.storage.s3_slices import Slice, slices_of
from flask_rindle.types import MB

SMALLEST_PART = 5 * MB
PARTS_OF_ONE_SIZE = 900
PARTS_BEFORE_GROWTH = 1000
LARGEST_IN_MEMORY = 16 * MB
PARTS_AT_ONCE = 3  # and one that is being read

SLICES_AT_ONCE = 6

Body = bytearray | BinaryIO | Slice

log = logging.getLogger(__name__)


def part_bytes(number: int) -> int:
    """The size of a part: the smallest for 5 GB, and then twice as much every 900 parts, for 8 TB in all."""
    return SMALLEST_PART << max(0, (number - PARTS_BEFORE_GROWTH - 1) // PARTS_OF_ONE_SIZE + 1)


def put_stream(bucket: Bucket, key: str, source: BinaryIO, headers: Mapping[str, str]) -> tuple[int, str]:
    """Store all that the source gives; how many bytes those were, and their etag. Its own errors pass unchanged."""
    slices = slices_of(source)
    if len(slices) > 1:
        stored = PartedPut(bucket, key, headers).send(iter(slices), lambda _: SLICES_AT_ONCE)
        source.seek(0, os.SEEK_END)
        return stored
    first = read_part(source, part_bytes(1))
    second = read_part(source, part_bytes(2)) if size_of(first) == part_bytes(1) else bytearray()
    if not size_of(second):
        answer = bucket.call("put_object", key, {"Body": first, **headers})
        return size_of(first), plain_etag(answer)
    return PartedPut(bucket, key, headers).send(_bodies(deque((first, second)), source), _parts_in_memory)


def _bodies(ahead: deque[Body], source: BinaryIO) -> Iterator[Body]:
    """The parts that were read ahead, and the rest of the source; none is kept here."""
    for number in count(1):
        body = ahead.popleft() if ahead else read_part(source, part_bytes(number))
        if not size_of(body):
            return
        yield body
        del body


def _parts_in_memory(number: int) -> int:
    return max(1, PARTS_AT_ONCE * SMALLEST_PART // part_bytes(number))


def read_part(source: BinaryIO, size: int) -> Body:
    """Up to `size` bytes, however little the source gives at a time."""
    if size > LARGEST_IN_MEMORY:
        return _spill(source, size)
    part = bytearray()
    while len(part) < size and (chunk := source.read(min(CHUNK_BYTES, size - len(part)))):
        part += chunk
    return part


def _spill(source: BinaryIO, size: int) -> Body:
    part = tempfile.TemporaryFile()  # noqa: SIM115 - closed by whoever has sent it
    try:
        while part.tell() < size and (chunk := source.read(min(CHUNK_BYTES, size - part.tell()))):
            part.write(chunk)
    except BaseException:
        part.close()
        raise
    if not part.tell():
        part.close()
        return bytearray()
    part.seek(0)
    return part


def size_of(body: Body) -> int:
    """How many bytes a part has; one in a file is at its beginning."""
    if isinstance(body, bytearray):
        return len(body)
    size = body.seek(0, 2)
    body.seek(0)
    return size


def start(bucket: Bucket, key: str, headers: Mapping[str, Any]) -> str:
    """Begin an upload; its id."""
    began = time.monotonic()
    answer = bucket.call("create_multipart_upload", key, headers)
    upload_id = str(answer["UploadId"])
    if answer["ResponseMetadata"].get("RetryAttempts"):
        _abort_unanswered(bucket, key, upload_id, timedelta(seconds=time.monotonic() - began + 1))
    return upload_id


def _abort_unanswered(bucket: Bucket, key: str, upload_id: str, lately: timedelta) -> None:
    """Remove uploads that the SDK began before it had an answer: those of the time that it took."""
    uploads = list(uploads_under(bucket, key))
    begun = {upload["UploadId"]: upload["Initiated"] for upload in uploads}
    for other, when in begun.items():
        if other != upload_id and upload_id in begun and when >= begun[upload_id] - lately:
            abort_quietly(bucket, key, other)


def send_part(bucket: Bucket, key: str, upload_id: str, number: int, body: Body) -> Part:
    """Send one part, and let go of it. Raises UploadGone."""
    try:
        size = size_of(body)
        params = {"UploadId": upload_id, "PartNumber": number, "Body": body, "ContentLength": size}
        answer = bucket.call("upload_part", key, params, meanings=OF_UPLOADS)
    finally:
        if not isinstance(body, bytearray):
            body.close()
    return Part(number=number, size_bytes=size, etag=plain_etag(answer))


def complete(bucket: Bucket, key: str, upload_id: str, parts: Sequence[Part]) -> str:
    """Put the parts together; the etag of the whole. Raises UploadGone and PartsRefused."""
    named = [{"PartNumber": part.number, "ETag": quoted(part.etag)} for part in parts]
    params = {"UploadId": upload_id, "MultipartUpload": {"Parts": named}}
    try:
        return plain_etag(bucket.call("complete_multipart_upload", key, params, meanings=OF_UPLOADS))
    except StorageUnavailable:
        # It may have had its way before the answer was lost; and Ceph calls an upload that is over an internal error.
        bucket.call("list_parts", key, {"UploadId": upload_id, "MaxParts": 1}, meanings=OF_UPLOADS)
        raise


def complete_marked(bucket: Bucket, key: str, upload_id: str, parts: Sequence[Part], mark: Mapping[str, str]) -> str:
    """Put the parts together; the etag of what was begun with the metadata `mark`, also when the reply was lost."""
    try:
        etag = complete(bucket, key, upload_id, parts)
    except UploadGone:  # the SDK may have asked again after the first request had its way
        etag = ""
    if etag:  # Ceph does not tell it
        return etag
    head = bucket.find(key)
    if head is None or not mark.items() <= head.get("Metadata", {}).items():
        raise StorageUnavailable(bucket.storage, key)
    return plain_etag(head)


def abort(bucket: Bucket, key: str, upload_id: str) -> None:
    """Remove the parts; quiet when the upload is over."""
    with suppress(UploadGone):
        bucket.call("abort_multipart_upload", key, {"UploadId": upload_id}, meanings=OF_UPLOADS)


def abort_all(bucket: Bucket, key: str) -> None:
    """Remove the parts of every upload under the key."""
    for upload in list(uploads_under(bucket, key)):
        abort(bucket, key, upload["UploadId"])


def uploads_under(bucket: Bucket, key: str) -> Iterator[dict[str, Any]]:
    """The uploads under just this key that are not over."""
    place: Mapping[str, str] = {}
    while True:
        with bucket.translate(key):
            page = bucket.client().list_multipart_uploads(Bucket=bucket.options.bucket, Prefix=key, **place)
        yield from (upload for upload in page.get("Uploads", ()) if upload["Key"] == key)
        if not page.get("IsTruncated"):
            return
        place = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}


def abort_quietly(bucket: Bucket, key: str, upload_id: str) -> None:
    """Remove the parts while another error is on its way, which this one does not replace."""
    try:
        abort(bucket, key, upload_id)
    except StorageError as error:
        log.warning("The parts of %s could not be removed: %s", key, error)


class PartedPut:
    """One object on its way in parts, under a mark by which it is known when it has arrived."""

    def __init__(self, bucket: Bucket, key: str, headers: Mapping[str, str]) -> None:
        self._bucket = bucket
        self._key = key
        self._mark = {"rindle-put": uuid.uuid4().hex}
        marked = {**headers, "Metadata": self._mark}
        self._upload_id = start(bucket, key, marked)

    def send(self, bodies: Iterator[Body], at_once: Callable[[int], int]) -> tuple[int, str]:
        """Send these parts; size and etag. Leaves nothing behind when it fails.

        `at_once`: how many may be on their way when the part of a number is about to follow.
        """
        try:
            parts = self._send_all(bodies, at_once)
            return sum(part.size_bytes for part in parts), self._complete(parts)
        except BaseException:
            abort_quietly(self._bucket, self._key, self._upload_id)
            raise

    def _send_all(self, bodies: Iterator[Body], at_once: Callable[[int], int]) -> list[Part]:
        sent: list[Part] = []
        sending: deque[Future[Part]] = deque()
        with ThreadPoolExecutor(at_once(1), "rindle-put") as threads:
            try:
                for number in count(1):
                    while len(sending) >= at_once(number):
                        sent.append(sending.popleft().result())
                    body = next(bodies, None)
                    if body is None:
                        break
                    sending.append(threads.submit(self._send, number, body))
                    del body
                return sent + [future.result() for future in sending]
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise

    def _send(self, number: int, body: Body) -> Part:
        return send_part(self._bucket, self._key, self._upload_id, number, body)

    def _complete(self, parts: Sequence[Part]) -> str:
        return complete_marked(self._bucket, self._key, self._upload_id, parts, self._mark)
