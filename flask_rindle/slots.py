"""Slots: `avatar = attached("avatar", Avatar)` on a host model, and what stands in them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any, overload

from flask import current_app
from sqlalchemy.orm import Session

from flask_rindle.attachments import OwnerKey, check_slot
from flask_rindle.engine import Engine, current_engine
from flask_rindle.errors import MalformedRequest, NotFound
from flask_rindle.models.asset import Asset
from flask_rindle.models.attachment import Attachment
from flask_rindle.profiles import Profile
from flask_rindle.types import Disposition, parse_id
from flask_rindle.uploads.tickets import Ticket


def asset_id_of(asset: Asset | uuid.UUID | str) -> uuid.UUID:
    """The id of an asset given as row or id. Raises NotFound for what cannot be one."""
    asset_id = asset.id if isinstance(asset, Asset) else parse_id(asset)
    if asset_id is None:
        raise NotFound("asset", asset)
    return asset_id


MAX_FILES = 10_000
MAX_ACTOR_CHARACTERS = 255


def host_session() -> Session:
    """The host's `db.session` of this context."""
    session: Session = current_app.extensions["sqlalchemy"].session()
    return session


def ticket_for(
    engine: Engine,
    profile: type[Profile],
    *,
    owner: object = None,
    slot: str | None = None,
    actor: str | None = None,
    max_files: int = 1,
    view: Mapping[str, Any] | None = None,
) -> Ticket:
    """What somebody is about to be allowed; made out to `actor`, or to whoever is asking."""
    if (owner is None) != (slot is None):
        raise MalformedRequest("slot", "and owner go together")
    if slot is not None:
        check_slot(slot)
    if type(max_files) is not int or not 1 <= max_files <= MAX_FILES:
        raise MalformedRequest("max_files", f"must be a whole number from 1 to {MAX_FILES}")
    actor = engine.host.actor() if actor is None else actor
    if actor is not None and not _is_actor(actor):
        raise MalformedRequest("actor", f"must be printable text of at most {MAX_ACTOR_CHARACTERS} characters")
    declared = None if owner is None or slot is None else _declared_slot(owner, slot)
    return Ticket(
        profile=profile.name,
        owner=None if owner is None else engine.owners.key(owner),
        slot=slot,
        append=max_files > 1 or (declared is not None and declared.many),
        actor=actor,
        max_files=max_files,
        view=view,
    )


def _is_actor(actor: object) -> bool:
    return isinstance(actor, str) and 0 < len(actor) <= MAX_ACTOR_CHARACTERS and actor.isprintable()


def _declared_slot(owner: object, slot: str) -> _Declared | None:
    declared = (getattr(type(owner), name, None) for name in dir(type(owner)))
    return next((found for found in declared if isinstance(found, _Declared) and found.slot == slot), None)


class Slot:
    """What one owner has in one slot. Reading it costs three statements, once."""

    def __init__(self, owner: object, slot: str, profile: type[Profile]) -> None:
        self.owner = owner
        self.name = slot
        self.profile = profile
        self._found: list[Attachment] | None = None

    @property
    def attachments(self) -> list[Attachment]:
        """The attachments in order, with assets and variants."""
        if self._found is None:
            engine, session = current_engine(), host_session()
            key = engine.owners.key(self.owner)
            self._found = engine.attachments.find(session, [key], [self.name])[key][self.name]
        return self._found

    @property
    def assets(self) -> list[Asset]:
        """The assets in order."""
        return [attachment.asset for attachment in self.attachments]

    @property
    def asset(self) -> Asset | None:
        """The first asset, or None."""
        return next(iter(self.assets), None)

    def attach(self, asset: Asset | uuid.UUID | str) -> Attachment:
        """Put the asset here, in `db.session`; the host commits."""
        engine, session = current_engine(), host_session()
        session.flush()
        self._found = None
        return self._put(engine, session, asset_id_of(asset), engine.owners.key(self.owner))

    def _put(self, engine: Engine, session: Session, asset_id: uuid.UUID, key: OwnerKey) -> Attachment:
        return engine.attachments.attach(session, asset_id, key, self.name)

    def detach(self) -> None:
        """Empty the slot, in `db.session`; the host commits."""
        engine = current_engine()
        engine.attachments.detach(host_session(), engine.owners.key(self.owner), self.name)
        self._found = None

    def url(self, variant: str | None = None, *, disposition: Disposition = "inline") -> str | None:
        """Where the first asset, or its variant, is to be had; the original until the variant is ready."""
        if self.asset is None:
            return None
        engine = current_engine()
        engine.delivery.authorize(self.asset, engine.host.actor(), variant=variant)
        ready = None if variant is None else engine.delivery.ready_variant(self.asset, variant)
        if ready is not None:
            return engine.delivery.variant_url(self.asset, ready)
        return engine.delivery.original_url(self.asset, disposition=disposition)

    def __bool__(self) -> bool:
        return bool(self.attachments)

    def __iter__(self) -> Iterator[Asset]:
        return iter(self.assets)


class ManySlot(Slot):
    """A slot with any number of assets in order."""

    def _put(self, engine: Engine, session: Session, asset_id: uuid.UUID, key: OwnerKey) -> Attachment:
        return engine.attachments.append(session, asset_id, key, self.name)


class _Declared:
    """The descriptor on the host's model."""

    def __init__(self, slot: str, profile: type[Profile], *, many: bool) -> None:
        self.slot = check_slot(slot)
        self.profile = profile
        self.many = many

    @overload
    def __get__(self, owner: None, cls: type) -> _Declared: ...

    @overload
    def __get__(self, owner: object, cls: type) -> Slot: ...

    def __get__(self, owner: object | None, cls: type) -> Slot | _Declared:
        if owner is None:
            return self
        return (ManySlot if self.many else Slot)(owner, self.slot, self.profile)


def attached(slot: str, profile: type[Profile]) -> _Declared:
    """Declare a slot for one asset on a host model."""
    return _Declared(slot, profile, many=False)


def attached_many(slot: str, profile: type[Profile]) -> _Declared:
    """Declare a slot for any number of assets, in order, on a host model."""
    return _Declared(slot, profile, many=True)
