"""Provider assets: the mirror of an asset at a streaming provider."""

from __future__ import annotations

import uuid

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from flask_rindle.models.base import TABLE_OPTIONS, Base, Id, Json, Label, Moment, Name, Prose, Timestamped, one_of
from flask_rindle.models.states import ProviderState


class ProviderAsset(Timestamped, Base):
    """The provider's own ids are secrets: they stay out of repr, logs and JSON."""

    __tablename__ = "rindle_provider_assets"
    __table_args__ = (
        UniqueConstraint("asset_id", "profile", "provider"),
        UniqueConstraint("provider", "provider_asset_id"),
        UniqueConstraint("provider", "provider_upload_id"),
        UniqueConstraint("provider", "passthrough"),
        one_of("state", ProviderState),
        Index(None, "state", "updated_at"),
        TABLE_OPTIONS,
    )

    id: Mapped[Id]
    asset_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("rindle_assets.id", ondelete="CASCADE"))
    profile: Mapped[Name]
    provider: Mapped[Name]
    state: Mapped[str] = mapped_column(String(16), default=ProviderState.PENDING)
    provider_asset_id: Mapped[Label]
    provider_upload_id: Mapped[Label]
    passthrough: Mapped[Label]
    playback_ids: Mapped[Json] = mapped_column(default=list)
    playback_policy: Mapped[str | None] = mapped_column(String(16))
    ingest_mode: Mapped[str | None] = mapped_column(String(32))
    last_event_id: Mapped[Label]
    last_event_at: Mapped[Moment]
    last_sync_error: Mapped[Prose]
