"""Purge: remove the bytes of an asset that was deleted or refused, then what need not be kept of it.

Bytes go first and rows last, so that a purge that dies is simply run again.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from flask_rindle.errors import Snoozed, UnknownName, WorkInProgress
from flask_rindle.models.asset import Asset, Variant
from flask_rindle.models.states import AssetState
from flask_rindle.models.upload import UploadSession
from flask_rindle.outbox import Claim, JobKind
from flask_rindle.pipeline.tools import Tools
from flask_rindle.processing.base import Stop
from flask_rindle.security.mime import extension_for
from flask_rindle.security.names import original_key, variant_key


@dataclass(frozen=True, slots=True)
class _Leftover:
    storage: str
    key: str


class Purge:
    """The step of `JobKind.PURGE`."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    def run(self, claim: Claim, stop: Stop) -> None:
        """Delete every object that the asset may have, in its own storage; then its row, unless it was refused."""
        with self._tools.database.reading() as db_session:
            asset = db_session.get(Asset, claim.asset_id)
            if asset is None or asset.state not in (AssetState.DELETED, AssetState.QUARANTINED):
                return
            session = db_session.scalars(select(UploadSession).filter_by(asset_id=asset.id)).first()
            leftovers = self._leftovers(db_session, asset, session)
        if self._tools.outbox.is_running(asset.id, (JobKind.PROMOTE, JobKind.VARIANTS)):
            raise WorkInProgress(asset.id)  # it may still write what we would have to remove
        if session is not None:
            self._tools.arrivals.call_off(session)
        for leftover in leftovers:
            self._tools.storages[leftover.storage].delete(leftover.key)
        self._require_sealed(session)
        if asset.state == AssetState.DELETED:
            self._forget(asset.id)

    def give_up(self, claim: Claim, error: Exception) -> None:
        """The rows stay and say what is left."""

    def _require_sealed(self, session: UploadSession | None) -> None:
        """Come back when no URL is left that could write the bytes anew."""
        if session is not None and session.writable_until is not None:
            left = session.writable_until - self._tools.clock()
            if left > timedelta(0):
                raise Snoozed(left, "a signed URL can still write the bytes")

    def _leftovers(self, db_session: Session, asset: Asset, session: UploadSession | None) -> list[_Leftover]:
        """What rows name, and what a worker may have written before it could say so."""
        variants = db_session.scalars(select(Variant).filter_by(asset_id=asset.id)).all()
        final = asset.storage_key or original_key(asset.profile, asset.id, extension_for(asset.content_type or ""))
        found = [] if session is None else [_Leftover(session.storage, session.upload_key)]
        found.append(_Leftover(asset.storage, final))
        keys = [(variant.storage, self._key_of(asset, variant)) for variant in variants]
        return found + [_Leftover(storage, key) for storage, key in keys if key is not None]

    def _key_of(self, asset: Asset, variant: Variant) -> str | None:
        """The key that the row names; else where a worker may have written; None when nobody can know."""
        if variant.storage_key is not None:
            return variant.storage_key
        try:
            recipe = self._tools.profiles.get(asset.profile).recipe(variant.name)
        except UnknownName:
            return None
        extension = extension_for(recipe.content_type)
        return variant_key(asset.profile, asset.id, variant.name, variant.recipe_digest, extension)

    def _forget(self, asset_id: uuid.UUID) -> None:
        with self._tools.database.transaction() as db_session:
            # They go with the asset, and everybody locks them before it.
            variants = select(Variant.id).where(Variant.asset_id == asset_id).order_by(Variant.name)
            db_session.execute(variants.with_for_update())
            db_session.execute(delete(Asset).where(Asset.id == asset_id, Asset.state == AssetState.DELETED))
