"""Live state: events as they are committed, and where an asset stands.

Event ids are handed out before their commit, so a transaction that commits late adds an event below
ids that have been read already. The feed remembers such gaps, reads them again for a while, and
gives its readers a resume id below which nothing can still appear.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Session, selectinload

from flask_rindle.errors import NotFound
from flask_rindle.events.base import Wakeups
from flask_rindle.models.asset import Asset
from flask_rindle.models.database import Database
from flask_rindle.models.event import Event
from flask_rindle.models.states import SETTLED
from flask_rindle.types import utcnow

log = logging.getLogger("flask_rindle.events")

POLL_SECONDS = 1.0
GAP_SECONDS = 30.0
_BATCH = 500
_MAX_GAPS = 1000
_QUEUE_EVENTS = 256
MAX_ID = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One event, as a browser may see it. `resume_id` is where to go on after a break."""

    resume_id: int
    kind: str
    asset_id: uuid.UUID
    name: str | None
    from_state: str
    to_state: str


@dataclass(eq=False)
class Subscription:
    """The changes of some assets. A reader that falls behind is cut off, and resumes by its id."""

    assets: frozenset[uuid.UUID]
    is_cut: bool = False
    _queue: queue.Queue[Change] = field(default_factory=lambda: queue.Queue(_QUEUE_EVENTS))

    def offer(self, change: Change) -> None:
        """Hand over a change without waiting."""
        try:
            self._queue.put_nowait(change)
        except queue.Full:
            self.is_cut = True

    def next(self, timeout: timedelta) -> Change | None:
        """The next change, or None when there was none in time."""
        try:
            return self._queue.get(timeout=timeout.total_seconds())
        except queue.Empty:
            return None


class Feed:
    """One reader of the event table for all subscribers of this process."""

    def __init__(self, database: Database, wakeups: Wakeups) -> None:
        self._database = database
        self._wakeups = wakeups
        self._lock = threading.Lock()
        self._subscriptions: set[Subscription] = set()
        self._thread: threading.Thread | None = None
        self._last_id = 0
        self._gaps: dict[int, float] = {}

    def asset(self, asset_id: uuid.UUID) -> Asset:
        """The asset with its variants, as committed now. Raises NotFound."""
        with self._database.reading() as db_session:
            query = select(Asset).where(Asset.id == asset_id).options(selectinload(Asset.variants))
            asset = db_session.scalars(query).one_or_none()
        if asset is None:
            raise NotFound("asset", asset_id)
        return asset

    def unsettled(self, assets: Collection[uuid.UUID]) -> set[uuid.UUID]:
        """Those of the assets that will still change by themselves."""
        with self._database.reading() as db_session:
            return set(db_session.scalars(select(Asset.id).where(Asset.id.in_(assets), Asset.state.not_in(SETTLED))))

    def since(self, assets: Collection[uuid.UUID], after_id: int) -> Iterator[Change]:
        """What was committed for these assets after an id, oldest first."""
        with self._database.reading() as db_session:
            safe_id = min(_recent_gaps(db_session), default=MAX_ID) - 1
        # By a sum, lest a database walk all events in the order of their ids to come upon these.
        mine = select(Event).where(Event.asset_id.in_(assets)).order_by(Event.id + 0).limit(_BATCH)
        while True:
            with self._database.reading() as db_session:
                events = db_session.scalars(mine.where(Event.id > after_id)).all()
            for event in events:
                after_id = event.id
                yield _change(event, min(event.id, safe_id))
            if len(events) < _BATCH:
                return

    @contextmanager
    def subscribe(self, assets: Collection[uuid.UUID]) -> Iterator[Subscription]:
        """Changes from now on. Read `since` after this, so that nothing falls in between."""
        subscription = Subscription(frozenset(assets))
        try:
            with self._lock:
                self._subscriptions.add(subscription)
                self._ensure_thread()
            yield subscription
        finally:
            with self._lock:
                self._subscriptions.discard(subscription)

    def _ensure_thread(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            with self._database.reading() as db_session:
                self._last_id = db_session.scalar(select(func.max(Event.id))) or 0
                self._gaps = dict.fromkeys(_recent_gaps(db_session), time.monotonic())
            self._thread = threading.Thread(target=self._run, name="rindle-events", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        rings = 0
        while True:
            rings = self._wakeups.wait(rings, POLL_SECONDS)
            with self._lock:
                if not self._subscriptions:
                    self._thread = None
                    return
            try:
                self.read()
            except Exception:
                log.exception("events could not be read; trying again")

    def read(self) -> None:
        """Look once, and hand out what is new."""
        with self._database.reading() as db_session:
            late = db_session.scalars(_oldest(Event.id.in_(self._gaps))).all() if self._gaps else ()
            events = [*late, *db_session.scalars(_oldest(Event.id > self._last_id))]
        for event in events:
            self._note(event.id)
        self._forget_old_gaps()
        resume_id = min(self._gaps, default=self._last_id + 1) - 1
        with self._lock:
            readers = list(self._subscriptions)
        for event in events:
            for reader in readers:
                if event.asset_id in reader.assets:
                    reader.offer(_change(event, min(event.id, resume_id)))

    def _note(self, event_id: int) -> None:
        if event_id in self._gaps:
            del self._gaps[event_id]
            return
        seen_at = time.monotonic()
        newest_gaps = range(max(self._last_id + 1, event_id - _MAX_GAPS), event_id)
        self._gaps.update(dict.fromkeys(newest_gaps, seen_at))
        self._last_id = max(self._last_id, event_id)

    def _forget_old_gaps(self) -> None:
        too_old = time.monotonic() - GAP_SECONDS
        self._gaps = {gap: seen_at for gap, seen_at in self._gaps.items() if seen_at > too_old}


def _oldest(which: ColumnElement[bool]) -> Select[Any]:
    return select(Event).where(which).order_by(Event.id).limit(_BATCH)


def _recent_gaps(db_session: Session) -> set[int]:
    """Ids below the newest that have been handed out lately and may still be committed."""
    newest = db_session.scalar(select(func.max(Event.id))) or 0
    since = utcnow() - timedelta(seconds=GAP_SECONDS)
    oldest = max(newest - _MAX_GAPS, 0)
    rows = db_session.execute(select(Event.id, Event.created_at).where(Event.id > oldest)).all()
    settled = max((row.id for row in rows if row.created_at < since), default=oldest)
    return set(range(settled + 1, newest)) - {row.id for row in rows}


def _change(event: Event, resume_id: int) -> Change:
    if event.asset_id is None:
        raise NotFound("asset", event.id)
    return Change(
        resume_id=resume_id,
        kind=event.kind,
        asset_id=event.asset_id,
        name=event.name,
        from_state=event.from_state,
        to_state=event.to_state,
    )
