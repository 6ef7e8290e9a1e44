"""Claims: how a due row becomes somebody's for a while."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cache
from typing import Any

from sqlalchemy import CTE, Connection, Select, bindparam, func, insert, literal_column, select, true, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from flask_rindle.models.base import UTCDateTime
from flask_rindle.models.database import can_skip_locked
from flask_rindle.models.job import JOBS, RUNS
from flask_rindle.models.states import JobState, RunOutcome
from flask_rindle.outbox import due
from flask_rindle.outbox.kinds import LEASE_SECONDS, JobKind, Queue
from flask_rindle.outbox.reasons import is_bug
from flask_rindle.types import new_id

# A more urgent job that comes meanwhile waits for so long.
HAND_SECONDS = 0.1
# So many due jobs are seen in one look.
CANDIDATES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A job that is ours until its lease runs out. `lease` proves it in every write."""

    id: uuid.UUID
    kind: JobKind
    queue: str
    priority: int
    asset_id: uuid.UUID
    attempt: int
    max_attempts: int
    worker: str
    lease: uuid.UUID = field(repr=False)
    run_id: uuid.UUID
    bugs: int = 0  # earlier attempts that ended in an error of code, not of the world around it

    @property
    def is_last_attempt(self) -> bool:
        return self.attempt >= self.max_attempts


class Pulse(StrEnum):
    """What a look at a claimed job brings back."""

    OURS = "ours"
    CANCEL = "cancel"  # somebody asked to stop
    LOST = "lost"  # the lease ran out and the job is somebody else's


# These run for every job, so they are put together once.
_TOLD = JOBS.c["id", "kind", "queue", "priority", "asset_id", "attempt", "max_attempts", "errors"]
_ITS_ID = JOBS.c.id == bindparam("its_id")
_FOUND = select(*_TOLD, JOBS.c.state, (JOBS.c.cancel_requested & ~JOBS.c.rerun).label("called_off")).where(
    _ITS_ID, due.is_known(), due.is_due()
)
_CLAIMABLE = {skip: _FOUND.with_for_update(skip_locked=skip) for skip in (True, False)}
_TAKE = update(JOBS).values(
    state=JobState.RUNNING,
    attempt=JOBS.c.attempt + literal_column("1"),
    worker=bindparam("its_worker"),
    lease=bindparam("its_lease"),
    started_at=bindparam("now"),
    lease_expires_at=bindparam("until"),
)
_TAKE_FOUND = _TAKE.where(_ITS_ID)
_CALL_OFF = (
    update(JOBS)
    .where(_ITS_ID)
    .values(state=JobState.CANCELLED, live_key=None, lease=None, lease_expires_at=None, finished_at=bindparam("now"))
)
_START_RUN = insert(RUNS)
_LOSE_RUN = (
    update(RUNS)
    .where(RUNS.c.job_id == bindparam("lost_job_id"), RUNS.c.outcome == RunOutcome.RUNNING)
    .values(outcome=RunOutcome.LOST, finished_at=bindparam("now"))
)


class Hand:
    """Due jobs that a worker saw when it last looked, and may take up without looking again, for a moment."""

    def __init__(self) -> None:
        self._ids: deque[uuid.UUID] = deque()
        self._dealt_at = 0.0
        self.had_the_last = False  # the last look saw one job and nothing behind it

    @property
    def is_good(self) -> bool:
        """Whether it holds something that was seen just now."""
        return bool(self._ids) and time.monotonic() - self._dealt_at < HAND_SECONDS

    def deal(self, ids: Iterable[uuid.UUID]) -> None:
        """Hold what was seen behind the job that was taken."""
        self._ids, self._dealt_at = deque(ids), time.monotonic()
        self.had_the_last = not self._ids

    def draw(self) -> Iterator[uuid.UUID]:
        """One after the other; what is not drawn stays."""
        ids = self._ids
        with suppress(IndexError):  # another thread drew the last one
            while ids:
                yield ids.popleft()


def take(db_session: Session, job_id: uuid.UUID, worker: str, now: datetime) -> Claim | None:
    """Make a due job this worker's; None when it is not due any more, or somebody holds its row.

    One that was called off while the worker that had it died ends here, as that worker would have ended it.
    Whoever holds the row is about to take or to change it: it is passed by, not waited for.
    """
    connection = db_session.connection()
    query = _CLAIMABLE[can_skip_locked(db_session)]
    job = connection.execute(query, {"its_id": job_id, "now": now}).one_or_none()
    if job is None:
        return None
    if job.state == JobState.RUNNING:
        connection.execute(_LOSE_RUN, {"lost_job_id": job_id, "now": now})
        if job.called_off:
            connection.execute(_CALL_OFF, {"its_id": job_id, "now": now})
            return None
    wish = _wish_of(worker, now)
    connection.execute(_TAKE_FOUND, {"its_id": job_id, **wish})
    claim = _claim_of(job, wish, attempt=job.attempt + 1)
    connection.execute(_START_RUN, _run_of(claim, now))
    return claim


