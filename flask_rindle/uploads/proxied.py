"""Uploads whose bytes pass through the app: by a form, or to a storage that the app serves."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import BinaryIO, cast

from sqlalchemy import select

from flask_rindle.errors import MalformedRequest, NotFound, SessionClosed, TooLarge
from flask_rindle.lifecycle import move
from flask_rindle.models.database import Database
from flask_rindle.models.states import SessionState
from flask_rindle.models.upload import UploadSession
from flask_rindle.profiles import ProfileRegistry
from flask_rindle.security.names import is_staged
from flask_rindle.storage.base import Storage, StoredObject
from flask_rindle.types import Clock
from flask_rindle.uploads.answers import Completion
from flask_rindle.uploads.broker import UploadBroker
from flask_rindle.uploads.strategies import SEALED


class Proxied:
    """Takes bytes, for sessions of the broker."""

    def __init__(
        self,
        broker: UploadBroker,
        profiles: ProfileRegistry,
        storages: Mapping[str, Storage],
        *,
        database: Database,
        clock: Clock,
    ) -> None:
        self._broker = broker
        self._profiles = profiles
        self._storages = storages
        self._database = database
        self._clock = clock

    def write_staged(self, storage: str, upload_key: str, source: BinaryIO, *, content_type: str) -> StoredObject:
        """Store the bytes of a presigned PUT, for a storage that the app serves: of an upload, or of a bare key.

        Raises SessionClosed, also when the session ended while the bytes came in; nothing is kept then.
        """
        self._require_writable(storage, upload_key)
        # Asked again when the last byte is in, before the object can be seen: whoever is late changes nothing.
        guarded = cast("BinaryIO", _AtEnd(source, lambda: self._require_writable(storage, upload_key)))
        return self._storages[storage].put(upload_key, guarded, content_type=content_type)

    def _require_writable(self, storage: str, upload_key: str) -> None:
        with self._database.reading() as db_session:
            query = select(UploadSession).filter_by(storage=storage, upload_key=upload_key)
            session = db_session.scalars(query).first()
        if session is not None:
            self._broker.require_live(session)
        elif is_staged(upload_key):
            raise NotFound("upload", upload_key)

    def receive(self, session_id: uuid.UUID, source: BinaryIO) -> Completion:
        """Store what `source` gives and complete the session; a failure fails it and keeps nothing."""
        session = self._broker.live(session_id)
        if session.strategy in SEALED:
            raise MalformedRequest("session", "is of an upload that goes past the app")
        profile = self._profiles.get(session.profile)
        with self._database.transaction() as db_session:
            session = db_session.get_one(UploadSession, session_id)
            if not move(db_session, session, SessionState.UPLOADING, now=self._clock()):
                raise SessionClosed(session.state)
        capped = cast("BinaryIO", _Capped(source, profile.max_bytes))
        storage = self._storages[session.storage]
        try:
            storage.put(session.upload_key, capped, content_type=session.content_type)
            return self._broker.complete(session_id)
        except SessionClosed:
            storage.delete(session.upload_key)
            raise
        except BaseException as error:
            self._broker.fail(session_id, error)
            raise


class _Capped:
    """A readable that raises TooLarge once more than the limit has come out of it."""

    def __init__(self, source: BinaryIO, limit_bytes: int | None) -> None:
        self._source = source
        self._limit_bytes = limit_bytes
        self._seen_bytes = 0

    def read(self, size: int = -1) -> bytes:
        chunk = self._source.read(size)
        self._seen_bytes += len(chunk)
        if self._limit_bytes is not None and self._seen_bytes > self._limit_bytes:
            raise TooLarge(self._limit_bytes)
        return chunk


class _AtEnd:
    """A readable that makes a call before it says that it is at its end."""

    def __init__(self, source: BinaryIO, call: Callable[[], None]) -> None:
        self._source = source
        self._call = call

    def read(self, size: int = -1) -> bytes:
        chunk = self._source.read(size)
        if not chunk:
            self._call()
        return chunk
