"""The life of an upload session: the same for uploads that open them and jobs that clear up."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, update
from sqlalchemy.orm import Session

from flask_rindle.attachments import Attachments
from flask_rindle.lifecycle import move
from flask_rindle.models.asset import Asset
from flask_rindle.models.states import SESSION_OVER, SessionState
from flask_rindle.models.upload import UploadSession
from flask_rindle.types import Clock

# As long as Google keeps its own.
LONGEST_LIFE = timedelta(days=7)


class Sessions:
    """Gives sessions time, and ends them."""

    def __init__(self, attachments: Attachments, clock: Clock, ttl: timedelta) -> None:
        self._attachments = attachments
        self._clock = clock
        self._ttl = ttl

    def prolong(self, db_session: Session, session: UploadSession, *, received_bytes: int | None = None) -> None:
        """The sender is at it: unless it is over, the session has its whole time before it again."""
        mine = (UploadSession.id == session.id, UploadSession.state.not_in(SESSION_OVER))
        ends = session.session_uri_expires_at or session.created_at + max(LONGEST_LIFE, self._ttl)
        later = min(self._clock() + self._ttl, ends)
        if received_bytes is not None:
            db_session.execute(update(UploadSession).where(*mine).values(received_bytes=received_bytes))
        # Never shorter than it was.
        db_session.execute(
            update(UploadSession).where(*mine, UploadSession.expires_at < later).values(expires_at=later)
        )

    def abandon(
        self,
        db_session: Session,
        session: UploadSession,
        asset: Asset | None,
        state: SessionState,
        *,
        only_if: ColumnElement[bool] | None = None,
        **values: Any,
    ) -> None:
        """End a session without success: its place on the ticket is free again, its bytes go.

        Raises LostRace when somebody else has moved it, or `only_if` is no longer so.
        """
        moved = move(db_session, session, state, now=self._clock(), only_if=only_if, ticket_place=None, **values)
        if moved and asset is not None:
            self._attachments.remove(db_session, asset)
