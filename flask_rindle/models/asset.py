"""Assets and their variants."""

from __future__ import annotations

import uuid

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from flask_rindle.models.base import (
    TABLE_OPTIONS,
    Base,
    Bytes,
    Id,
    Key,
    Label,
    Moment,
    Name,
    OptionalName,
    Pixels,
    Prose,
    Timestamped,
    one_of,
)
from flask_rindle.models.states import AssetState, VariantState


class Asset(Timestamped, Base):
    """One uploaded file, and what the gate found it to be."""

    __tablename__ = "rindle_assets"
    __table_args__ = (
        one_of("state", AssetState),
        one_of("kind", ("image", "video", "audio", "other")),
        Index(None, "state", "id"),
        Index(None, "profile", "id"),
        TABLE_OPTIONS,
    )

    id: Mapped[Id]
    profile: Mapped[Name]
    storage: Mapped[Name]
    state: Mapped[str] = mapped_column(String(16), default=AssetState.STAGED)
    kind: Mapped[str] = mapped_column(String(8), default="other")
    storage_key: Mapped[Key]
    etag: Mapped[Label]
    filename: Mapped[str] = mapped_column(String(255))
    content_type: Mapped[Label]
    byte_size: Mapped[Bytes]
    width: Mapped[Pixels]
    height: Mapped[Pixels]
    frames: Mapped[int | None]
    thumbhash: Mapped[OptionalName]
    error_code: Mapped[OptionalName]
    error_detail: Mapped[Prose]

    variants: Mapped[list[Variant]] = relationship(
        back_populates="asset", order_by="Variant.name", passive_deletes=True
    )


class Variant(Timestamped, Base):
    """One derivative of an asset, made by one recipe."""

    __tablename__ = "rindle_variants"
    __table_args__ = (
        UniqueConstraint("asset_id", "name"),
        one_of("state", VariantState),
        Index(None, "state", "id"),
        TABLE_OPTIONS,
    )

    id: Mapped[Id]
    asset_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("rindle_assets.id", ondelete="CASCADE"))
    name: Mapped[Name]
    state: Mapped[str] = mapped_column(String(16), default=VariantState.PLANNED)
    recipe_digest: Mapped[Name]
    storage: Mapped[Name]
    storage_key: Mapped[Key]
    etag: Mapped[Label]
    content_type: Mapped[Label]
    byte_size: Mapped[Bytes]
    width: Mapped[Pixels]
    height: Mapped[Pixels]
    generated_at: Mapped[Moment]
    error_code: Mapped[OptionalName]
    error_detail: Mapped[Prose]

    asset: Mapped[Asset] = relationship(back_populates="variants")
