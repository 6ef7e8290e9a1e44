"""Jobs as rows: added in the transaction that makes them necessary, claimed with a lease, settled once.

A worker that dies lets its lease run out, and the job is claimed again. All writes after the claim
name the lease, so a worker that was given up for dead cannot settle a job that is no longer its own.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import ColumnElement, CursorResult, bindparam, case, delete, exists, select, update
from sqlalchemy.orm import Session

from flask_rindle.errors import DatabaseBusy
from flask_rindle.models.database import Database, insert_unless_taken, on_commit, skip_locked
from flask_rindle.models.job import JOBS, RUNS, Job
from flask_rindle.models.states import JobState, RunOutcome
from flask_rindle.outbox import due
from flask_rindle.outbox.claims import CANDIDATES, Claim, Hand, Pulse, look_and_take_at_once, pulses, take, take_at_once
from flask_rindle.outbox.kinds import LEASE_SECONDS, POLICIES, JobKind, Priority, Queue
from flask_rindle.outbox.reasons import error_code, error_text
from flask_rindle.types import Clock, new_id

MAX_ERRORS_KEPT = 10
_LOOKS = 5
_SETTLING_TRIES = 3
# These run for every job, so they are put together once.
_END = (
    update(JOBS)
    .where(
        JOBS.c.id == bindparam("its_id"),
        JOBS.c.state == JobState.RUNNING,
        JOBS.c.lease == bindparam("its_lease"),
        JOBS.c.rerun.is_(False),
    )
    .values(
        state=bindparam("its_state"), live_key=None, lease=None, lease_expires_at=None, finished_at=bindparam("now")
    )
)
_END_RUN = (
    update(RUNS)
    .where(RUNS.c.id == bindparam("run_id"), RUNS.c.outcome == RunOutcome.RUNNING)
    .values(
        outcome=bindparam("its_outcome"),
        error_code=bindparam("its_code"),
        error_detail=bindparam("its_detail"),
        finished_at=bindparam("now"),
    )
)
# The run waits for the job: whoever takes a job holds it before its runs.
_END_BOTH = _END_RUN.where(exists(_END.returning(JOBS.c.id).cte("ended").select()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Word of a job that waits, for whoever gets jobs run. The row is the truth."""

    job_id: uuid.UUID
    queue: str
    priority: int
    run_at: datetime


