"""The outbox: a job for every commit that needs one, run by one worker at a time, never lost."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, select, update
from sqlalchemy.orm import Session

from flask_rindle.errors import DatabaseBusy, SandboxFailed, StorageUnavailable, WorkInProgress
from flask_rindle.models import Asset, Job, ProcessingRun
from flask_rindle.models.database import Database
from flask_rindle.outbox import (
    LEASE_SECONDS,
    POLICIES,
    Claim,
    Hand,
    JobKind,
    JobPolicy,
    Notice,
    Outbox,
    Priority,
    Pulse,
    Queue,
)
from flask_rindle.outbox.outbox import MAX_ERRORS_KEPT
from flask_rindle.outbox.reasons import MAX_ERROR_CHARACTERS
from flask_rindle.testing.clock import FrozenClock
from flask_rindle.types import new_id

ASSET = new_id()


@pytest.fixture
def sent() -> list[uuid.UUID]:
    return []


@pytest.fixture
def outbox(database: Database, clock: FrozenClock, sent: list[uuid.UUID]) -> Outbox:
    outbox = Outbox(database, clock)
    outbox.send = lambda notice: sent.append(notice.job_id)
    return outbox


def add(outbox: Outbox, kind: JobKind = JobKind.PROMOTE, asset_id: uuid.UUID = ASSET) -> None:
    with outbox._database.transaction() as db_session:
        outbox.add(db_session, kind, asset_id)


def jobs(outbox: Outbox) -> list[Job]:
    with outbox._database.reading() as db_session:
        return list(db_session.scalars(select(Job).order_by(Job.id)))


def job(outbox: Outbox) -> Job:
    (only,) = jobs(outbox)
    return only


def outcomes(outbox: Outbox) -> list[str]:
    with outbox._database.reading() as db_session:
        return list(db_session.scalars(select(ProcessingRun.outcome).order_by(ProcessingRun.id)))


def claimed(outbox: Outbox, worker: str = "w1") -> Claim:
    claim = outbox.claim(worker)
    assert claim is not None
    return claim


TROUBLE = StorageUnavailable("default", "a/b")


class TestAdd:
    def test_queues_one_job_and_sends_it_after_the_commit(self, outbox: Outbox, sent: list[uuid.UUID]) -> None:
        with outbox._database.transaction() as db_session:
            outbox.add(db_session, JobKind.PROMOTE, ASSET)
            assert sent == []
        queued = job(outbox)
        assert sent == [queued.id]
        assert (queued.state, queued.kind, queued.asset_id, queued.queue) == (
            "queued",
            "promote",
            ASSET,
            "rindle_promote",
        )
        assert (queued.attempt, queued.max_attempts) == (0, POLICIES[JobKind.PROMOTE].max_attempts)

    def test_twice_makes_one_live_job(self, outbox: Outbox, sent: list[uuid.UUID]) -> None:
        add(outbox)
        add(outbox)
        assert sent == [job(outbox).id] * 2, "said again, for a worker that passed the row by while we held it"

    def test_of_another_kind_or_asset_makes_another_job(self, outbox: Outbox) -> None:
        add(outbox)
        add(outbox, JobKind.PURGE)
        add(outbox, JobKind.PROMOTE, new_id())
        assert len(jobs(outbox)) == 3

    def test_that_is_undone_leaves_and_sends_nothing(self, outbox: Outbox, sent: list[uuid.UUID]) -> None:
        def fail() -> None:
            with outbox._database.transaction() as db_session:
                outbox.add(db_session, JobKind.PROMOTE, ASSET)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert (jobs(outbox), sent) == ([], [])

    def test_in_a_savepoint_that_is_undone_leaves_and_sends_nothing(
        self, outbox: Outbox, sent: list[uuid.UUID]
    ) -> None:
        with outbox._database.transaction() as db_session:
            outbox.add(db_session, JobKind.PURGE, ASSET)
            savepoint = db_session.begin_nested()
            outbox.add(db_session, JobKind.PROMOTE, ASSET)
            savepoint.rollback()
        assert sent == [job(outbox).id]
        assert job(outbox).kind == "purge"

    def test_while_it_runs_makes_it_run_once_more(
        self, outbox: Outbox, sent: list[uuid.UUID], clock: FrozenClock
    ) -> None:
        add(outbox)
        claim = claimed(outbox)
        add(outbox)
        add(outbox)
        assert outbox.claim("w2") is None, "not before it has ended"
        clock.tick(seconds=5)
        outbox.succeed(claim)
        again = claimed(outbox)
        assert (again.id, again.attempt) == (claim.id, 1)
        assert sent == [claim.id, claim.id]
        outbox.succeed(again)
        assert (job(outbox).state, outcomes(outbox)) == ("succeeded", ["succeeded", "succeeded"])

    @pytest.mark.parametrize("end", ["fail", "call_off"])
    def test_while_it_runs_counts_also_when_that_run_ends_badly(self, outbox: Outbox, end: str) -> None:
        add(outbox)
        claim = claimed(outbox)
        add(outbox)
        outbox.fail(claim, TROUBLE) if end == "fail" else outbox.call_off(claim)
        assert (job(outbox).state, job(outbox).rerun) == ("queued", False)

    def test_after_it_has_ended_makes_a_new_job(self, outbox: Outbox) -> None:
        add(outbox)
        outbox.succeed(claimed(outbox))
        add(outbox)
        assert [found.state for found in jobs(outbox)] == ["succeeded", "queued"]

    def test_by_many_at_once_makes_one_live_job(self, outbox: Outbox) -> None:
        start = threading.Barrier(4)

        def race() -> None:
            start.wait()
            add(outbox)

        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(race) for _ in range(4)]:
                done.result()
        assert job(outbox).state == "queued"


class TestAddAgainstAWorker:
    """Whatever a worker does between the first statement of `add` and the commit: the work runs after that commit."""

    def seen(self, outbox: Outbox) -> str:
        with outbox._database.reading() as db_session:
            return db_session.scalars(select(Asset.filename)).one()

    def write(self, db_session: Session, name: str) -> None:
        db_session.execute(update(Asset).values(filename=name))

    def test_that_claims_what_was_queued(self, outbox: Outbox, database: Database, add_asset: Any) -> None:
        """A worker that is quick sees the old rows, so what it does is not enough."""
        add_asset(filename="old")
        add(outbox)
        started, worked = threading.Event(), list[str]()

        def work() -> None:
            started.set()
            claim = outbox.claim("w1")
            if claim is not None:
                worked.append(self.seen(outbox))
                outbox.succeed(claim)

        with ThreadPoolExecutor(1) as pool:
            with database.transaction() as db_session:
                outbox.add(db_session, JobKind.PROMOTE, ASSET)
                done = pool.submit(work)
                assert started.wait(10)
                wait([done], timeout=0.3)
                self.write(db_session, "new")
            done.result()
        work()
        assert worked[-1:] == ["new"]

    @pytest.mark.parametrize("moment", range(4))
    def test_that_ends_what_was_running(self, outbox: Outbox, database: Database, add_asset: Any, moment: int) -> None:
        """It ends just before a statement of the adder's, as far as no lock holds it back."""
        add_asset(filename="old")
        add(outbox)
        claim, worked = claimed(outbox), list[str]()
        with ThreadPoolExecutor(1) as pool, database.transaction() as db_session:
            with before_statement(db_session, moment, lambda: pool.submit(outbox.succeed, claim)):
                outbox.add(db_session, JobKind.PROMOTE, ASSET)
            self.write(db_session, "new")
        while (again := outbox.claim("w2")) is not None:
            worked.append(self.seen(outbox))
            outbox.succeed(again)
        assert worked == ["new"]


