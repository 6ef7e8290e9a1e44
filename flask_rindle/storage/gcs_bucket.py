"""One bucket: its objects, the sessions of its uploads, and the bytes that go in and come out."""

from __future__ import annotations

from typing import BinaryIO

from flask_rindle.errors import StorageUnavailable
from flask_rindle.storage.base import ResumableProgress, StoredObject, UploadTerms
from flask_rindle.storage.gcs_connection import Connection
from flask_rindle.storage.gcs_download import Download
from flask_rindle.storage.gcs_errors import translate
from flask_rindle.storage.gcs_objects import Objects, described
from flask_rindle.storage.gcs_options import Options
from flask_rindle.storage.gcs_sessions import Sessions
from flask_rindle.storage.gcs_upload import Upload
from flask_rindle.types import ByteRange


class Bucket:
    """Everything that needs Google's SDK. Keys are checked by now, and failures leave as StorageErrors."""

    def __init__(self, storage: str, options: Options) -> None:
        self._storage = storage
        self._connection = Connection(options)
        self._sessions = Sessions(self._connection)
        self.objects = Objects(storage, self._connection)

    def put(self, key: str, source: BinaryIO, terms: UploadTerms) -> StoredObject:
        """Store all that `source` gives, replacing what was there."""
        upload = Upload(self._storage, key, self._sessions)
        made = upload.send(
            source,
            lambda: self.objects.start_session(key, terms, origin=None, only_new=False),
            lambda data: self.objects.create(key, data, terms),
        )
        stored = described(key, made)
        if made.get("crc32c", upload.checksum) != upload.checksum:
            self.objects.delete(key, etag=stored.etag)
            raise StorageUnavailable(self._storage, key)
        return stored

    def download(self, key: str, byte_range: ByteRange, generation: str | None = None) -> Download:
        """The bytes of one generation, the connection open. Raises ObjectNotFound."""
        return Download(self._storage, self._connection, key, byte_range, generation)

    def progress(self, key: str, uri: str) -> ResumableProgress:
        """How far a resumable upload is."""
        with translate(self._storage, key):
            return self._sessions.progress(uri)

    def cancel(self, key: str, uri: str) -> None:
        """End a resumable upload; quiet when it is over."""
        with translate(self._storage, key):
            self._sessions.cancel(uri)

    def close(self) -> None:
        """Close every connection."""
        self._connection.close()
