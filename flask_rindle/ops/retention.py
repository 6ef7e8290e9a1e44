"""Retention: what has ended is kept for a while, and then forgotten in small portions.

Any number of processes may sweep at once; each passes by what another one holds.
"""

from __future__ import annotations

import threading
import time
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from flask_rindle.forks import renew_after_fork
from flask_rindle.models.base import Base
from flask_rindle.models.database import Database, skip_locked
from flask_rindle.models.event import Event
from flask_rindle.models.job import Job, ProcessingRun
from flask_rindle.ops.leftovers import Leftovers
from flask_rindle.types import Clock

BATCH = 500
SWEEP_SECONDS = 3600.0


class Retention:
    """Forgets jobs, their runs, and events that are older than they are worth."""

    def __init__(self, database: Database, clock: Clock, *, job_ttl: timedelta, event_ttl: timedelta) -> None:
        self._database = database
        self._clock = clock
        self._job_ttl = job_ttl
        self._event_ttl = event_ttl

    def sweep(self) -> int:
        """Forget one portion; how many rows that were. Nothing is left when it is zero."""
        now = self._clock()
        runs = self._forget(ProcessingRun, _ended(ProcessingRun, now - self._job_ttl))
        jobs = self._forget(Job, _ended(Job, now - self._job_ttl))
        return runs + jobs + self._forget_events(now - self._event_ttl)

    def sweep_all(self) -> int:
        """Forget everything that is over its time; how many rows that were."""
        total = 0
        while forgotten := self.sweep():
            total += forgotten
        return total

    def _forget(self, model: type[Base], query: Any) -> int:
        with self._database.transaction() as db_session:
            ids = list(db_session.scalars(skip_locked(query, db_session)))
            return _delete(db_session, model, ids)

    def _forget_events(self, before: datetime) -> int:
        """From the lowest id on: events are never changed, so their ids are in the order of their age."""
        oldest = select(Event.id, Event.created_at).order_by(Event.id).limit(BATCH)
        with self._database.transaction() as db_session:
            rows = db_session.execute(skip_locked(oldest, db_session)).all()
            return _delete(db_session, Event, [row.id for row in rows if row.created_at < before])


class Sweeper:
    """Sweeps once an hour for a process that has a moment to spare, a portion each time it is called."""

    def __init__(self, retention: Retention, leftovers: Leftovers) -> None:
        self._retention = retention
        self._leftovers = leftovers
        self._next_at = 0.0
        self.start_afresh()
        renew_after_fork(self)

    def start_afresh(self) -> None:
        """Whoever is sweeping does so in another process."""
        self._lock = threading.Lock()

    def __call__(self) -> None:
        """Remove leftovers and forget a portion, if it is time and nobody else in this process is at it."""
        if time.monotonic() < self._next_at or not self._lock.acquire(blocking=False):
            return
        try:
            if self._leftovers.remove() + self._retention.sweep() == 0:
                self._next_at = time.monotonic() + SWEEP_SECONDS
        finally:
            self._lock.release()


def _ended(model: type[Job] | type[ProcessingRun], before: datetime) -> Any:
    return select(model.id).where(model.finished_at < before).order_by(model.finished_at).limit(BATCH)


def _delete(db_session: Session, model: type[Any], ids: list[Any]) -> int:
    if ids:
        statement = delete(model).where(model.id.in_(ids))
        db_session.execute(statement.execution_options(synchronize_session=False))
    return len(ids)
