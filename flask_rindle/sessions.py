"""The end of an upload session without success: the same for uploads that open them and jobs that clear up."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from flask_rindle.attachments import Attachments
from flask_rindle.lifecycle import move
from flask_rindle.models.asset import Asset
from flask_rindle.models.states import SessionState
from flask_rindle.models.upload import UploadSession
from flask_rindle.types import Clock


class Sessions:
    """Ends sessions."""

    def __init__(self, attachments: Attachments, clock: Clock) -> None:
        self._attachments = attachments
        self._clock = clock

    def abandon(
        self, db_session: Session, session: UploadSession, asset: Asset | None, state: SessionState, **values: Any
    ) -> None:
        """End a session without success: its place on the ticket is free again, its bytes go."""
        if move(db_session, session, state, now=self._clock(), ticket_place=None, **values) and asset is not None:
            self._attachments.remove(db_session, asset)
