"""Attachments: an owner's slots, changed beside the host's own rows and in the host's transaction."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import CursorResult, Select, func, inspect, select, tuple_, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, selectinload

from flask_rindle.errors import MalformedRequest, NotDeliverable, NotFound, OwnerUnsaved, UnknownName
from flask_rindle.lifecycle import move
from flask_rindle.models.asset import Asset
from flask_rindle.models.attachment import Attachment
from flask_rindle.models.database import insert_unless_taken, is_busy, translate_busy
from flask_rindle.models.states import AssetState
from flask_rindle.outbox import JobKind, Outbox
from flask_rindle.types import Clock, new_id

MAX_SLOT_CHARACTERS = 64
DEAD = (AssetState.QUARANTINED, AssetState.DELETED)


@dataclass(frozen=True, slots=True)
class OwnerKey:
    """An owner as rows name it."""

    type: str
    id: str


class Owners:
    """The host's classes by their stable names."""

    def __init__(self, owners: Mapping[str, type]) -> None:
        self._names = {cls: name for name, cls in owners.items()}

    def key(self, owner: object) -> OwnerKey:
        """The owner's registered name and its primary key as text. Raises UnknownName, OwnerUnsaved."""
        if isinstance(owner, OwnerKey):
            return owner
        name = next((self._names[cls] for cls in type(owner).__mro__ if cls in self._names), None)
        if name is None:
            raise UnknownName("owner", type(owner).__name__, self._names.values())
        identity = inspect(owner).mapper.primary_key_from_instance(owner)
        if any(part is None for part in identity):
            raise OwnerUnsaved(name)
        return OwnerKey(name, _key_text(identity))


def _key_text(identity: Sequence[object]) -> str:
    parts = [str(part) for part in identity]
    if len(parts) == 1:
        return parts[0]
    # ("a:b", "c") must not become ("a", "b:c").
    return ":".join(part.replace("%", "%25").replace(":", "%3A") for part in parts)


def check_slot(slot: str) -> str:
    """The name, if a row can hold it. Raises MalformedRequest."""
    if not 0 < len(slot) <= MAX_SLOT_CHARACTERS:
        raise MalformedRequest("slot", f"must be a name of at most {MAX_SLOT_CHARACTERS} characters")
    return slot


