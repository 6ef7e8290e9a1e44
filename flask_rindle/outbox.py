"""Jobs as rows: added in the transaction that makes them necessary, claimed with a lease, settled once.

A worker that dies lets its lease run out, and the job is claimed again. All writes after the claim
name the lease, so a worker that was given up for dead cannot settle a job that is no longer its own.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, cast

from sqlalchemy import ColumnElement, CursorResult, and_, case, delete, func, or_, select, true, update
from sqlalchemy.orm import Session

from flask_rindle.errors import RindleError
from flask_rindle.models.database import Database, insert_unless_taken, on_commit
from flask_rindle.models.job import Job, ProcessingRun
from flask_rindle.models.states import JobState, RunOutcome
from flask_rindle.types import Clock, new_id

MAX_ERRORS_KEPT = 10
MAX_ERROR_CHARACTERS = 2000
LEASE_SECONDS = 60
_CANDIDATES = 8


class JobKind(StrEnum):
    """What there is to do. Every kind works on one asset."""

    PROMOTE = "promote"
    VARIANTS = "variants"
    PURGE = "purge"
    EXPIRE = "expire"


@dataclass(frozen=True, slots=True)
class JobPolicy:
    """Where a kind runs and how often it is tried."""

    queue: str
    max_attempts: int
    first_delay: timedelta = timedelta(seconds=2)
    longest_delay: timedelta = timedelta(hours=1)

    def delay(self, attempt: int) -> timedelta:
        """How long to wait after this attempt: doubling, with a quarter of it left to chance."""
        doubled: timedelta = min(self.first_delay * 2 ** min(attempt - 1, 20), self.longest_delay)
        return doubled * random.uniform(0.75, 1)  # noqa: S311 - spreads load, keeps no secret


POLICIES: Mapping[JobKind, JobPolicy] = {
    JobKind.PROMOTE: JobPolicy("rindle_promote", max_attempts=20),
    JobKind.VARIANTS: JobPolicy("rindle_process", max_attempts=8),
    JobKind.PURGE: JobPolicy("rindle_purge", max_attempts=30),
    JobKind.EXPIRE: JobPolicy("rindle_maintenance", max_attempts=30),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A job that is ours until its lease runs out. `lease` proves it in every write."""

    id: uuid.UUID
    kind: JobKind
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
    """What a heartbeat brings back."""

    OURS = "ours"
    CANCEL = "cancel"  # somebody asked to stop
    LOST = "lost"  # the lease ran out and the job is somebody else's


