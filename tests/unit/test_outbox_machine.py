"""The outbox against a model of it: any verbs in any order, by workers that are slow, die, and come back too late."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import create_engine, select

from flask_rindle.errors import StorageUnavailable, WorkInProgress
from flask_rindle.models import Job, ProcessingRun, metadata
from flask_rindle.models.database import Database
from flask_rindle.outbox import LEASE_SECONDS, Claim, JobKind, Outbox, Priority, Pulse
from flask_rindle.testing.clock import FrozenClock
from flask_rindle.types import new_id

KINDS = (JobKind.PROMOTE, JobKind.VARIANTS)
ASSETS = (new_id(), new_id())
KEYS = st.tuples(st.sampled_from(KINDS), st.sampled_from(ASSETS))
TROUBLE = StorageUnavailable("default", "a/b")
ENDED = ("succeeded", "failed", "cancelled")
Key = tuple[JobKind, uuid.UUID]


@dataclass
class Live:
    """What the model knows of the live job of a key."""

    priority: int
    run_at: datetime | None  # None while it waits for a moment that chance decides
    claim: Claim | None = None
    expires_at: datetime | None = None
    attempt: int = 0
    wanted_again: bool = False
    cancelled: bool = False


@dataclass
class Model:
    live: dict[Key, Live] = field(default_factory=dict)
    held: list[Claim] = field(default_factory=list)  # by workers, also by those that were given up for dead


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.engine = create_engine(f"sqlite:///{Path(self.folder.name) / 'machine.db'}")
        metadata.create_all(self.engine)
        self.database = Database(lambda: self.engine, lambda: None)
        self.clock = FrozenClock()
        self.outbox = Outbox(self.database, self.clock)
        self.told: set[uuid.UUID] = set()
        self.outbox.send = lambda notice: self.told.add(notice.job_id)
        self.model = Model()

    def teardown(self) -> None:
        self.database.dispose()
        self.engine.dispose()
        self.folder.cleanup()

    # The adders

    @rule(key=KEYS, priority=st.sampled_from(Priority), later=st.sampled_from((None, 0, 30, 4000)))
    def add(self, key: Key, priority: Priority, later: int | None) -> None:
        not_before = None if later is None else self.clock() + timedelta(seconds=later)
        self.told.clear()
        with self.database.transaction() as db_session:
            self.outbox.add(db_session, *key, priority=priority, not_before=not_before)
        wanted = not_before or self.clock()
        job = self.model.live.get(key)
        if job is None:
            job = self.model.live[key] = Live(priority, wanted)
        elif job.claim is None:
            job.priority = min(job.priority, priority)
            job.run_at = min(self.row(key).run_at, wanted)
        else:
            job.priority, job.wanted_again = min(job.priority, priority), True
        assert self.told == (set() if job.claim else {self.row(key).id}), "whoever waits for news hears of it"

    @rule(asset_id=st.sampled_from(ASSETS), kinds=st.sets(st.sampled_from(KINDS)))
    def cancel(self, asset_id: uuid.UUID, kinds: set[JobKind]) -> None:
        with self.database.transaction() as db_session:
            count = self.outbox.cancel(db_session, asset_id, kinds)
        mine = [(kind, asset_id) for kind in kinds if (kind, asset_id) in self.model.live]
        assert count == len(mine)
        for key in mine:
            job = self.model.live[key]
            job.cancelled, job.wanted_again = True, False
            if job.claim is None:
                del self.model.live[key]

    @rule(key=KEYS)
    def forget(self, key: Key) -> None:
        with self.database.transaction() as db_session:
            self.outbox.forget(db_session, key[1], key[0])
        job = self.model.live.get(key)
        if job is not None and job.claim is None:
            del self.model.live[key]

    # The workers

    @rule()
    def claim(self) -> None:
        due = [key for key in self.model.live if self.is_due(key)]
        claim = self.outbox.claim("w")
        if claim is None:
            assert due == []
            return
        key = (claim.kind, claim.asset_id)
        assert key in due
        job = self.model.live[key]
        abandoned = [other for other in due if self.model.live[other].claim is not None]
        assert key in abandoned or not abandoned
        if not abandoned:
            assert job.priority == min(self.model.live[other].priority for other in due)
        job.attempt += 1
        assert claim.attempt == job.attempt
        job.claim, job.expires_at = claim, self.clock() + timedelta(seconds=LEASE_SECONDS)
        self.model.held.append(claim)

    def is_due(self, key: Key) -> bool:
        job = self.model.live[key]
        if job.claim is not None:
            return job.expires_at is not None and job.expires_at <= self.clock()
        return (job.run_at or self.row(key).run_at) <= self.clock()

    @precondition(lambda self: self.model.held)
    @rule(every=st.booleans(), verb=st.sampled_from(("heartbeat", "look")))
    def hold(self, every: bool, verb: str) -> None:
        claims = self.model.held if every else self.model.held[-1:]
        pulses = getattr(self.outbox, verb)(claims)
        for claim in claims:
            job = self.model.live.get((claim.kind, claim.asset_id))
            if job is None or job.claim != claim:
                assert pulses[claim] is Pulse.LOST
                continue
            assert pulses[claim] is (Pulse.CANCEL if job.cancelled else Pulse.OURS)
            if verb == "heartbeat":
                job.expires_at = self.clock() + timedelta(seconds=LEASE_SECONDS)

    @precondition(lambda self: self.model.held)
    @rule(data=st.data(), verb=st.sampled_from(("succeed", "fail", "call_off", "call_off for a reason")))
    def end(self, data: st.DataObject, verb: str) -> None:
        claim, job = self.let_go(data)
        match verb:
            case "succeed":
                self.outbox.succeed(claim)
            case "fail":
                self.outbox.fail(claim, TROUBLE)
            case "call_off":
                self.outbox.call_off(claim)
            case _:
                self.outbox.call_off(claim, TROUBLE)
        if job is None:
            return
        if job.wanted_again:
            self.wait_again(job, self.clock(), attempt=0)
        else:
            del self.model.live[claim.kind, claim.asset_id]

    @precondition(lambda self: self.model.held)
    @rule(data=st.data(), verb=st.sampled_from(("retry", "snooze", "release")))
    def put_back(self, data: st.DataObject, verb: str) -> None:
        claim, job = self.let_go(data)
        run_at: datetime | None = self.clock()
        match verb:
            case "retry":
                self.outbox.retry(claim, TROUBLE)
                run_at = None
            case "snooze":
                self.outbox.snooze(claim, timedelta(minutes=5), WorkInProgress(claim.asset_id))
                run_at = self.clock() + timedelta(minutes=5)
            case "release":
                self.outbox.release(claim)
        if job is None:
            return
        if job.cancelled and not job.wanted_again:
            del self.model.live[claim.kind, claim.asset_id]
        else:
            self.wait_again(job, run_at, attempt=claim.attempt - (verb != "retry"))

    def let_go(self, data: st.DataObject) -> tuple[Claim, Live | None]:
        """A claim that a worker is about to settle, and its job, if it is still the worker's."""
        claim = data.draw(st.sampled_from(self.model.held))
        self.model.held.remove(claim)
        job = self.model.live.get((claim.kind, claim.asset_id))
        return claim, job if job is not None and job.claim == claim else None

    def wait_again(self, job: Live, run_at: datetime | None, *, attempt: int) -> None:
        job.claim = job.expires_at = None
        job.run_at, job.attempt, job.wanted_again, job.cancelled = run_at, attempt, False, False

    @precondition(lambda self: self.model.held)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        """Nobody says a word of the claim again."""
        self.model.held.remove(data.draw(st.sampled_from(self.model.held)))

    @rule(seconds=st.sampled_from((1, LEASE_SECONDS // 2, LEASE_SECONDS, 2 * 3600)))
    def pass_time(self, seconds: int) -> None:
        self.clock.tick(seconds=seconds)

    # What always holds

    def row(self, key: Key) -> Job:
        with self.database.reading() as db_session:
            return db_session.scalars(select(Job).filter_by(live_key=f"{key[0]}:{key[1]}")).one()

    @invariant()
    def the_rows_are_as_the_model(self) -> None:
        with self.database.reading() as db_session:
            jobs = list(db_session.scalars(select(Job)))
            runs = list(db_session.scalars(select(ProcessingRun)))
        running = {run.job_id: run.id for run in runs if run.outcome == "running"}
        assert len(running) == len([run for run in runs if run.outcome == "running"]), "one run at a time"
        live = {(JobKind(job.kind), job.asset_id): job for job in jobs if job.state not in ENDED}
        assert live.keys() == self.model.live.keys(), "nothing is lost, and nothing comes back"
        assert len(live) == len([job for job in jobs if job.state not in ENDED]), "one live job a key"
        for key, job in live.items():
            self.check_live(job, self.model.live[key], running.pop(job.id, None))
            attempts = [run for run in runs if run.job_id == job.id]
            assert job.attempt <= len(attempts)
        assert running == {}
        for job in jobs:
            if job.state in ENDED:
                assert (job.live_key, job.lease, job.lease_expires_at) == (None, None, None)
                assert job.finished_at is not None

    def check_live(self, job: Job, known: Live, run_id: uuid.UUID | None) -> None:
        assert job.live_key == f"{job.kind}:{job.asset_id}"
        assert (job.attempt, job.priority, job.rerun) == (known.attempt, known.priority, known.wanted_again)
        if known.claim is None:
            assert (job.state, job.lease, job.lease_expires_at, run_id) == ("queued", None, None, None)
            assert job.cancel_requested is False
            assert job.run_at == (known.run_at or job.run_at)
        else:
            assert (job.state, job.lease, run_id) == ("running", known.claim.lease, known.claim.run_id)
            assert (job.lease_expires_at, job.cancel_requested) == (known.expires_at, known.cancelled)

    @invariant()
    def the_next_moment_is_known(self) -> None:
        with self.database.reading() as db_session:
            jobs = [job for job in db_session.scalars(select(Job)) if job.state not in ENDED]
        moments = [job.run_at if job.state == "queued" else job.lease_expires_at for job in jobs]
        assert self.outbox.next_due_at() == min((moment for moment in moments if moment), default=None)


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
