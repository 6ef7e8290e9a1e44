"""Expiry: an upload whose bytes did not come in time gives its place and its bytes back."""

from __future__ import annotations

import logging
import uuid
from contextlib import suppress
from datetime import timedelta

from sqlalchemy import select

from flask_rindle.errors import CapabilityMissing, InvalidToken, Snoozed, UnknownName
from flask_rindle.models.asset import Asset
from flask_rindle.models.states import DELIVERABLE, SESSION_OVER, AssetState, SessionState
from flask_rindle.models.upload import UploadSession
from flask_rindle.outbox import Claim
from flask_rindle.pipeline.tools import Tools
from flask_rindle.processing.base import Stop

_LOOK_AGAIN = timedelta(days=1)

log = logging.getLogger("flask_rindle.pipeline")


class Expiry:
    """The step of `JobKind.EXPIRE`, due when the session's time is over."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    def run(self, claim: Claim, stop: Stop) -> None:
        """Expire the asset's session unless bytes still come; of a completed one remove what came too late."""
        with self._tools.database.reading() as db_session:
            asset = db_session.get(Asset, claim.asset_id)
            session = db_session.scalars(select(UploadSession).filter_by(asset_id=claim.asset_id)).first()
        if asset is None or session is None:
            return
        if session.state == SessionState.COMPLETED:
            self._remove_late_bytes(asset, session)
        elif session.state not in SESSION_OVER:
            self._end(session)

    def _end(self, session: UploadSession) -> None:
        self._require_over(session)
        received_bytes = self._received_bytes(session)
        if received_bytes > (session.received_bytes or 0):
            with self._tools.database.transaction() as db_session:
                self._tools.sessions.prolong(db_session, session, received_bytes=received_bytes)
        self._abandon(session.id)

    def _received_bytes(self, session: UploadSession) -> int:
        """Bytes that go past the app are known to their storage alone; none where it cannot be asked for good."""
        try:
            return self._tools.arrivals.look(session).received_bytes
        except (CapabilityMissing, InvalidToken, UnknownName) as error:
            log.warning("nobody can say what has come of upload %s: %s", session.id, error)
            return 0

    def _abandon(self, session_id: uuid.UUID) -> None:
        with self._tools.database.transaction() as db_session:
            session = db_session.get_one(UploadSession, session_id, with_for_update=True)
            if session.state not in SESSION_OVER:
                self._require_over(session)
                asset = db_session.get(Asset, session.asset_id)
                self._tools.sessions.abandon(db_session, session, asset, SessionState.EXPIRED)

    def _require_over(self, session: UploadSession) -> None:
        left = session.expires_at - self._tools.clock()
        if left > timedelta(0):
            raise Snoozed(left, "the upload has got more time")

    def _remove_late_bytes(self, asset: Asset, session: UploadSession) -> None:
        """What a URL that was still good wrote after the bytes had been looked at."""
        if session.writable_until is None or asset.storage_key == session.upload_key:
            return
        if asset.state not in DELIVERABLE and asset.state != AssetState.QUARANTINED:
            raise Snoozed(_LOOK_AGAIN, "the bytes have not been looked at")
        self._tools.storages[session.storage].delete(session.upload_key)

    def give_up(self, claim: Claim, error: Exception) -> None:
        """The storage did not answer for days: the session ends all the same, and the purge goes on trying."""
        with self._tools.database.reading() as db_session:
            session = db_session.scalars(select(UploadSession).filter_by(asset_id=claim.asset_id)).first()
        if session is not None:
            with suppress(Snoozed):
                self._abandon(session.id)