class Outbox:
    """The job table. `send` is told each job's id after the commit that made it due."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self.send: Callable[[uuid.UUID], None] = lambda _: None

    def add(
        self, db_session: Session, kind: JobKind, asset_id: uuid.UUID, *, not_before: datetime | None = None
    ) -> None:
        """Make sure that this work is done after the caller's commit; once, if it is wanted twice.

        If the same work is queued, that will do; if it is running, it will run once more.
        """
        live_key, policy, now = f"{kind}:{asset_id}", POLICIES[kind], self._clock()
        job: dict[str, Any] = {
            "id": new_id(),
            "kind": kind,
            "queue": policy.queue,
            "asset_id": asset_id,
            "state": JobState.QUEUED,
            "live_key": live_key,
            "max_attempts": policy.max_attempts,
            "run_at": not_before or now,
            "created_at": now,
        }
        # The lock on a live row, waiting or running, holds its worker back until our commit can be seen.
        running = case((Job.state == JobState.RUNNING, True), else_=Job.rerun)
        while not _update(db_session, Job.live_key == live_key, rerun=running):
            if insert_unless_taken(db_session, Job, job):
                self._send_after_commit(db_session, job["id"])
                return

    def cancel(self, db_session: Session, asset_id: uuid.UUID, kinds: Collection[JobKind]) -> None:
        """Call off this work on an asset: what waits is cancelled, what runs is asked to stop."""
        mine = (Job.asset_id == asset_id, Job.kind.in_(kinds))
        _update(db_session, *mine, Job.state == JobState.RUNNING, cancel_requested=True, rerun=False)
        _update(db_session, *mine, Job.state == JobState.QUEUED, **self._ended(JobState.CANCELLED))

    def forget(self, db_session: Session, asset_id: uuid.UUID, kind: JobKind) -> None:
        """Take back work that waits and has lost its reason; it leaves no trace."""
        waiting = delete(Job).where(Job.asset_id == asset_id, Job.kind == kind, Job.state == JobState.QUEUED)
        db_session.execute(waiting.execution_options(synchronize_session=False))

    def claim(
        self, worker: str, *, queues: Collection[str] | None = None, job_id: uuid.UUID | None = None
    ) -> Claim | None:
        """The next due job, or the given one if it is due; None when there is nothing to claim."""
        now = self._clock()
        query = select(Job.id, Job.lease).where(_is_due(now)).order_by(Job.run_at, Job.id).limit(_CANDIDATES)
        if queues is not None:
            query = query.where(Job.queue.in_(queues))
        if job_id is not None:
            query = query.where(Job.id == job_id)
        with self._database.reading() as db_session:
            candidates = db_session.execute(query).all()
        attempts = (self._try_claim(worker, found.id, found.lease, now) for found in candidates)
        return next((claim for claim in attempts if claim is not None), None)

    def _try_claim(self, worker: str, job_id: uuid.UUID, old_lease: uuid.UUID | None, now: datetime) -> Claim | None:
        lease = new_id()
        unchanged = Job.lease.is_(None) if old_lease is None else Job.lease == old_lease
        with self._database.transaction() as db_session:
            if not _update(
                db_session,
                Job.id == job_id,
                _is_due(now),
                unchanged,
                state=JobState.RUNNING,
                attempt=Job.attempt + 1,
                worker=worker,
                lease=lease,
                started_at=now,
                lease_expires_at=now + timedelta(seconds=LEASE_SECONDS),
            ):
                return None
            job = db_session.get_one(Job, job_id)
            return self._start_run(db_session, job, worker, lease, now)

    def _start_run(self, db_session: Session, job: Job, worker: str, lease: uuid.UUID, now: datetime) -> Claim:
        _update_run(db_session, ProcessingRun.job_id == job.id, outcome=RunOutcome.LOST, finished_at=now)
        run = ProcessingRun(
            id=new_id(),
            job_id=job.id,
            asset_id=job.asset_id,
            kind=job.kind,
            worker=worker,
            attempt=job.attempt,
            started_at=now,
        )
        db_session.add(run)
        return Claim(
            id=job.id,
            kind=JobKind(job.kind),
            asset_id=job.asset_id,
            attempt=job.attempt,
            max_attempts=job.max_attempts,
            worker=worker,
            lease=lease,
            run_id=run.id,
            bugs=sum(_is_bug(entry["code"]) for entry in job.errors),
        )

    def is_running(self, asset_id: uuid.UUID, kinds: Collection[JobKind]) -> bool:
        """Whether a worker is at this work on an asset, or was when it died."""
        query = select(Job.id).where(Job.asset_id == asset_id, Job.kind.in_(kinds), Job.state == JobState.RUNNING)
        with self._database.reading() as db_session:
            return db_session.scalar(query.limit(1)) is not None

    def heartbeat(self, claim: Claim) -> Pulse:
        """Keep the lease for another while, and hear whether to go on."""
        expires = self._clock() + timedelta(seconds=LEASE_SECONDS)
        with self._database.transaction() as db_session:
            if not _update(db_session, *_held(claim), lease_expires_at=expires):
                return Pulse.LOST
            asked = db_session.scalar(select(Job.cancel_requested).where(Job.id == claim.id))
            return Pulse.CANCEL if asked else Pulse.OURS

    def succeed(self, claim: Claim) -> None:
        """The work is done; unless it was asked for again meanwhile."""
        self._end(claim, JobState.SUCCEEDED, RunOutcome.SUCCEEDED, None)

    def fail(self, claim: Claim, error: Exception) -> None:
        """The work will not be tried again."""
        self._end(claim, JobState.FAILED, RunOutcome.FAILED, error)

    def call_off(self, claim: Claim) -> None:
        """The work was cancelled while it ran."""
        self._end(claim, JobState.CANCELLED, RunOutcome.CANCELLED, None)

    def retry(self, claim: Claim, error: Exception) -> None:
        """Try again after the policy's back-off."""
        delay = POLICIES[claim.kind].delay(claim.attempt)
        self._requeue(claim, RunOutcome.RETRIED, error, run_at=self._clock() + delay)

    def release(self, claim: Claim) -> None:
        """Hand the work back untouched, as a worker does that is asked to stop."""
        self._requeue(claim, RunOutcome.RELEASED, None, run_at=self._clock(), attempt=claim.attempt - 1)

    def next_due_at(self, queues: Collection[str] | None = None) -> datetime | None:
        """When the next job becomes due, by its time or because its worker's lease runs out."""
        here = true() if queues is None else Job.queue.in_(queues)
        waiting = select(func.min(Job.run_at)).where(Job.state == JobState.QUEUED, here)
        leased = select(func.min(Job.lease_expires_at)).where(Job.state == JobState.RUNNING, here)
        with self._database.reading() as db_session:
            moments = [db_session.scalar(waiting), db_session.scalar(leased)]
        return min((moment for moment in moments if moment is not None), default=None)

    def _end(self, claim: Claim, state: JobState, outcome: RunOutcome, error: Exception | None) -> None:
        with self._database.transaction() as db_session:
            self._note(db_session, claim, outcome, error)
            if _update(db_session, *_held(claim), Job.rerun.is_(False), **self._ended(state)):
                return
            again = _update(db_session, *_held(claim), attempt=0, **_waiting(self._clock()))
            if again:
                self._send_after_commit(db_session, claim.id)

    def _requeue(
        self, claim: Claim, outcome: RunOutcome, error: Exception | None, *, run_at: datetime, **values: Any
    ) -> None:
        with self._database.transaction() as db_session:
            self._note(db_session, claim, outcome, error)
            called_off = (Job.cancel_requested.is_(True), Job.rerun.is_(False))
            if _update(db_session, *_held(claim), *called_off, **self._ended(JobState.CANCELLED)):
                return
            if _update(db_session, *_held(claim), **_waiting(run_at), **values):
                self._send_after_commit(db_session, claim.id)

    def _note(self, db_session: Session, claim: Claim, outcome: RunOutcome, error: Exception | None) -> None:
        now = self._clock()
        code = None if error is None else error_code(error)
        detail = None if error is None else error_text(error)
        _update_run(
            db_session,
            ProcessingRun.id == claim.run_id,
            outcome=outcome,
            error_code=code,
            error_detail=detail,
            finished_at=now,
        )
        job = db_session.get(Job, claim.id)
        if error is not None and job is not None and job.lease == claim.lease:
            entry = {"attempt": claim.attempt, "at": now.isoformat(), "code": code, "detail": detail}
            job.errors = [*job.errors, entry][-MAX_ERRORS_KEPT:]

    def _ended(self, state: JobState) -> dict[str, Any]:
        return {"state": state, "live_key": None, "lease": None, "lease_expires_at": None, "finished_at": self._clock()}

    def _send_after_commit(self, db_session: Session, job_id: uuid.UUID) -> None:
        # Looked up when it fires: the backend is wired after the outbox is made.
        on_commit(db_session, lambda: self.send(job_id))


