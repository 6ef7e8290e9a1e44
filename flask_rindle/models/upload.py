"""Upload sessions: one row owns the bytes of one upload until it is over."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from flask_rindle.models.base import (
    TABLE_OPTIONS,
    Base,
    Bytes,
    Id,
    Label,
    Moment,
    Name,
    OptionalName,
    Prose,
    Timestamped,
    UTCDateTime,
    one_of,
)
from flask_rindle.models.states import SessionState


class UploadSession(Timestamped, Base):
    """What was announced, where the bytes are staged, and how far it is."""

    __tablename__ = "rindle_upload_sessions"
    __table_args__ = (
        # A ticket for n files has n places; a failed upload gives its place back by setting it to NULL.
        UniqueConstraint("ticket_id", "ticket_place"),
        one_of("state", SessionState),
        Index(None, "state", "expires_at"),
        Index(None, "asset_id"),
        TABLE_OPTIONS,
    )

    id: Mapped[Id]
    asset_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("rindle_assets.id", ondelete="SET NULL"))
    profile: Mapped[Name]
    storage: Mapped[Name]
    state: Mapped[str] = mapped_column(String(16), default=SessionState.INITIALIZED)
    strategy: Mapped[str] = mapped_column(String(16))
    upload_key: Mapped[str] = mapped_column(String(512), unique=True)
    filename: Mapped[str] = mapped_column(String(255))
    content_type: Mapped[str] = mapped_column(String(255))
    declared_bytes: Mapped[Bytes]
    received_bytes: Mapped[Bytes]
    part_bytes: Mapped[Bytes]
    multipart_upload_id: Mapped[Prose]
    session_uri: Mapped[Prose]  # encrypted: whoever has it can send the bytes
    session_uri_expires_at: Mapped[Moment]
    writable_until: Mapped[Moment]  # the storage takes bytes for this upload until then, whatever we say
    checksum: Mapped[str | None] = mapped_column(String(80))
    etag: Mapped[Label]
    ticket_id: Mapped[uuid.UUID | None]
    ticket_place: Mapped[int | None]
    actor: Mapped[Label]
    owner_type: Mapped[OptionalName]
    owner_id: Mapped[Label]
    slot: Mapped[OptionalName]
    append: Mapped[bool] = mapped_column(default=False)
    expires_at: Mapped[datetime] = mapped_column(UTCDateTime)
    verified_at: Mapped[Moment]
    error_code: Mapped[OptionalName]
    error_detail: Mapped[Prose]