@contextmanager
def before_statement(db_session: Session, number: int, act: Callable[[], Future[None]]) -> Iterator[None]:
    """`act()` before the session's statement about jobs with this number; it gets a moment to end, or to wait."""
    seen = count()
    connection = db_session.connection()

    def listener(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "rindle_jobs" in statement and next(seen) == number:
            wait([act()], timeout=0.3)

    event.listen(connection, "before_cursor_execute", listener)
    yield
    event.remove(connection, "before_cursor_execute", listener)
    if next(seen) <= number:
        act()


class TestClaim:
    def test_of_nothing_is_nothing(self, outbox: Outbox) -> None:
        assert outbox.claim("w1") is None
        assert outbox.claim("w1", job_id=new_id()) is None

    def test_takes_the_job_with_a_lease_and_a_run(self, outbox: Outbox, clock: FrozenClock) -> None:
        add(outbox)
        claim = claimed(outbox)
        running = job(outbox)
        assert (claim.kind, claim.asset_id, claim.attempt, claim.worker) == (JobKind.PROMOTE, ASSET, 1, "w1")
        assert (running.state, running.worker, running.lease) == ("running", "w1", claim.lease)
        assert running.lease_expires_at == clock() + timedelta(seconds=LEASE_SECONDS)
        with outbox._database.reading() as db_session:
            run = db_session.get_one(ProcessingRun, claim.run_id)
        assert (run.job_id, run.asset_id, run.outcome, run.attempt, run.worker, run.started_at) == (
            claim.id,
            ASSET,
            "running",
            1,
            "w1",
            clock(),
        )

    def test_hides_its_lease(self, outbox: Outbox) -> None:
        add(outbox)
        claim = claimed(outbox)
        assert str(claim.lease) not in repr(claim)

    def test_is_given_to_one_of_many(self, outbox: Outbox) -> None:
        add(outbox)
        start = threading.Barrier(4)

        def race(worker: int) -> Claim | None:
            start.wait()
            return outbox.claim(str(worker))

        with ThreadPoolExecutor(4) as pool:
            claims = [done.result() for done in [pool.submit(race, n) for n in range(4)]]
        assert len([claim for claim in claims if claim is not None]) == 1
        assert outcomes(outbox) == ["running"]

    def test_takes_the_job_that_is_due_first(self, outbox: Outbox, clock: FrozenClock) -> None:
        first, second = new_id(), new_id()
        add(outbox, asset_id=second)
        clock.tick(seconds=-10)
        add(outbox, asset_id=first)
        clock.tick(seconds=10)
        assert [claimed(outbox).asset_id, claimed(outbox).asset_id] == [first, second]

    def test_of_one_job_takes_no_other(self, outbox: Outbox) -> None:
        add(outbox)
        add(outbox, asset_id=new_id())
        wanted = jobs(outbox)[1].id
        claim = outbox.claim("w1", job_id=wanted)
        assert claim is not None
        assert claim.id == wanted
        assert outbox.claim("w1", job_id=wanted) is None

    def test_keeps_to_its_queues(self, outbox: Outbox) -> None:
        add(outbox)
        assert outbox.claim("w1", queues=["rindle_purge"]) is None
        assert outbox.claim("w1", queues=["rindle_purge", "rindle_promote"]) is not None

    def test_past_jobs_that_others_take_meanwhile_goes_on(self, outbox: Outbox) -> None:
        for _ in range(20):
            add(outbox, asset_id=new_id())
        with ThreadPoolExecutor(4) as pool:
            taken = list(pool.map(lambda n: outbox.claim(str(n)), range(20)))
        ids = [claim.id for claim in taken if claim is not None]
        assert len(set(ids)) == len(ids)
        while (claim := outbox.claim("last")) is not None:
            ids.append(claim.id)
        assert len(set(ids)) == len(ids) == 20


class TestLease:
    def test_that_runs_out_gives_the_job_to_another(self, outbox: Outbox, clock: FrozenClock) -> None:
        add(outbox)
        lost = claimed(outbox)
        clock.tick(seconds=LEASE_SECONDS - 1)
        assert outbox.claim("w2") is None
        clock.tick(seconds=1)
        found = claimed(outbox, "w2")
        assert (found.id, found.attempt) == (lost.id, 2)
        assert outcomes(outbox) == ["lost", "running"]

    @pytest.mark.parametrize("verb", ["succeed", "fail", "retry", "release", "call_off"])
    def test_that_ran_out_settles_nothing(
        self, outbox: Outbox, clock: FrozenClock, sent: list[uuid.UUID], verb: str
    ) -> None:
        add(outbox)
        lost = claimed(outbox)
        clock.tick(seconds=LEASE_SECONDS)
        claimed(outbox, "w2")
        sent.clear()
        getattr(outbox, verb)(*((lost, TROUBLE) if verb in ("fail", "retry") else (lost,)))
        assert (job(outbox).state, job(outbox).worker, job(outbox).errors) == ("running", "w2", [])
        assert outcomes(outbox) == ["lost", "running"]
        assert sent == []

    def test_that_ran_out_settles_nothing_of_a_rerun(self, outbox: Outbox, clock: FrozenClock) -> None:
        """The wish to run once more stays with the worker who has the job now."""
        add(outbox)
        lost = claimed(outbox)
        clock.tick(seconds=LEASE_SECONDS)
        claimed(outbox, "w2")
        add(outbox)
        outbox.succeed(lost)
        assert (job(outbox).state, job(outbox).rerun) == ("running", True)

    def test_is_kept_by_heartbeats(self, outbox: Outbox, clock: FrozenClock) -> None:
        add(outbox)
        claim = claimed(outbox)
        for _ in range(5):
            clock.tick(seconds=LEASE_SECONDS - 1)
            assert outbox.heartbeat([claim])[claim] is Pulse.OURS
        assert outbox.claim("w2") is None

    def test_a_heartbeat_hears_that_the_job_is_somebody_elses(self, outbox: Outbox, clock: FrozenClock) -> None:
        add(outbox)
        lost = claimed(outbox)
        clock.tick(seconds=LEASE_SECONDS)
        mine = claimed(outbox, "w2")
        assert outbox.heartbeat([lost])[lost] is Pulse.LOST
        assert outbox.heartbeat([mine])[mine] is Pulse.OURS
        outbox.succeed(mine)
        assert outbox.heartbeat([mine])[mine] is Pulse.LOST

    def test_of_a_job_that_is_retried_is_let_go(self, outbox: Outbox, clock: FrozenClock) -> None:
        add(outbox)
        claim = claimed(outbox)
        outbox.retry(claim, TROUBLE)
        clock.tick(hours=1)
        claimed(outbox, "w2")
        outbox.succeed(claim)
        assert job(outbox).state == "running"


class TestEnd:
    def test_success_frees_the_key(self, outbox: Outbox, clock: FrozenClock) -> None:
        add(outbox)
        outbox.succeed(claimed(outbox))
        ended = job(outbox)
        assert (ended.state, ended.live_key, ended.lease, ended.finished_at) == ("succeeded", None, None, clock())
        assert outcomes(outbox) == ["succeeded"]
        assert outbox.claim("w2") is None

    def test_failure_is_remembered_on_job_and_run(self, outbox: Outbox, clock: FrozenClock) -> None:
        add(outbox)
        outbox.fail(claimed(outbox), TROUBLE)
        ended = job(outbox)
        assert (ended.state, ended.live_key) == ("failed", None)
        assert ended.errors == [
            {"attempt": 1, "at": clock().isoformat(), "code": "storage_unavailable", "detail": str(TROUBLE)}
        ]
        with outbox._database.reading() as db_session:
            run = db_session.scalars(select(ProcessingRun)).one()
        assert (run.outcome, run.error_code, run.error_detail, run.finished_at) == (
            "failed",
            "storage_unavailable",
            str(TROUBLE),
            clock(),
        )

    def test_an_error_of_somebody_else_is_named_by_its_class(self, outbox: Outbox) -> None:
        add(outbox)
        outbox.fail(claimed(outbox), ZeroDivisionError("x" * 9000))
        (entry,) = job(outbox).errors
        assert entry["code"] == "ZeroDivisionError"
        assert len(entry["detail"]) == MAX_ERROR_CHARACTERS

    def test_an_error_is_remembered_whatever_characters_it_has(self, outbox: Outbox) -> None:
        """PostgreSQL's texts hold no NUL, and no database holds half a pair of surrogates."""
        add(outbox)
        outbox.fail(claimed(outbox), ValueError("a\0b\ud800\U0001f9ca"))
        (entry,) = job(outbox).errors
        assert (job(outbox).state, entry["code"], entry["detail"]) == ("failed", "ValueError", "ab?\U0001f9ca")
        with outbox._database.reading() as db_session:
            assert db_session.scalars(select(ProcessingRun.error_detail)).one() == entry["detail"]

    def test_history_keeps_the_latest(self, outbox: Outbox, clock: FrozenClock) -> None:
        add(outbox)
        for _ in range(MAX_ERRORS_KEPT + 3):
            clock.tick(hours=2)
            outbox.retry(claimed(outbox), TROUBLE)
        attempts = [entry["attempt"] for entry in job(outbox).errors]
        assert attempts == list(range(4, MAX_ERRORS_KEPT + 4))

    def test_retry_waits_and_sends(self, outbox: Outbox, clock: FrozenClock, sent: list[uuid.UUID]) -> None:
        add(outbox)
        claim = claimed(outbox)
        outbox.retry(claim, TROUBLE)
        assert sent == [claim.id, claim.id]
        waiting = job(outbox)
        assert (waiting.state, waiting.lease, waiting.live_key) == ("queued", None, f"promote:{ASSET}")
        assert timedelta(seconds=1.5) <= waiting.run_at - clock() <= timedelta(seconds=2)
        assert outbox.claim("w2") is None
        clock.tick(seconds=2)
        assert claimed(outbox, "w2").attempt == 2
        assert outcomes(outbox) == ["retried", "running"]

    def test_release_hands_back_without_a_mark(self, outbox: Outbox, sent: list[uuid.UUID]) -> None:
        add(outbox)
        claim = claimed(outbox)
        outbox.release(claim)
        assert (job(outbox).state, job(outbox).attempt, job(outbox).errors) == ("queued", 0, [])
        again = claimed(outbox, "w2")
        assert again.attempt == 1
        assert outcomes(outbox) == ["released", "running"]
        assert sent == [claim.id, claim.id]

    @pytest.mark.parametrize("verb", ["retry", "release"])
    def test_another_attempt_is_also_the_rerun_that_was_asked_for(
        self, outbox: Outbox, clock: FrozenClock, verb: str
    ) -> None:
        add(outbox)
        claim = claimed(outbox)
        add(outbox)
        outbox.retry(claim, TROUBLE) if verb == "retry" else outbox.release(claim)
        clock.tick(hours=2)
        outbox.succeed(claimed(outbox))
        assert job(outbox).state == "succeeded"

    def test_the_last_attempt_knows_that_it_is(self, outbox: Outbox) -> None:
        add(outbox)
        claim = claimed(outbox)
        assert not claim.is_last_attempt
        assert replace(claim, attempt=claim.max_attempts).is_last_attempt


class TestCancel:
    def cancel(self, outbox: Outbox, *kinds: JobKind) -> None:
        with outbox._database.transaction() as db_session:
            outbox.cancel(db_session, ASSET, kinds)

    def test_of_what_waits_ends_it(self, outbox: Outbox, clock: FrozenClock) -> None:
        add(outbox)
        self.cancel(outbox, JobKind.PROMOTE)
        ended = job(outbox)
        assert (ended.state, ended.live_key, ended.finished_at) == ("cancelled", None, clock())
        assert outbox.claim("w1") is None

    def test_of_what_runs_asks_it_to_stop(self, outbox: Outbox) -> None:
        add(outbox)
        claim = claimed(outbox)
        self.cancel(outbox, JobKind.PROMOTE)
        assert outbox.heartbeat([claim])[claim] is Pulse.CANCEL
        outbox.call_off(claim)
        assert (job(outbox).state, outcomes(outbox)) == ("cancelled", ["cancelled"])

    def test_takes_back_the_wish_to_run_once_more(self, outbox: Outbox) -> None:
        add(outbox)
        claim = claimed(outbox)
        add(outbox)
        self.cancel(outbox, JobKind.PROMOTE)
        outbox.call_off(claim)
        assert job(outbox).state == "cancelled"

    def test_leaves_other_kinds_and_assets_alone(self, outbox: Outbox) -> None:
        add(outbox, JobKind.PURGE)
        add(outbox, JobKind.PROMOTE, new_id())
        self.cancel(outbox, JobKind.PROMOTE, JobKind.VARIANTS)
        assert [found.state for found in jobs(outbox)] == ["queued", "queued"]

    def test_of_nothing_is_quiet(self, outbox: Outbox) -> None:
        self.cancel(outbox, JobKind.PROMOTE)
        assert jobs(outbox) == []

    def test_then_wanted_again_runs_again(self, outbox: Outbox) -> None:
        """Work that was called off while it ran, and asked for anew before it stopped, is not lost."""
        add(outbox)
        claim = claimed(outbox)
        self.cancel(outbox, JobKind.PROMOTE)
        add(outbox)
        outbox.call_off(claim)
        again = claimed(outbox)
        assert outbox.heartbeat([again])[again] is Pulse.OURS

    @pytest.mark.parametrize("verb", ["retry", "release"])
    def test_is_not_undone_by_a_worker_who_has_not_heard(self, outbox: Outbox, clock: FrozenClock, verb: str) -> None:
        """Trouble, or a stop of the worker, that comes before its next heartbeat does not bring the work back."""
        add(outbox)
        claim = claimed(outbox)
        self.cancel(outbox, JobKind.PROMOTE)
        outbox.retry(claim, TROUBLE) if verb == "retry" else outbox.release(claim)
        clock.tick(hours=2)
        assert outbox.claim("w2") is None
        assert job(outbox).state == "cancelled"

    def test_is_not_undone_by_a_dead_worker(self, outbox: Outbox, clock: FrozenClock) -> None:
        add(outbox)
        claimed(outbox)
        self.cancel(outbox, JobKind.PROMOTE)
        clock.tick(seconds=LEASE_SECONDS)
        again = outbox.claim("w2")
        assert again is None or outbox.heartbeat([again])[again] is Pulse.CANCEL


class TestNextDue:
    def test_is_nothing_without_jobs(self, outbox: Outbox) -> None:
        assert outbox.next_due_at() is None
        add(outbox)
        outbox.succeed(claimed(outbox))
        assert outbox.next_due_at() is None

    def test_is_the_earliest_of_waiting_jobs_and_running_leases(self, outbox: Outbox, clock: FrozenClock) -> None:
        add(outbox)
        claim = claimed(outbox)
        leased_until = clock() + timedelta(seconds=LEASE_SECONDS)
        assert outbox.next_due_at() == leased_until
        clock.tick(seconds=90)
        add(outbox, JobKind.PURGE)
        assert outbox.next_due_at() == leased_until
        outbox.heartbeat([claim])[claim]
        assert outbox.next_due_at() == clock()
        assert outbox.next_due_at(["rindle_promote"]) == clock() + timedelta(seconds=LEASE_SECONDS)


class TestPolicy:
    @pytest.mark.parametrize("attempt", [1, 2, 3, 10, 30, 5000])
    def test_delays_double_up_to_the_longest(self, attempt: int) -> None:
        policy = JobPolicy("q", max_attempts=9)
        whole = min(2 * 2 ** min(attempt - 1, 40), 3600)
        for _ in range(50):
            assert whole * 0.75 <= policy.delay(attempt).total_seconds() <= whole

    def test_delays_are_spread(self) -> None:
        assert len({JobPolicy("q", max_attempts=9).delay(5) for _ in range(20)}) > 1

    def test_every_kind_has_one(self) -> None:
        assert set(POLICIES) == set(JobKind)


def test_a_failed_run_names_our_code(outbox: Outbox) -> None:
    add(outbox)
    outbox.retry(claimed(outbox), SandboxFailed("killed"))
    assert job(outbox).errors[0]["code"] == "sandbox_failed"


def put(outbox: Outbox, asset_id: uuid.UUID | None = None, kind: JobKind = JobKind.VARIANTS, **wish: Any) -> uuid.UUID:
    """Add a job, of a new asset unless one is given; the asset's id."""
    asset_id = asset_id or new_id()
    with outbox._database.transaction() as db_session:
        outbox.add(db_session, kind, asset_id, **wish)
    return asset_id


def alter(outbox: Outbox, asset_id: uuid.UUID, **values: Any) -> None:
    with outbox._database.transaction() as db_session:
        db_session.execute(update(Job).where(Job.asset_id == asset_id).values(**values))


def claims(outbox: Outbox, queues: list[str] | None = None) -> list[uuid.UUID]:
    """The assets of everything that can be claimed, in the order in which it is given out."""
    found: list[uuid.UUID] = []
    while (claim := outbox.claim("w", queues=queues)) is not None:
        found.append(claim.asset_id)
    return found


class TestOrder:
    def test_what_somebody_waits_for_goes_before_what_is_made_anew(self, outbox: Outbox, clock: FrozenClock) -> None:
        """Within a queue and across queues, however long the other has waited."""
        again = [put(outbox, queue=queue, priority=Priority.AGAIN) for queue in (Queue.PROCESS, Queue.MEDIA)]
        clock.tick(minutes=1)
        first = [put(outbox, queue=queue) for queue in (Queue.MEDIA, Queue.PROCESS)]
        clock.tick(minutes=1)
        assert set(claims(outbox)[:2]) == set(first)
        clock.tick(seconds=LEASE_SECONDS)
        assert len(claims(outbox)) == len(again + first)

    def test_within_a_priority_the_oldest_goes_first_across_queues(self, outbox: Outbox, clock: FrozenClock) -> None:
        order = []
        for queue in (Queue.PURGE, Queue.PROMOTE, Queue.MEDIA, Queue.PROMOTE):
            order.append(put(outbox, queue=queue))
            clock.tick(seconds=1)
        assert claims(outbox) == order

    def test_what_a_dead_worker_left_goes_before_all(self, outbox: Outbox, clock: FrozenClock) -> None:
        left = put(outbox, priority=Priority.AGAIN)
        claimed(outbox, "dead")
        clock.tick(seconds=LEASE_SECONDS - 10)
        put(outbox, kind=JobKind.PROMOTE)
        clock.tick(seconds=10)
        assert claims(outbox)[0] == left

    def test_some_queues_give_their_jobs_only_and_in_order(self, outbox: Outbox, clock: FrozenClock) -> None:
        """Also what was abandoned there; what was abandoned elsewhere is left to others."""
        elsewhere, here = put(outbox, queue=Queue.PURGE), put(outbox, queue=Queue.MEDIA)
        assert len(claims(outbox)) == 2
        clock.tick(seconds=LEASE_SECONDS)
        again = put(outbox, queue=Queue.PROCESS, priority=Priority.AGAIN)
        first = put(outbox, queue=Queue.PROCESS)
        other = put(outbox, queue=Queue.PROMOTE)
        assert claims(outbox, [Queue.MEDIA, Queue.PROCESS]) == [here, first, again]
        assert set(claims(outbox)) == {elsewhere, other}

    def test_a_full_lane_does_not_hide_another(self, outbox: Outbox, clock: FrozenClock) -> None:
        """Whatever order the database meets the lanes in."""
        crowds = [
            put(outbox, queue=queue, priority=Priority.AGAIN, not_before=clock() - timedelta(hours=1))
            for queue in Queue
            for _ in range(9)
        ]
        for queue in Queue:
            urgent = put(outbox, queue=queue)
            assert claimed(outbox).asset_id == urgent
        assert len(claims(outbox)) == len(crowds)

    def test_more_jobs_than_a_look_sees_all_come_in_order(self, outbox: Outbox, clock: FrozenClock) -> None:
        order = [put(outbox, not_before=clock() - timedelta(seconds=60 - n)) for n in range(12)]
        assert claims(outbox) == order


class TestUnknownKinds:
    """A newer release has added a kind; this one leaves its rows alone."""

    def test_are_not_claimed_and_hide_nothing(self, outbox: Outbox, clock: FrozenClock) -> None:
        for _ in range(10):
            alter(outbox, put(outbox), kind="holograms")
        held = put(outbox)
        claimed(outbox, "newer")
        alter(outbox, held, kind="holograms")
        clock.tick(seconds=LEASE_SECONDS)
        known = put(outbox)
        (job_id,) = [found.id for found in jobs(outbox) if found.asset_id == held]
        assert outbox.claim("w", job_id=job_id) is None
        assert claims(outbox) == [known]

    def test_do_not_keep_a_worker_awake(self, outbox: Outbox, clock: FrozenClock) -> None:
        """A worker that is told of work which it cannot claim looks again and again."""
        alter(outbox, put(outbox), kind="holograms")
        held = put(outbox)
        claimed(outbox, "newer")
        alter(outbox, held, kind="holograms")
        clock.tick(hours=1)
        assert outbox.next_due_at() is None
        due_at = clock() + timedelta(minutes=5)
        put(outbox, not_before=due_at)
        assert (outbox.next_due_at(), outbox.next_due_at([Queue.PURGE])) == (due_at, None)


@pytest.mark.parametrize("any_database", ["sqlite"], indirect=True)
class TestSnooze:
    REASON = WorkInProgress(ASSET)

    def snoozed(self, outbox: Outbox) -> Claim:
        add(outbox)
        claim = claimed(outbox)
        outbox.snooze(claim, timedelta(minutes=5), self.REASON)
        return claim

    def test_puts_off_without_using_an_attempt(self, outbox: Outbox, clock: FrozenClock, sent: list[uuid.UUID]) -> None:
        claim = self.snoozed(outbox)
        waiting = job(outbox)
        assert (waiting.state, waiting.attempt, waiting.lease, waiting.errors) == ("queued", 0, None, [])
        assert waiting.run_at == clock() + timedelta(minutes=5)
        assert sent == [claim.id, claim.id]
        with outbox._database.reading() as db_session:
            run = db_session.get_one(ProcessingRun, claim.run_id)
        assert (run.outcome, run.error_code, run.finished_at) == ("released", "work_in_progress", clock())
        clock.tick(seconds=299)
        assert outbox.claim("w2") is None
        clock.tick(seconds=1)
        assert claimed(outbox).attempt == 1

    def test_then_cancelled_ends(self, outbox: Outbox, clock: FrozenClock) -> None:
        self.snoozed(outbox)
        with outbox._database.transaction() as db_session:
            assert outbox.cancel(db_session, ASSET, (JobKind.PROMOTE,)) == 1
        clock.tick(hours=1)
        assert (job(outbox).state, outbox.claim("w2")) == ("cancelled", None)

    def test_of_what_was_cancelled_meanwhile_ends_it(self, outbox: Outbox) -> None:
        add(outbox)
        claim = claimed(outbox)
        with outbox._database.transaction() as db_session:
            outbox.cancel(db_session, ASSET, (JobKind.PROMOTE,))
        outbox.snooze(claim, timedelta(minutes=5), self.REASON)
        assert (job(outbox).state, job(outbox).live_key) == ("cancelled", None)

    def test_then_asked_again_is_due_at_once(self, outbox: Outbox) -> None:
        claim = self.snoozed(outbox)
        add(outbox)
        assert claimed(outbox).id == claim.id


@pytest.mark.parametrize("any_database", ["sqlite"], indirect=True)
class TestReason:
    def test_of_what_was_called_off_is_kept(self, outbox: Outbox) -> None:
        add(outbox)
        outbox.call_off(claimed(outbox), TROUBLE)
        ended = job(outbox)
        assert (ended.state, [entry["code"] for entry in ended.errors]) == ("cancelled", ["storage_unavailable"])
        with outbox._database.reading() as db_session:
            run = db_session.scalars(select(ProcessingRun)).one()
        assert (run.outcome, run.error_code, run.error_detail) == ("cancelled", "storage_unavailable", str(TROUBLE))


class TestAskingAgain:
    def test_in_back_off_makes_it_due_now_and_says_so(self, outbox: Outbox, clock: FrozenClock) -> None:
        notices: list[Notice] = []
        asset_id = put(outbox)
        outbox.retry(claimed(outbox), TROUBLE)
        outbox.send = notices.append
        assert outbox.claim("w") is None
        put(outbox, asset_id)
        (notice,) = notices
        assert (notice.job_id, notice.run_at, notice.queue) == (job(outbox).id, clock(), "rindle_process")
        assert claimed(outbox).attempt == 2

    def test_never_makes_it_later_or_less_urgent(self, outbox: Outbox, clock: FrozenClock) -> None:
        asset_id = put(outbox)
        put(outbox, asset_id, priority=Priority.AGAIN, not_before=clock() + timedelta(hours=1))
        assert (job(outbox).priority, job(outbox).run_at) == (Priority.FIRST, clock())

    def test_for_the_first_time_makes_it_more_urgent(self, outbox: Outbox, clock: FrozenClock) -> None:
        asset_id = put(outbox, priority=Priority.AGAIN, not_before=clock() + timedelta(hours=1))
        put(outbox, asset_id, not_before=clock() + timedelta(minutes=1))
        assert (job(outbox).priority, job(outbox).run_at) == (Priority.FIRST, clock() + timedelta(minutes=1))


class TestUnclaimed:
    OVERDUE = timedelta(minutes=1)

    def test_are_the_overdue_and_the_abandoned_and_not_the_young(self, outbox: Outbox, clock: FrozenClock) -> None:
        put(outbox)
        claimed(outbox, "dead")
        put(outbox, queue=Queue.MEDIA, priority=Priority.AGAIN)
        clock.tick(seconds=30)
        put(outbox)
        outbox.succeed(claimed(outbox, "quick"))
        put(outbox, not_before=clock() + timedelta(hours=1))
        assert outbox.unclaimed(self.OVERDUE) == []
        clock.tick(seconds=30)
        put(outbox)
        old, young = {found.asset_id: found for found in jobs(outbox)}, clock()
        found = {notice.job_id: notice for notice in outbox.unclaimed(self.OVERDUE)}
        expected = [row for row in old.values() if row.state == "running" or row.queue == "rindle_media"]
        assert found.keys() == {row.id for row in expected}
        assert {(n.queue, n.priority, n.run_at) for n in found.values()} == {
            (row.queue, row.priority, row.run_at) for row in expected
        }
        assert young - timedelta(minutes=1) in {notice.run_at for notice in found.values()}

    def test_are_so_many_a_lane_at_most(self, outbox: Outbox, clock: FrozenClock) -> None:
        lanes = ((Queue.PROCESS, Priority.FIRST), (Queue.PROCESS, Priority.AGAIN), (Queue.MEDIA, Priority.FIRST))
        for queue, priority in lanes:
            for _ in range(3):
                put(outbox, queue=queue, priority=priority)
        clock.tick(minutes=2)
        found = outbox.unclaimed(self.OVERDUE, limit=2)
        assert sorted((notice.queue, notice.priority) for notice in found) == sorted(lanes * 2)


@pytest.mark.parametrize("any_database", ["sqlite"], indirect=True)
class TestHoldingMany:
    @pytest.mark.parametrize("verb", ["look", "heartbeat"])
    def test_each_claim_hears_of_its_own_job(self, outbox: Outbox, clock: FrozenClock, verb: str) -> None:
        """Also of two claims of one job, when this process lost it and took it again."""
        put(outbox)
        lost = claimed(outbox, "stopped")
        clock.tick(seconds=LEASE_SECONDS)
        mine = claimed(outbox)
        called_off, ours = put(outbox), put(outbox)
        held = {claim.asset_id: claim for claim in (claimed(outbox), claimed(outbox))}
        with outbox._database.transaction() as db_session:
            outbox.cancel(db_session, called_off, (JobKind.VARIANTS,))
        pulses = {lost: "lost", mine: "ours", held[called_off]: "cancel", held[ours]: "ours"}
        assert getattr(outbox, verb)(list(pulses)) == pulses
        assert getattr(outbox, verb)(list(pulses)[::-1]) == pulses
        assert getattr(outbox, verb)([]) == {}

    def test_a_heartbeat_keeps_them_all_and_a_look_keeps_none(self, outbox: Outbox, clock: FrozenClock) -> None:
        put(outbox), put(outbox)
        held = [claimed(outbox), claimed(outbox)]
        clock.tick(seconds=LEASE_SECONDS - 1)
        outbox.look(held)
        assert {row.lease_expires_at for row in jobs(outbox)} == {clock() + timedelta(seconds=1)}
        outbox.heartbeat(held)
        assert {row.lease_expires_at for row in jobs(outbox)} == {clock() + timedelta(seconds=LEASE_SECONDS)}


@pytest.mark.parametrize("any_database", ["postgresql", "mariadb"], indirect=True)
class TestRowsThatOthersHold:
    """SQLite has one writer at a time."""

    def test_are_passed_by_without_waiting_and_come_up_again(self, outbox: Outbox, clock: FrozenClock) -> None:
        held = put(outbox)
        clock.tick(seconds=1)
        free = put(outbox)
        with outbox._database.transaction() as db_session, ThreadPoolExecutor(1) as pool:
            db_session.execute(select(Job.id).where(Job.asset_id == held).with_for_update())
            assert pool.submit(claims, outbox).result(10) == [free]
        assert claims(outbox) == [held]

    @pytest.mark.parametrize("gives", ["takes", "gives back"])
    def test_a_cancel_waits_for_a_worker_and_then_finds_its_job(
        self, outbox: Outbox, clock: FrozenClock, gives: str
    ) -> None:
        """The worker is between its statements and its commit."""
        asset_id = put(outbox)
        claim = None if gives == "takes" else claimed(outbox)
        asked: list[Future[int]] = []

        def cancel() -> int:
            with outbox._database.transaction() as db_session:
                return outbox.cancel(db_session, asset_id, (JobKind.VARIANTS,))

        with ThreadPoolExecutor(1) as pool:

            def act() -> Future[int]:
                asked.append(pool.submit(cancel))
                return asked[0]

            with at_commit(outbox, act):
                claim = outbox.claim("w") if claim is None else outbox.release(claim) or claim
            assert asked[0].result(10) == 1
        if gives == "takes":
            assert claim is not None
            assert outbox.look([claim])[claim] is Pulse.CANCEL
        assert (job(outbox).state, job(outbox).cancel_requested) == (
            ("running", True) if gives == "takes" else ("cancelled", False)
        )

    @pytest.mark.parametrize("moment", range(4))
    @pytest.mark.parametrize("verb", ["succeed", "fail", "retry"])
    def test_a_worker_that_comes_back_too_late_is_in_nobodys_way(
        self, outbox: Outbox, clock: FrozenClock, verb: str, moment: int
    ) -> None:
        """Another takes its job just before a statement of its end."""
        put(outbox)
        lost = claimed(outbox, "stopped")
        clock.tick(seconds=LEASE_SECONDS)
        with ThreadPoolExecutor(1) as pool:
            taken: list[Future[Claim | None]] = []

            def act() -> Future[Claim | None]:
                taken.append(pool.submit(outbox.claim, "w2"))
                return taken[0]

            with before_write(outbox, moment, act):
                getattr(outbox, verb)(*((lost, TROUBLE) if verb != "succeed" else (lost,)))
            assert (taken[0] if taken else act()).result(10) is not None or job(outbox).state != "running"
        assert outcomes(outbox)[0] in ("lost", "succeeded", "failed", "retried")


@contextmanager
def before_write(outbox: Outbox, number: int, act: Callable[[], Future[Any]]) -> Iterator[None]:
    """`act()` before this thread's write with this number; it gets a moment to end, or to wait."""
    engine, thread, seen = outbox._database._binds().writer, threading.get_ident(), count()

    def listener(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if threading.get_ident() == thread and statement.startswith(("UPDATE", "WITH")) and next(seen) == number:
            wait([act()], timeout=0.3)

    event.listen(engine, "before_cursor_execute", listener)
    yield
    event.remove(engine, "before_cursor_execute", listener)


@contextmanager
def at_commit(outbox: Outbox, act: Callable[[], Future[Any]]) -> Iterator[None]:
    """`act()` before this thread's next commit that changed something; it gets a moment to end, or to wait.

    A statement that commits itself is put into a transaction, so that there is a moment before its commit.
    """
    engine, thread, changed = outbox._database._binds().writer, threading.get_ident(), list[str]()
    outbox.claim("w", queues=[Queue.PURGE])  # what is asked of the server once has been asked

    @contextmanager
    def statements() -> Iterator[Connection]:
        with outbox._database.transaction() as db_session:
            yield db_session.connection()

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if threading.get_ident() == thread and not statement.startswith("SELECT"):
            changed.append(statement)

    def commit(_connection: Any) -> None:
        if threading.get_ident() == thread and changed:
            changed.clear()
            wait([act()], timeout=0.3)

    event.listen(engine, "before_cursor_execute", note)
    event.listen(engine, "commit", commit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbox._database, "statements", statements)
        yield
    event.remove(engine, "before_cursor_execute", note)
    event.remove(engine, "commit", commit)


def test_sixteen_workers_take_two_hundred_jobs_once_each(outbox: Outbox) -> None:
    with outbox._database.transaction() as db_session:
        for _ in range(200):
            outbox.add(db_session, JobKind.VARIANTS, new_id())

    def work(number: int) -> list[uuid.UUID]:
        taken: list[uuid.UUID] = []
        while outbox.next_due_at() == outbox._clock():
            try:
                claim = outbox.claim(str(number))
            except DatabaseBusy:
                continue
            if claim is not None:
                taken.append(claim.id)
        return taken

    with ThreadPoolExecutor(16) as pool:
        taken = [job_id for done in pool.map(work, range(16)) for job_id in done]
    assert len(taken) == len(set(taken)) == 200
    assert outcomes(outbox) == ["running"] * 200
    assert {row.attempt for row in jobs(outbox)} == {1}


class TestHeldRows:
    def test_one_that_somebody_holds_keeps_no_other_from_its_heartbeat(
        self, outbox: Outbox, database: Database, clock: FrozenClock
    ) -> None:
        """A host that detaches in a long transaction holds a job's row; the leases of all others are kept."""
        if database.has_one_writer:
            pytest.skip("SQLite has one writer, who holds everything")
        put(outbox), put(outbox)
        first, second = claimed(outbox), claimed(outbox)
        clock.tick(seconds=30)
        with database.transaction() as db_session:
            outbox.cancel(db_session, first.asset_id, (JobKind.VARIANTS,))
            with ThreadPoolExecutor(1) as thread:
                assert thread.submit(outbox.heartbeat, [first, second]).result(10) == {second: "ours"}
        clock.tick(seconds=31)
        taken = outbox.claim("other")
        assert (taken, {job.worker for job in jobs(outbox)}) == (None, {"w1"})
        assert outcomes(outbox) == ["lost", "running"]
        assert {job.id: job.state for job in jobs(outbox)} == {first.id: "cancelled", second.id: "running"}


@pytest.mark.parametrize("any_database", ["sqlite"], indirect=True)
class TestSettlingBesideOthers:
    def test_is_tried_again_when_they_are_in_the_way(
        self, outbox: Outbox, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(outbox)
        claim = claimed(outbox)
        real, refusals = database.transaction, [DatabaseBusy(), DatabaseBusy()]

        @contextmanager
        def busy() -> Iterator[Session]:
            with real() as db_session:
                yield db_session
                if refusals:
                    raise refusals.pop()

        monkeypatch.setattr(database, "transaction", busy)
        outbox.succeed(claim)
        assert (job(outbox).state, outcomes(outbox), refusals) == ("succeeded", ["succeeded"], [])

    def test_is_given_up_when_they_stay(
        self, outbox: Outbox, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(outbox)
        claim = claimed(outbox)

        @contextmanager
        def busy() -> Iterator[Session]:
            raise DatabaseBusy
            yield

        monkeypatch.setattr(database, "transaction", busy)
        with pytest.raises(DatabaseBusy):
            outbox.succeed(claim)


@contextmanager
def noted_statements(outbox: Outbox) -> Iterator[list[str]]:
    """What is said to the database, with the words that begin and end a transaction."""
    engine, said = outbox._database._binds().writer, list[str]()
    listeners: dict[str, Callable[..., None]] = {
        "before_cursor_execute": lambda _connection, _cursor, statement, *_: said.append(statement.split()[0]),
        "commit": lambda _connection: said.append("COMMIT"),
    }
    for name, listener in listeners.items():
        event.listen(engine, name, listener)
    yield said
    for name, listener in listeners.items():
        event.remove(engine, name, listener)


@pytest.mark.parametrize("any_database", ["postgresql"], indirect=True)
class TestAtOnce:
    """Where a statement can write several tables, a claim and a success are one statement each."""

    def test_a_claim_and_a_success_are_a_statement_each(self, outbox: Outbox) -> None:
        put(outbox), put(outbox)
        outbox.claim("w1", queues=[Queue.PURGE])
        hand = Hand()
        with noted_statements(outbox) as said:
            for _ in range(2):
                claim = outbox.claim("w1", hand=hand)
                assert claim is not None
                outbox.succeed(claim)
        assert said == ["WITH"] * 4
        assert {(row.state, row.attempt) for row in jobs(outbox)} == {("succeeded", 1)}
        assert outcomes(outbox) == ["succeeded"] * 2

    def test_nothing_to_claim_is_one_statement(self, outbox: Outbox) -> None:
        outbox.claim("w1")
        with noted_statements(outbox) as said:
            assert outbox.claim("w1") is None
        assert said == ["WITH"]

    def test_a_success_that_finds_others_in_its_way_is_tried_again(
        self, outbox: Outbox, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(outbox)
        claim = claimed(outbox)

        @contextmanager
        def busy() -> Iterator[Connection]:
            raise DatabaseBusy
            yield

        monkeypatch.setattr(database, "statements", busy)
        outbox.succeed(claim)
        assert (job(outbox).state, outcomes(outbox)) == ("succeeded", ["succeeded"])

    def test_a_server_with_a_stricter_isolation_gets_transactions(
        self, any_database: str, sql_engine: Engine, clock: FrozenClock
    ) -> None:
        """A statement by itself would have the server's isolation, and be refused whenever it met another."""
        strict = create_engine(any_database, connect_args={"options": "-c default_transaction_isolation=serializable"})
        database = Database(lambda: strict, lambda: None)
        outbox = Outbox(database, clock)
        assert not database.writes_at_once
        put(outbox)
        with noted_statements(outbox) as said:
            outbox.succeed(claimed(outbox))
        assert said.count("COMMIT") == 2
        assert outcomes(outbox) == ["succeeded"]
        database.dispose()
        strict.dispose()


class TestHand:
    def test_is_taken_up_without_another_look(self, outbox: Outbox, database: Database) -> None:
        """In the order that was seen, and only what is still due."""
        assets = [put(outbox), put(outbox), put(outbox)]
        hand = Hand()
        first = outbox.claim("w1", hand=hand)
        assert first is not None
        assert outbox.claim("other") is not None
        looks = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("flask_rindle.outbox.due.candidates", lambda *_: looks.append(1))
            third = outbox.claim("w1", hand=hand)
        assert (first.asset_id, third and third.asset_id, looks) == (assets[0], assets[2], [])
        assert outbox.claim("w1", hand=hand) is None

    @pytest.mark.parametrize(("seconds", "is_good"), [(0.05, True), (0.2, False)], ids=["within", "after"])
    def test_is_good_for_a_moment(
        self, outbox: Outbox, monkeypatch: pytest.MonkeyPatch, seconds: float, is_good: bool
    ) -> None:
        """Something more urgent that comes meanwhile waits for so long, and no longer."""
        now = [100.0]
        monkeypatch.setattr("flask_rindle.outbox.claims.time", SimpleNamespace(monotonic=lambda: now[0]))
        put(outbox, priority=Priority.AGAIN)
        seen = put(outbox, priority=Priority.AGAIN)
        hand = Hand()
        outbox.claim("w1", hand=hand)
        urgent = put(outbox, priority=Priority.FIRST)
        now[0] += seconds
        assert hand.is_good is is_good
        claim = outbox.claim("w1", hand=hand)
        assert claim is not None
        assert claim.asset_id == (seen if is_good else urgent)

    def test_is_drawn_from_by_several_threads(
        self, outbox: Outbox, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each job goes to one of them, and nobody looks."""
        monkeypatch.setattr("flask_rindle.outbox.claims.HAND_SECONDS", 60)
        hand, assets = Hand(), {put(outbox) for _ in range(6)}
        first = outbox.claim("w1", hand=hand)
        assert first is not None
        taken: list[uuid.UUID] = []

        def draw(name: str) -> None:
            while (claim := outbox.claim(name, hand=hand, without_look=True)) is not None:
                taken.append(claim.asset_id)

        with ThreadPoolExecutor(3) as threads:
            list(threads.map(draw, ["w1", "w2", "w3"]))
        assert sorted([first.asset_id, *taken]) == sorted(assets)
        assert outbox.claim("w1", hand=hand, without_look=True) is None

    def test_knows_whether_the_last_due_job_was_taken(self, outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
        """A colleague need not look again at once; of many there may be more than were seen."""
        monkeypatch.setattr("flask_rindle.outbox.claims.HAND_SECONDS", 60)
        hand, told = Hand(), []
        for _ in range(3):
            put(outbox)
        while outbox.claim("w1", hand=hand) is not None:
            told.append(hand.had_the_last)
        put(outbox)
        outbox.claim("w1", hand=hand)
        assert (told, hand.had_the_last) == ([False] * 3, True)
