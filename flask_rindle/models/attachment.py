"""Attachments: which asset an owner shows in which slot."""

from __future__ import annotations

import uuid

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from flask_rindle.models.asset import Asset
from flask_rindle.models.base import TABLE_OPTIONS, Base, Created, Id, Name


class Attachment(Base):
    """An owner is a registered name and an id as text, so classes may be renamed and keys be integers."""

    __tablename__ = "rindle_attachments"
    __table_args__ = (
        UniqueConstraint("owner_type", "owner_id", "slot", "position"),
        Index(None, "asset_id"),
        TABLE_OPTIONS,
    )

    id: Mapped[Id]
    asset_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("rindle_assets.id", ondelete="CASCADE"))
    owner_type: Mapped[Name]
    owner_id: Mapped[str] = mapped_column(String(255))
    slot: Mapped[Name]
    position: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[Created]

    asset: Mapped[Asset] = relationship()
