"""Repair: calling work on an asset off, and asking for it again.

Rows are locked in the order that workers lock them in: variants by name, the asset, its jobs.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection

from sqlalchemy import select
from sqlalchemy.orm import Session

from flask_rindle.errors import NotDeliverable, NotFound, UnknownName
from flask_rindle.lifecycle import move, roll_up
from flask_rindle.models.asset import Asset, Variant
from flask_rindle.models.database import Database
from flask_rindle.models.states import DELIVERABLE, VariantState
from flask_rindle.outbox import JobKind, Outbox, Priority, variants_queue
from flask_rindle.profiles import ProfileRegistry
from flask_rindle.types import Clock

UNFINISHED = (VariantState.PLANNED, VariantState.QUEUED, VariantState.PROCESSING)
GIVEN_UP = (VariantState.FAILED, VariantState.CANCELLED)
REPAIRABLE = (*GIVEN_UP, VariantState.STALE, VariantState.MISSING)


class Repair:
    """Verbs for operators, by asset. Each is one transaction, and safe to repeat."""

    def __init__(self, *, profiles: ProfileRegistry, database: Database, outbox: Outbox, clock: Clock) -> None:
        self._profiles = profiles
        self._database = database
        self._outbox = outbox
        self._clock = clock

    def cancel_processing(self, asset_id: uuid.UUID) -> list[str]:
        """Call off every variant that is not made yet, also one that is being made; their names.

        The original stays as it is. Raises NotFound.
        """
        now = self._clock()
        with self._database.transaction() as db_session:
            _load(db_session, asset_id)
            unfinished = _variants(db_session, asset_id, UNFINISHED)
            for variant in unfinished:
                move(db_session, variant, VariantState.CANCELLED, now=now)
            roll_up(db_session, asset_id, now=now)
            self._outbox.cancel(db_session, asset_id, (JobKind.VARIANTS,))
            return [variant.name for variant in unfinished]

    def requeue_variants(self, asset_id: uuid.UUID, names: Collection[str] | None = None) -> list[str]:
        """Have variants made again: what failed or was cancelled, or what is named and not as it should be.

        The names of those that will be. Those that are ready or on their way are left alone, and so are those
        that the profile no longer has. Raises NotFound, UnknownName, NotDeliverable.
        """
        now = self._clock()
        with self._database.transaction() as db_session:
            asset = _load(db_session, asset_id)
            recipes = self._profiles.get(asset.profile).variants
            unknown = next((name for name in names or () if name not in recipes), None)
            if unknown is not None:
                raise UnknownName("variant", unknown, recipes)
            chosen = _variants(db_session, asset_id, GIVEN_UP if names is None else REPAIRABLE, names)
            again = [variant for variant in chosen if variant.name in recipes]
            for variant in again:
                move(db_session, variant, VariantState.QUEUED, now=now, error_code=None, error_detail=None)
            roll_up(db_session, asset_id, now=now)
            if asset.state not in DELIVERABLE:
                raise NotDeliverable(asset_id, asset.state)
            if again:
                queue = variants_queue(asset.kind)
                self._outbox.add(db_session, JobKind.VARIANTS, asset_id, queue=queue, priority=Priority.AGAIN)
            return [variant.name for variant in again]


def _load(db_session: Session, asset_id: uuid.UUID) -> Asset:
    asset = db_session.get(Asset, asset_id)
    if asset is None:
        raise NotFound("asset", asset_id)
    return asset


def _variants(
    db_session: Session, asset_id: uuid.UUID, states: Collection[VariantState], names: Collection[str] | None = None
) -> list[Variant]:
    query = select(Variant).where(Variant.asset_id == asset_id, Variant.state.in_(states)).order_by(Variant.name)
    if names is not None:
        query = query.where(Variant.name.in_(names))
    # What stands there once they are ours: a worker may be about to publish one.
    return list(db_session.scalars(query.with_for_update()))
