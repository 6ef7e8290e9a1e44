"""Expiry: an upload whose bytes did not come in time gives its place and its bytes back."""

from __future__ import annotations

from sqlalchemy import select

from flask_rindle.models.asset import Asset
from flask_rindle.models.states import SESSION_OVER, SessionState
from flask_rindle.models.upload import UploadSession
from flask_rindle.outbox import Claim
from flask_rindle.pipeline.tools import Tools
from flask_rindle.processing.base import Stop


class Expiry:
    """The step of `JobKind.EXPIRE`, due when the session's time is over."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    def run(self, claim: Claim, stop: Stop) -> None:
        """Expire the asset's session, unless it is over or has got more time."""
        with self._tools.database.transaction() as db_session:
            session = db_session.scalars(select(UploadSession).filter_by(asset_id=claim.asset_id)).first()
            if session is None or session.state in SESSION_OVER or session.expires_at > self._tools.clock():
                return
            asset = db_session.get(Asset, claim.asset_id)
            self._tools.sessions.abandon(db_session, session, asset, SessionState.EXPIRED)

    def give_up(self, claim: Claim, error: Exception) -> None:
        """The session expires when somebody next asks for it."""
