"""Events: the audit trail, and what Server-Sent Events are read from."""

from __future__ import annotations

import uuid

from sqlalchemy import Index, String
from sqlalchemy.orm import Mapped, mapped_column

from flask_rindle.models.base import TABLE_OPTIONS, AutoId, Base, Created, OptionalName, one_of


class Event(Base):
    """One change of one state. It outlives what it speaks of, so it has no foreign keys."""

    __tablename__ = "rindle_events"
    __table_args__ = (
        one_of("kind", ("asset", "variant", "upload_session", "provider_asset")),
        Index(None, "asset_id", "id"),
        # Without AUTOINCREMENT SQLite hands out the highest id again after its row is gone.
        {**TABLE_OPTIONS, "sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(AutoId, primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    subject_id: Mapped[uuid.UUID]
    asset_id: Mapped[uuid.UUID | None]
    name: Mapped[OptionalName]
    from_state: Mapped[str] = mapped_column(String(16))
    to_state: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[Created]
