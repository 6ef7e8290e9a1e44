"""What a storage has of an upload that goes past the app, in the storage's own words."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from flask_rindle.errors import CapabilityMissing, InvalidToken, ObjectNotFound, UploadGone
from flask_rindle.models.states import SessionState, Strategy
from flask_rindle.models.upload import UploadSession
from flask_rindle.security.vault import Vault
from flask_rindle.storage.base import Part, ResumableState, Storage, UploadsParts, UploadsResumably, require

log = logging.getLogger("flask_rindle.uploads")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """How much is there for good. `parts` only of uploads that come in parts."""

    received_bytes: int
    state: ResumableState = ResumableState.IN_PROGRESS
    parts: tuple[Part, ...] = ()


class Arrivals:
    """Asks storages about uploads, and calls uploads off there. Never inside a transaction."""

    def __init__(self, storages: Mapping[str, Storage], vault: Vault) -> None:
        self._storages = storages
        self._vault = vault

    def look(self, session: UploadSession) -> Arrival:
        """What has arrived; EXPIRED when the storage knows the upload no more."""
        if session.strategy == Strategy.MULTIPART and session.multipart_upload_id is not None:
            return self._look_at_parts(session, session.multipart_upload_id)
        if session.strategy == Strategy.RESUMABLE and session.session_uri is not None:
            storage = require(self._storages[session.storage], UploadsResumably)
            progress = storage.resumable_progress(session.upload_key, self._vault.open(session.session_uri))
            if progress.state is ResumableState.EXPIRED:
                return _look_at_object(self._storages[session.storage], session.upload_key)
            return Arrival(received_bytes=progress.committed_bytes, state=progress.state)
        return Arrival(received_bytes=session.received_bytes or 0)

    def call_off(self, session: UploadSession) -> None:
        """Have the storage refuse what still comes; quiet when the upload is over, or cannot be reached any more."""
        if session.state == SessionState.COMPLETED:
            return
        try:
            self._call_off(session)
        except (CapabilityMissing, InvalidToken) as error:
            log.warning("the upload of session %s cannot be called off: %s", session.id, error)

    def _call_off(self, session: UploadSession) -> None:
        storage = self._storages[session.storage]
        if session.strategy == Strategy.MULTIPART:
            require(storage, UploadsParts).abort_parts(session.upload_key, session.multipart_upload_id)
        if session.strategy == Strategy.RESUMABLE and session.session_uri is not None:
            uri = self._vault.open(session.session_uri)
            require(storage, UploadsResumably).cancel_resumable(session.upload_key, uri)

    def _look_at_parts(self, session: UploadSession, upload_id: str) -> Arrival:
        storage = self._storages[session.storage]
        try:
            parts = tuple(require(storage, UploadsParts).list_parts(session.upload_key, upload_id))
        except UploadGone:
            return _look_at_object(storage, session.upload_key)
        return Arrival(received_bytes=sum(part.size_bytes for part in parts), parts=parts)


def _look_at_object(storage: Storage, key: str) -> Arrival:
    """Put together already, by somebody whose answer was lost; or gone."""
    try:
        return Arrival(received_bytes=storage.stat(key).size_bytes, state=ResumableState.COMPLETE)
    except ObjectNotFound:
        return Arrival(received_bytes=0, state=ResumableState.EXPIRED)
