"""Claims: how a due row becomes somebody's for a while."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.orm import Session

from flask_rindle.models.database import can_skip_locked
from flask_rindle.models.job import JOBS, RUNS
from flask_rindle.models.states import JobState, RunOutcome
from flask_rindle.outbox import due
from flask_rindle.outbox.kinds import LEASE_SECONDS, JobKind
from flask_rindle.outbox.reasons import is_bug
from flask_rindle.types import new_id

# A more urgent job that comes meanwhile waits for so long.
HAND_SECONDS = 0.1


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
_FOUND = select(
    JOBS.c.id,
    JOBS.c.kind,
    JOBS.c.queue,
    JOBS.c.priority,
    JOBS.c.asset_id,
    JOBS.c.state,
    JOBS.c.attempt,
    JOBS.c.max_attempts,
    JOBS.c.errors,
    (JOBS.c.cancel_requested & ~JOBS.c.rerun).label("called_off"),
).where(JOBS.c.id == bindparam("job_id"), due.is_known(), due.is_due())
_CLAIMABLE = {skip: _FOUND.with_for_update(skip_locked=skip) for skip in (True, False)}
_TAKE = (
    update(JOBS)
    .where(JOBS.c.id == bindparam("job_id"))
    .values(
        state=JobState.RUNNING,
        attempt=bindparam("this_attempt"),
        worker=bindparam("its_worker"),
        lease=bindparam("its_lease"),
        started_at=bindparam("now"),
        lease_expires_at=bindparam("until"),
    )
)
_CALL_OFF = (
    update(JOBS)
    .where(JOBS.c.id == bindparam("job_id"))
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

    @property
    def is_good(self) -> bool:
        """Whether it holds something that was seen just now."""
        return bool(self._ids) and time.monotonic() - self._dealt_at < HAND_SECONDS

    def deal(self, ids: Iterable[uuid.UUID]) -> None:
        """Hold what was seen behind the job that was taken."""
        self._ids, self._dealt_at = deque(ids), time.monotonic()

    def draw(self) -> Iterator[uuid.UUID]:
        """One after the other; what is not drawn stays."""
        while self._ids:
            yield self._ids.popleft()


def take(db_session: Session, job_id: uuid.UUID, worker: str, now: datetime) -> Claim | None:
    """Make a due job this worker's; None when it is not due any more, or somebody holds its row.

    One that was called off while the worker that had it died ends here, as that worker would have ended it.
    Whoever holds the row is about to take or to change it: it is passed by, not waited for.
    """
    connection = db_session.connection()
    query = _CLAIMABLE[can_skip_locked(db_session)]
    job = connection.execute(query, {"job_id": job_id, "now": now}).one_or_none()
    if job is None:
        return None
    if job.state == JobState.RUNNING:
        connection.execute(_LOSE_RUN, {"lost_job_id": job_id, "now": now})
        if job.called_off:
            connection.execute(_CALL_OFF, {"job_id": job_id, "now": now})
            return None
    claim = _claim_of(job, worker)
    until = now + timedelta(seconds=LEASE_SECONDS)
    taken = {"this_attempt": claim.attempt, "its_worker": worker, "its_lease": claim.lease, "now": now, "until": until}
    connection.execute(_TAKE, {"job_id": job_id, **taken})
    connection.execute(_START_RUN, _run_of(claim, now))
    return claim


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


def _claim_of(job: Any, worker: str) -> Claim:
    return Claim(
        id=job.id,
        kind=JobKind(job.kind),
        queue=job.queue,
        priority=job.priority,
        asset_id=job.asset_id,
        attempt=job.attempt + 1,
        max_attempts=job.max_attempts,
        worker=worker,
        lease=new_id(),
        run_id=new_id(),
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