class Outbox:
    """The job table. `send` is given a notice of each job after the commit that made it wait."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self.send: Callable[[Notice], None] = lambda _: None

    # Adding and taking back, in the transaction of the reason

    def add(
        self,
        db_session: Session,
        kind: JobKind,
        asset_id: uuid.UUID,
        *,
        queue: str | None = None,
        priority: Priority = Priority.FIRST,
        not_before: datetime | None = None,
    ) -> None:
        """Make sure that this work is done after the caller's commit; once, if it is wanted twice.

        If the same work waits, that will do, and it waits no longer than this; if it is running, it will run once more.
        """
        now = self._clock()
        job = _job_of(kind, asset_id, queue=queue, priority=priority, run_at=not_before or now, now=now)
        same = JOBS.c.live_key == job["live_key"]
        # The lock on a live row, waiting or running, holds its worker back until our commit can be seen.
        while not _update(db_session, same, **_more_urgent(priority, job["run_at"])):
            if insert_unless_taken(db_session, Job, job):
                break
        # Also of a row that was there: whoever looked for it meanwhile passed it by, because we hold it.
        waiting = select(JOBS.c.id, JOBS.c.queue, JOBS.c.priority, JOBS.c.run_at).where(
            same, JOBS.c.state == JobState.QUEUED
        )
        found = db_session.execute(waiting).one_or_none()
        if found is not None:
            self._send_after_commit(db_session, *found)

    def cancel(self, db_session: Session, asset_id: uuid.UUID, kinds: Collection[JobKind]) -> int:
        """Call off this work on an asset: what waits is cancelled, what runs is asked to stop; how many that were."""
        mine = (JOBS.c.asset_id == asset_id, JOBS.c.kind.in_(kinds))
        # Held first: a worker that takes a job or gives it back meanwhile would slip through between the two.
        live = select(JOBS.c.id).where(*mine, JOBS.c.state.in_((JobState.QUEUED, JobState.RUNNING)))
        db_session.execute(live.order_by(JOBS.c.id).with_for_update())
        asked = _update(db_session, *mine, JOBS.c.state == JobState.RUNNING, cancel_requested=True, rerun=False)
        return asked + _update(db_session, *mine, JOBS.c.state == JobState.QUEUED, **self._ended(JobState.CANCELLED))

    def forget(self, db_session: Session, asset_id: uuid.UUID, kind: JobKind) -> None:
        """Take back work that waits and has lost its reason; it leaves no trace."""
        waiting = delete(JOBS).where(JOBS.c.asset_id == asset_id, JOBS.c.kind == kind, JOBS.c.state == JobState.QUEUED)
        db_session.execute(waiting.execution_options(synchronize_session=False))

    # Claiming

    def claim(
        self,
        worker: str,
        *,
        queues: Collection[str] | None = None,
        job_id: uuid.UUID | None = None,
        hand: Hand | None = None,
        without_look: bool = False,
    ) -> Claim | None:
        """The most urgent job that is due, or the given one if it is due; None when there is nothing to claim.

        With a `hand`, one that was seen a moment ago is taken without looking again, and what is seen is kept in it.
        `without_look`: one of the hand or none; several threads may do so at once.
        """
        now, wanted = self._clock(), due.all_queues(queues)
        if job_id is not None:
            with self._database.transaction() as db_session:
                return take(db_session, job_id, worker, now)
        hand = Hand() if hand is None else hand
        claim = self._take_up(hand, worker, now) if hand.is_good else None
        if claim is not None or without_look:
            return claim
        if self._database.writes_at_once:
            with self._database.statements() as connection:
                claim, seen = look_and_take_at_once(connection, wanted, worker, now)
            _deal_behind(hand, seen, claim)
            if not seen:
                return None
        # Looking must not take SQLite's only lock.
        if claim is None and (not self._database.has_one_writer or self._is_any_due(wanted, now)):
            return self._look_and_take(worker, wanted, now, hand)
        return claim

    def _take_up(self, hand: Hand, worker: str, now: datetime) -> Claim | None:
        if self._database.writes_at_once:
            with self._database.statements() as connection:
                claim = _first(take_at_once(connection, job_id, worker, now) for job_id in hand.draw())
        else:
            with self._database.transaction() as db_session:
                claim = _take_one(db_session, hand.draw(), worker, now)
        return claim

    def _look_and_take(self, worker: str, queues: tuple[Queue, ...], now: datetime, hand: Hand) -> Claim | None:
        for _ in range(_LOOKS):
            with self._database.transaction() as db_session:
                found = _candidates(db_session, queues, now)
                claim = _take_one(db_session, found, worker, now)
            _deal_behind(hand, found, claim)
            # A full hand that others took from us says that there is more.
            if claim is not None or len(found) < CANDIDATES:
                return claim
        return None

    def _is_any_due(self, queues: tuple[Queue, ...], now: datetime) -> bool:
        with self._database.reading() as db_session:
            return bool(_candidates(db_session, queues, now))

    def is_running(self, asset_id: uuid.UUID, kinds: Collection[JobKind]) -> bool:
        """Whether a worker is at this work on an asset, or was when it died."""
        query = select(JOBS.c.id).where(
            JOBS.c.asset_id == asset_id, JOBS.c.kind.in_(kinds), JOBS.c.state == JobState.RUNNING
        )
        with self._database.reading() as db_session:
            return db_session.scalar(query.limit(1)) is not None

    def next_due_at(self, queues: Collection[str] | None = None) -> datetime | None:
        """When the next job becomes due, by its time or because its worker's lease runs out."""
        with self._database.reading() as db_session:
            moment: datetime | None = db_session.scalar(due.next_moments(due.all_queues(queues)))
        return moment

    def unclaimed(self, overdue: timedelta, *, limit: int = 1000) -> list[Notice]:
        """Jobs that nobody claimed although they are overdue by so much, or abandoned; `limit` a lane at most."""
        now = self._clock()
        with self._database.reading() as db_session:
            rows = db_session.execute(due.unclaimed(limit), {"now": now, "since": now - overdue})
            return [
                Notice(job_id=row.id, queue=row.queue, priority=row.priority, run_at=min(row.run_at, now))
                for row in rows
            ]

    # Holding

    def look(self, claims: Iterable[Claim]) -> Mapping[Claim, Pulse]:
        """Whether each claim still holds, and whether somebody asked to stop."""
        with self._database.reading() as db_session:
            return pulses(db_session, list(claims))

    def heartbeat(self, claims: Iterable[Claim]) -> Mapping[Claim, Pulse]:
        """Keep the leases for another while, and look.

        There is no answer about a job whose row somebody holds: it must not keep the others from being heard.
        """
        held = list(claims)
        expires = self._clock() + timedelta(seconds=LEASE_SECONDS)
        mine = (JOBS.c.id.in_([claim.id for claim in held]), JOBS.c.lease.in_([claim.lease for claim in held]))
        running = select(JOBS.c.id).where(*mine, JOBS.c.state == JobState.RUNNING)
        with self._database.transaction() as db_session:
            free = set(db_session.scalars(skip_locked(running.order_by(JOBS.c.id), db_session)))
            _update(db_session, JOBS.c.id.in_(free), lease_expires_at=expires)
            found = pulses(db_session, held)
        return {claim: pulse for claim, pulse in found.items() if claim.id in free or pulse is Pulse.LOST}

    def is_held(self, db_session: Session, claim: Claim, *, to_the_end: bool = False) -> bool:
        """Whether the job is still this claim's; if so it stays so until the caller's commit.

        `to_the_end`: and nobody has asked meanwhile that the work be done once more.
        """
        mine = (*_held(claim), JOBS.c.rerun.is_(False)) if to_the_end else _held(claim)
        return db_session.scalar(select(JOBS.c.id).where(*mine).with_for_update()) is not None

    # Settling

    def succeed(self, claim: Claim) -> None:
        """The work is done; unless it was asked for again meanwhile."""
        self._end(claim, JobState.SUCCEEDED, RunOutcome.SUCCEEDED, None)

    def fail(self, claim: Claim, error: Exception) -> None:
        """The work will not be tried again."""
        self._end(claim, JobState.FAILED, RunOutcome.FAILED, error)

    def call_off(self, claim: Claim, reason: Exception | None = None) -> None:
        """The work ends undone and on purpose: it was cancelled while it ran, or its reason is gone."""
        self._end(claim, JobState.CANCELLED, RunOutcome.CANCELLED, reason)

    def retry(self, claim: Claim, error: Exception) -> None:
        """Try again after the policy's back-off."""
        delay = POLICIES[claim.kind].delay(claim.attempt)
        self._requeue(claim, RunOutcome.RETRIED, error, run_at=self._clock() + delay)

    def snooze(self, claim: Claim, delay: timedelta, reason: Exception) -> None:
        """Put the work off without using up an attempt."""
        run_at = self._clock() + delay
        self._requeue(claim, RunOutcome.RELEASED, reason, run_at=run_at, attempt=claim.attempt - 1)

    def release(self, claim: Claim) -> None:
        """Hand the work back untouched, as a worker does that is asked to stop."""
        self._requeue(claim, RunOutcome.RELEASED, None, run_at=self._clock(), attempt=claim.attempt - 1)

    def _end(self, claim: Claim, state: JobState, outcome: RunOutcome, error: Exception | None) -> None:
        def end(db_session: Session) -> None:
            self._remember(db_session, claim, outcome, error)
            now = self._clock()
            mine = {"its_id": claim.id, "its_lease": claim.lease}
            ended = db_session.connection().execute(_END, {**mine, "its_state": state, "now": now})
            if not ended.rowcount and _update(db_session, *_held(claim), attempt=0, **_waiting(now)):
                self._send_after_commit(db_session, claim.id, claim.queue, claim.priority, now)
            self._end_run(db_session, claim, outcome, error)

        if error is not None or not self._end_at_once(claim, state, outcome):
            self._settle(end)

    def _end_at_once(self, claim: Claim, state: JobState, outcome: RunOutcome) -> bool:
        """End job and run in one statement, where the database can; whether that was all there was to do."""
        if not self._database.writes_at_once:
            return False
        job = {"its_id": claim.id, "its_lease": claim.lease, "its_state": state}
        run = {"run_id": claim.run_id, "its_outcome": outcome, "its_code": None, "its_detail": None}
        with suppress(DatabaseBusy), self._database.statements() as connection:
            return connection.execute(_END_BOTH, {**job, **run, "now": self._clock()}).rowcount == 1
        return False

    def _requeue(
        self, claim: Claim, outcome: RunOutcome, error: Exception | None, *, run_at: datetime, **values: Any
    ) -> None:
        def requeue(db_session: Session) -> None:
            self._remember(db_session, claim, outcome, error)
            called_off = (JOBS.c.cancel_requested.is_(True), JOBS.c.rerun.is_(False))
            if not _update(db_session, *_held(claim), *called_off, **self._ended(JobState.CANCELLED)) and _update(
                db_session, *_held(claim), **_waiting(run_at), **values
            ):
                self._send_after_commit(db_session, claim.id, claim.queue, claim.priority, run_at)
            self._end_run(db_session, claim, outcome, error)

        self._settle(requeue)

    def _settle(self, write: Callable[[Session], None]) -> None:
        """In a transaction that is tried again when others stand in its way: the work itself is done already."""
        for tries_left in reversed(range(_SETTLING_TRIES)):
            try:
                with self._database.transaction() as db_session:
                    write(db_session)
            except DatabaseBusy:
                if not tries_left:
                    raise
            else:
                return

    def _remember(self, db_session: Session, claim: Claim, outcome: RunOutcome, error: Exception | None) -> None:
        # Being put off is no error, however often it happens.
        if error is None or outcome == RunOutcome.RELEASED:
            return
        errors = db_session.scalar(select(JOBS.c.errors).where(*_held(claim)))
        at, code, detail = self._clock().isoformat(), error_code(error), error_text(error)
        entry = {"attempt": claim.attempt, "at": at, "code": code, "detail": detail}
        if errors is not None:
            _update(db_session, *_held(claim), errors=[*errors, entry][-MAX_ERRORS_KEPT:])

    def _end_run(self, db_session: Session, claim: Claim, outcome: RunOutcome, error: Exception | None) -> None:
        """Say how the attempt ended. Last: whoever takes a job holds it before its runs."""
        code = None if error is None else error_code(error)
        detail = None if error is None else error_text(error)
        ended = {"now": self._clock(), "its_outcome": outcome, "its_code": code, "its_detail": detail}
        db_session.connection().execute(_END_RUN, {"run_id": claim.run_id, **ended})

    def _ended(self, state: JobState) -> dict[str, Any]:
        return {"state": state, "live_key": None, "lease": None, "lease_expires_at": None, "finished_at": self._clock()}

    def _send_after_commit(
        self, db_session: Session, job_id: uuid.UUID, queue: str, priority: int, run_at: datetime
    ) -> None:
        notice = Notice(job_id=job_id, queue=queue, priority=priority, run_at=run_at)
        # Looked up when it fires: the backend is wired after the outbox is made.
        on_commit(db_session, lambda: self.send(notice))