def error_code(error: Exception) -> str:
    """The stable code of an error of ours, the class name of anybody else's."""
    return error.code if isinstance(error, RindleError) else type(error).__name__[:64]


def error_text(error: Exception) -> str:
    """What an error says, as any database can hold it."""
    return str(error)[:MAX_ERROR_CHARACTERS].replace("\0", "").encode(errors="replace").decode()


def _is_bug(code: str) -> bool:
    # Codes of ours are in lower case, names of classes are not.
    return not code.islower()


def _is_due(now: datetime) -> ColumnElement[bool]:
    waiting = and_(Job.state == JobState.QUEUED, Job.run_at <= now)
    abandoned = and_(Job.state == JobState.RUNNING, Job.lease_expires_at <= now)
    return or_(waiting, abandoned)


def _held(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    return (Job.id == claim.id, Job.state == JobState.RUNNING, Job.lease == claim.lease)


def _waiting(run_at: datetime) -> dict[str, Any]:
    return {
        "state": JobState.QUEUED,
        "lease": None,
        "lease_expires_at": None,
        "cancel_requested": False,
        "rerun": False,
        "run_at": run_at,
    }


def _update(db_session: Session, *where: ColumnElement[bool], **values: Any) -> int:
    db_session.flush()
    statement = update(Job).where(*where).values(**values).execution_options(synchronize_session=False)
    return cast("CursorResult[Any]", db_session.execute(statement)).rowcount


def _update_run(db_session: Session, *where: ColumnElement[bool], **values: Any) -> None:
    running = ProcessingRun.outcome == RunOutcome.RUNNING
    statement = update(ProcessingRun).where(*where, running).values(**values)
    db_session.execute(statement.execution_options(synchronize_session=False))