def take_at_once(connection: Connection, job_id: uuid.UUID, worker: str, now: datetime) -> Claim | None:
    """Make a job that waits this worker's, in one statement; None when it cannot be had, or was abandoned."""
    wish = _wish_of(worker, now)
    job = connection.execute(_take_by_id(), {"its_id": job_id, **wish}).one_or_none()
    return None if job is None else _claim_of(job, wish, attempt=job.attempt)


def look_and_take_at_once(
    connection: Connection, queues: tuple[Queue, ...], worker: str, now: datetime
) -> tuple[Claim | None, list[uuid.UUID]]:
    """Take the first due job that can be had, in one statement; and all that was seen.

    Something is seen and nothing is taken when others hold all that is due, or a dead worker left the first of it.
    """
    wish = _wish_of(worker, now)
    job = connection.execute(_take_the_first(queues), wish).one()
    return None if job.id is None else _claim_of(job, wish, attempt=job.attempt), job.seen


def pulses(db_session: Session, claims: Collection[Claim]) -> dict[Claim, Pulse]:
    """What has become of each claim. Not of each job: a process may hold one that it lost and took again."""
    ids = [claim.id for claim in claims]
    query = select(JOBS.c.id, JOBS.c.lease, JOBS.c.cancel_requested).where(
        JOBS.c.id.in_(ids), JOBS.c.state == JobState.RUNNING
    )
    found = {row.id: row for row in db_session.execute(query)}

    def pulse(claim: Claim) -> Pulse:
        row = found.get(claim.id)
        if row is None or row.lease != claim.lease:
            return Pulse.LOST
        return Pulse.CANCEL if row.cancel_requested else Pulse.OURS

    return {claim: pulse(claim) for claim in claims}


@cache
def _take_by_id() -> Select[Any]:
    found = select(JOBS.c.id).where(_ITS_ID, due.is_known(), due.is_waiting())
    taken = _taken(found.with_for_update(skip_locked=True))
    return select(taken).add_cte(_started(taken))


@cache
def _take_the_first(queues: tuple[Queue, ...]) -> Select[Any]:
    seen = due.lateral_candidates(queues, CANDIDATES).cte("seen")
    order = seen.c["rank", "at", "id"]
    free = select(JOBS.c.id, JOBS.c.state).join(seen, seen.c.id == JOBS.c.id).where(due.is_known(), due.is_due())
    # What follows waits until the head has been held, and sees no other: a CTE that locks runs once.
    head = free.order_by(*order).limit(literal_column("1")).with_for_update(of=JOBS, skip_locked=True).cte("head")
    taken = _taken(select(head.c.id).where(head.c.state == literal_column(f"'{JobState.QUEUED}'")))
    told = func.array(select(seen.c.id).order_by(*order).scalar_subquery(), type_=ARRAY(JOBS.c.id.type)).label("seen")
    always = select(literal_column("1")).subquery()
    return select(taken, told).select_from(always.outerjoin(taken, true())).add_cte(_started(taken))


def _taken(found: Select[Any]) -> CTE:
    return _TAKE.where(JOBS.c.id == found.scalar_subquery()).returning(*_TOLD).cte("taken")


def _started(taken: CTE) -> CTE:
    """The run of the job that is taken, if one is."""
    run = {
        "id": bindparam("its_run", type_=RUNS.c.id.type),
        "job_id": taken.c.id,
        "asset_id": taken.c.asset_id,
        "kind": taken.c.kind,
        "worker": bindparam("its_worker", type_=RUNS.c.worker.type),
        "attempt": taken.c.attempt,
        "outcome": literal_column(f"'{RunOutcome.RUNNING}'"),
        "started_at": bindparam("now", type_=UTCDateTime),
    }
    return insert(RUNS).from_select(list(run), select(*run.values())).cte("started")


def _wish_of(worker: str, now: datetime) -> dict[str, Any]:
    """What a claim writes, whichever job it is of."""
    until = now + timedelta(seconds=LEASE_SECONDS)
    return {"its_worker": worker, "its_lease": new_id(), "its_run": new_id(), "now": now, "until": until}


def _claim_of(job: Any, wish: dict[str, Any], *, attempt: int) -> Claim:
    return Claim(
        id=job.id,
        kind=JobKind(job.kind),
        queue=job.queue,
        priority=job.priority,
        asset_id=job.asset_id,
        attempt=attempt,
        max_attempts=job.max_attempts,
        worker=wish["its_worker"],
        lease=wish["its_lease"],
        run_id=wish["its_run"],
        bugs=sum(is_bug(entry["code"]) for entry in job.errors),
    )


def _run_of(claim: Claim, now: datetime) -> dict[str, Any]:
    return {
        "id": claim.run_id,
        "job_id": claim.id,
        "asset_id": claim.asset_id,
        "kind": claim.kind,
        "worker": claim.worker,
        "attempt": claim.attempt,
        "outcome": RunOutcome.RUNNING,
        "started_at": now,
    }