def _job_of(
    kind: JobKind, asset_id: uuid.UUID, *, queue: str | None, priority: Priority, run_at: datetime, now: datetime
) -> dict[str, Any]:
    policy = POLICIES[kind]
    return {
        "id": new_id(),
        "kind": kind,
        "queue": queue or policy.queue,
        "priority": int(priority),
        "asset_id": asset_id,
        "state": JobState.QUEUED,
        "live_key": f"{kind}:{asset_id}",
        "max_attempts": policy.max_attempts,
        "run_at": run_at,
        "created_at": now,
    }


def _more_urgent(priority: Priority, run_at: datetime) -> dict[str, Any]:
    """What another wish for the same work changes in its row: never to later or to less."""
    return {
        "rerun": case((JOBS.c.state == JobState.RUNNING, True), else_=JOBS.c.rerun),
        "priority": case((JOBS.c.priority > int(priority), int(priority)), else_=JOBS.c.priority),
        "run_at": case((JOBS.c.run_at > run_at, run_at), else_=JOBS.c.run_at),
    }


def _take_one(db_session: Session, job_ids: Iterable[uuid.UUID], worker: str, now: datetime) -> Claim | None:
    """The first of these jobs that can be had."""
    return _first(take(db_session, job_id, worker, now) for job_id in job_ids)


def _first(claims: Iterable[Claim | None]) -> Claim | None:
    return next((claim for claim in claims if claim is not None), None)


def _deal_behind(hand: Hand, seen: list[uuid.UUID], claim: Claim | None) -> None:
    """Put into the hand what was seen behind the job that was taken."""
    if claim is not None:
        hand.deal(seen[seen.index(claim.id) + 1 :])


def _candidates(db_session: Session, queues: tuple[Queue, ...], now: datetime) -> list[uuid.UUID]:
    return list(db_session.connection().scalars(due.candidates(queues, CANDIDATES), {"now": now}))


def _held(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    return (JOBS.c.id == claim.id, JOBS.c.state == JobState.RUNNING, JOBS.c.lease == claim.lease)


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
    return cast("CursorResult[Any]", db_session.execute(update(JOBS).where(*where).values(**values))).rowcount