class Attachments:
    """Attach, replace, detach and look up. Every verb joins the session that it is given."""

    def __init__(self, outbox: Outbox, clock: Clock) -> None:
        self._outbox = outbox
        self._clock = clock

    @translate_busy()
    def attach(
        self, db_session: Session, asset_id: uuid.UUID, owner: OwnerKey, slot: str, *, position: int = 0
    ) -> Attachment:
        """Put the asset at this place; what stood there is removed unless somebody else shows it.

        Raises NotFound, and NotDeliverable for an asset that was refused or deleted.
        """
        check_slot(slot)
        db_session.flush()
        place = {"owner_type": owner.type, "owner_id": owner.id, "slot": slot, "position": position}
        before = db_session.scalar(select(Attachment.asset_id).filter_by(**place))
        # Always in the same order, so that two replacements cannot wait for each other.
        if before is not None and before < asset_id:
            self._lock(db_session, before)
        self._hold(db_session, asset_id)
        while not self._put(db_session, asset_id, place):
            replaced = self._replace(db_session, asset_id, place)
            if replaced is not None:
                return replaced
            # It was taken and is free again: somebody emptied it between the two looks.
        return _standing_at(db_session, place)

    @translate_busy()
    def append(self, db_session: Session, asset_id: uuid.UUID, owner: OwnerKey, slot: str) -> Attachment:
        """Put the asset behind the last one in the slot; quiet when it stands there already."""
        self._hold(db_session, asset_id)
        mine = select(Attachment).filter_by(owner_type=owner.type, owner_id=owner.id, slot=slot)
        present = db_session.scalars(mine.where(Attachment.asset_id == asset_id)).first()
        if present is not None:
            return present
        last = db_session.scalar(select(func.max(mine.subquery().c.position)))
        place: dict[str, Any] = {"owner_type": owner.type, "owner_id": owner.id, "slot": slot}
        place["position"] = -1 if last is None else last
        while True:
            # Counted on, not asked for again: a snapshot would give the same answer for ever.
            place["position"] += 1
            if self._put(db_session, asset_id, place):
                return _standing_at(db_session, place)

    @translate_busy()
    def detach(self, db_session: Session, owner: OwnerKey, slot: str, *, position: int | None = None) -> None:
        """Empty a slot, or one place of it; quiet when it is empty."""
        db_session.flush()
        query = select(Attachment).filter_by(owner_type=owner.type, owner_id=owner.id, slot=slot)
        if position is not None:
            query = query.filter_by(position=position)
        # What stands there once the rows are ours, not what stood there when we looked.
        held = query.with_for_update().execution_options(populate_existing=True)
        gone = db_session.scalars(held).all()
        for attachment in gone:
            db_session.delete(attachment)
        db_session.flush()
        for asset_id in sorted({attachment.asset_id for attachment in gone}):
            self._let_go(db_session, asset_id)

    def find(
        self, db_session: Session, owners: Iterable[OwnerKey], slots: Sequence[str]
    ) -> dict[OwnerKey, dict[str, list[Attachment]]]:
        """Everything in these slots of these owners, in order, with assets and variants: three statements."""
        keys = list(owners)
        found: dict[OwnerKey, dict[str, list[Attachment]]] = {key: {slot: [] for slot in slots} for key in keys}
        if not keys:
            return found
        query = (
            select(Attachment)
            .where(
                # Said twice: SQLite has an index for each of the columns, and none for a pair of them.
                Attachment.owner_type.in_({key.type for key in found}),
                Attachment.owner_id.in_({key.id for key in found}),
                tuple_(Attachment.owner_type, Attachment.owner_id).in_([(key.type, key.id) for key in found]),
                Attachment.slot.in_(slots),
            )
            .order_by(Attachment.position)
            .options(selectinload(Attachment.asset).selectinload(Asset.variants))
        )
        for attachment in db_session.scalars(query.execution_options(populate_existing=True)):
            found[OwnerKey(attachment.owner_type, attachment.owner_id)][attachment.slot].append(attachment)
        return found

    def remove(self, db_session: Session, asset: Asset) -> None:
        """Take an asset out of the world: never delivered again, its work called off, its bytes purged."""
        if move(db_session, asset, AssetState.DELETED, now=self._clock()):
            self._outbox.forget(db_session, asset.id, JobKind.EXPIRE)
            self._outbox.cancel(db_session, asset.id, (JobKind.PROMOTE, JobKind.VARIANTS))
            self._outbox.add(db_session, JobKind.PURGE, asset.id)

    def _lock(self, db_session: Session, asset_id: uuid.UUID) -> bool:
        """Hold the asset's row, if it is alive: a write that changes nothing, which all three databases have."""
        alive = update(Asset).where(Asset.id == asset_id, Asset.state.not_in(DEAD)).values(updated_at=self._clock())
        statement = alive.execution_options(synchronize_session=False)
        return cast("CursorResult[Any]", db_session.execute(statement)).rowcount > 0

    def _hold(self, db_session: Session, asset_id: uuid.UUID) -> None:
        if self._lock(db_session, asset_id):
            return
        state = db_session.scalar(_latest(select(Asset.state).where(Asset.id == asset_id)))
        if state is None:
            raise NotFound("asset", asset_id)
        raise NotDeliverable(asset_id, state)

    def _put(self, db_session: Session, asset_id: uuid.UUID, place: Mapping[str, Any]) -> bool:
        row = {"id": new_id(), "asset_id": asset_id, "created_at": self._clock(), **place}
        return insert_unless_taken(db_session, Attachment, row)

    def _replace(self, db_session: Session, asset_id: uuid.UUID, place: Mapping[str, Any]) -> Attachment | None:
        """What stands at the place, now with this asset; None when nothing stands there."""
        query = select(Attachment).filter_by(**place).with_for_update().execution_options(populate_existing=True)
        standing = db_session.scalars(query).one_or_none()
        if standing is not None and standing.asset_id != asset_id:
            before = standing.asset_id
            standing.asset_id = asset_id
            standing.created_at = self._clock()
            db_session.flush()
            self._let_go(db_session, before)
        return standing

    def _let_go(self, db_session: Session, asset_id: uuid.UUID) -> None:
        if self._lock(db_session, asset_id) and not _is_shown(db_session, asset_id):
            asset = db_session.get_one(Asset, asset_id, populate_existing=True, with_for_update=True)
            self.remove(db_session, asset)


def _is_shown(db_session: Session, asset_id: uuid.UUID) -> bool:
    """Whether anybody shows the asset; somebody who is about to stop counts, and asks again when he does.

    The caller holds the asset, so nobody can begin to show it.
    """
    shown = select(Attachment.id).where(Attachment.asset_id == asset_id).limit(1)
    if db_session.get_bind().dialect.name in ("postgresql", "sqlite"):
        return db_session.scalar(shown) is not None
    try:
        return db_session.scalar(shown.with_for_update(read=True, nowait=True)) is not None
    except OperationalError as error:
        if is_busy(error):
            return True
        raise


def _standing_at(db_session: Session, place: Mapping[str, Any]) -> Attachment:
    query = select(Attachment).filter_by(**place)
    return db_session.scalars(query.execution_options(populate_existing=True)).one()


def _latest(query: Select[Any]) -> Select[Any]:
    # A host's session on MariaDB answers from a snapshot, unless it is asked for a lock.
    return query.with_for_update(read=True)
