"""Uploads that the storage itself can resume: the client holds a secret URI, and the storage knows how far it is."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from flask_rindle.errors import SessionClosed, StorageError, UploadIncomplete, UploadUnsupported
from flask_rindle.lifecycle import move
from flask_rindle.models.database import Database
from flask_rindle.models.states import SESSION_OVER, SessionState
from flask_rindle.models.upload import UploadSession
from flask_rindle.security.vault import Vault
from flask_rindle.storage.base import ResumableStart, Storage, UploadsResumably, UploadTerms, require
from flask_rindle.types import Clock

log = logging.getLogger("flask_rindle.uploads")


class Resumable:
    """The road of resumable uploads. Takes sessions that the broker has found to be live."""

    def __init__(
        self,
        storages: Mapping[str, Storage],
        database: Database,
        clock: Clock,
        *,
        vault: Vault,
    ) -> None:
        self._storages = storages
        self._database = database
        self._clock = clock
        self._vault = vault

    def begin(self, session: UploadSession, *, public: bool, origin: str | None) -> None:
        """Open the upload at the storage, once for a session. Raises SessionClosed when it ended meanwhile."""
        if session.session_uri is not None:
            return
        terms = UploadTerms(content_type=session.content_type, size_bytes=session.declared_bytes, public=public)
        storage = require(self._storages[session.storage], UploadsResumably, UploadUnsupported)
        start = storage.start_resumable(session.upload_key, terms, origin=origin)
        kept = False
        try:
            kept = self._note(session, start)
        finally:
            if not kept:
                self._drop(session, storage, start.uri)

    def _drop(self, session: UploadSession, storage: UploadsResumably, uri: str) -> None:
        """Cancel an upload that nobody will use; the storage forgets by itself what cannot be cancelled now."""
        try:
            storage.cancel_resumable(session.upload_key, uri)
        except StorageError as error:
            log.warning("a spare upload of session %s was not cancelled: %s", session.id, error)

    def _note(self, session: UploadSession, start: ResumableStart) -> bool:
        """Keep the URI, encrypted; False when another request was faster."""
        sealed = self._vault.seal(start.uri)
        with self._database.transaction() as db_session:
            fresh = db_session.get_one(UploadSession, session.id, with_for_update=True)
            if fresh.state in SESSION_OVER:
                raise SessionClosed(fresh.state)
            if fresh.session_uri is not None:
                return False
            move(
                db_session,
                fresh,
                SessionState.SIGNED,
                now=self._clock(),
                session_uri=sealed,
                session_uri_expires_at=start.expires_at,
            )
            return True

    def uri(self, session: UploadSession) -> str:
        """Where the bytes go: a bearer secret. Raises UploadIncomplete before the upload has begun."""
        if session.session_uri is None:
            raise UploadIncomplete
        return self._vault.open(session.session_uri)

    def chunk(self, session: UploadSession) -> int:
        """Every request of the upload but the last has a multiple of so many bytes."""
        return require(self._storages[session.storage], UploadsResumably, UploadUnsupported).chunk_bytes
