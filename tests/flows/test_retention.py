"""What has ended is kept for a while and then forgotten; what is alive is not, however old it is."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select

from flask_rindle.engine import Engine
from flask_rindle.models import Asset, Event, Job, ProcessingRun
from flask_rindle.models.database import Database
from flask_rindle.ops import retention as module
from flask_rindle.ops.leftovers import Leftovers
from flask_rindle.ops.retention import SWEEP_SECONDS, Retention, Sweeper
from flask_rindle.testing.clock import FrozenClock
from flask_rindle.types import new_id

JOB_TTL, EVENT_TTL = timedelta(days=7), timedelta(days=30)
A_MOMENT = timedelta(microseconds=1)


@pytest.fixture
def app(make_app: Callable[..., Flask], any_database: str) -> Flask:
    seconds = {"RINDLE_JOB_TTL": JOB_TTL, "RINDLE_EVENT_TTL": EVENT_TTL}
    return make_app(database_url=any_database, **{key: int(ttl.total_seconds()) for key, ttl in seconds.items()})


@pytest.fixture
def database(engine: Engine) -> Database:
    return engine.database


@pytest.fixture
def retention(database: Database, clock: FrozenClock) -> Retention:
    return Retention(database, clock, job_ttl=JOB_TTL, event_ttl=EVENT_TTL)


class Past:
    """Writes rows of some age, and tells which are left by their names."""

    def __init__(self, database: Database, clock: FrozenClock) -> None:
        self._database = database
        self._clock = clock

    def job(self, name: str, age: timedelta, state: str = "succeeded", **values: Any) -> Job:
        then = self._clock() - age
        is_live = state in ("queued", "running")
        common = {"id": new_id(), "kind": "purge", "queue": name, "asset_id": new_id(), "state": state}
        moments = {"run_at": then, "created_at": then, "finished_at": None if is_live else then}
        return self._add(Job(**{**common, **moments, "max_attempts": 3, **values}))

    def run(self, name: str, job: Job, age: timedelta, outcome: str = "succeeded") -> None:
        then = self._clock() - age
        common = {"id": new_id(), "job_id": job.id, "asset_id": job.asset_id, "kind": "purge", "attempt": 1}
        ended = None if outcome == "running" else then
        self._add(ProcessingRun(**common, worker=name, outcome=outcome, started_at=then, finished_at=ended))

    def event(self, name: str, age: timedelta, asset_id: uuid.UUID | None = None) -> int:
        moved = {"from_state": "queued", "to_state": "processing", "name": name}
        subject = {"kind": "variant", "subject_id": new_id(), "asset_id": asset_id or new_id()}
        return self._add(Event(**moved, **subject, created_at=self._clock() - age)).id

    def _add(self, row: Any) -> Any:
        with self._database.transaction() as db_session:
            db_session.add(row)
        return row

    def left(self) -> set[str]:
        with self._database.reading() as db_session:
            columns = (Job.queue, ProcessingRun.worker, Event.name)
            return {str(name) for column in columns for name in db_session.scalars(select(column))}

    def count(self) -> int:
        with self._database.reading() as db_session:
            counts = [db_session.scalar(select(func.count()).select_from(m)) for m in (Job, ProcessingRun, Event)]
            return sum(filter(None, counts))


@pytest.fixture
def past(database: Database, clock: FrozenClock) -> Past:
    return Past(database, clock)


class TestWhatGoes:
    def test_a_job_that_ended_long_ago_with_its_runs(self, past: Past, retention: Retention) -> None:
        for state in ("succeeded", "failed", "cancelled"):
            old, young = past.job("old", JOB_TTL + A_MOMENT, state), past.job("young", JOB_TTL, state)
            past.run("old run", old, JOB_TTL + A_MOMENT, state)
            past.run("young run", young, JOB_TTL, state)
        assert retention.sweep() == 6
        assert past.left() == {"young", "young run"}
        assert retention.sweep() == 0

    def test_an_event_that_was_long_ago(self, past: Past, retention: Retention) -> None:
        past.event("old", EVENT_TTL + A_MOMENT)
        past.event("young", EVENT_TTL)
        past.event("new", timedelta(0))
        assert retention.sweep() == 1
        assert past.left() == {"young", "new"}

    def test_by_the_clock(self, past: Past, retention: Retention, clock: FrozenClock) -> None:
        past.run("run", past.job("job", timedelta(0)), timedelta(0))
        past.event("event", timedelta(0))
        clock.tick(days=7)
        assert retention.sweep() == 0
        clock.tick(microseconds=1)
        assert retention.sweep() == 2
        assert past.left() == {"event"}
        clock.tick(days=23)
        assert retention.sweep() == 1
        assert past.left() == set()

    def test_a_run_whose_job_is_gone_already(self, past: Past, retention: Retention, database: Database) -> None:
        past.run("run", job := past.job("job", JOB_TTL), JOB_TTL + A_MOMENT)
        with database.transaction() as db_session:
            db_session.delete(db_session.get_one(Job, job.id))
        assert retention.sweep() == 1
        assert past.left() == set()


class TestWhatStays:
    def test_work_that_waits_or_runs_however_old_it_is(
        self, past: Past, retention: Retention, clock: FrozenClock
    ) -> None:
        ages = timedelta(days=3650)
        past.job("waits", ages, "queued")
        lease = {"lease": new_id(), "lease_expires_at": clock() - ages}
        running = past.job("runs", ages, "running", **lease)
        past.run("its first attempt", running, ages, "lost")
        past.run("its attempt now", running, ages, "running")
        assert retention.sweep_all() == 1
        assert past.left() == {"waits", "runs", "its attempt now"}

    def test_a_job_that_began_long_ago_and_ended_lately(self, past: Past, retention: Retention) -> None:
        job = past.job("job", timedelta(days=1), created_at=past._clock() - timedelta(days=3650))
        past.run("run", job, timedelta(days=1))
        assert retention.sweep_all() == 0
        assert past.left() == {"job", "run"}

    def test_the_young_run_of_an_old_job(self, past: Past, retention: Retention, database: Database) -> None:
        """It loses its job and not its place in the trail."""
        past.run("run", past.job("job", JOB_TTL + A_MOMENT), timedelta(days=1))
        assert retention.sweep_all() == 1
        with database.reading() as db_session:
            assert db_session.scalars(select(ProcessingRun)).one().job_id is None


class TestPortions:
    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "BATCH", 3)

    def test_are_small_and_the_oldest_first(self, past: Past, retention: Retention) -> None:
        for age in range(8, 0, -1):
            job = past.job(f"job {age}", JOB_TTL + timedelta(hours=age))
            past.run(f"run {age}", job, JOB_TTL + timedelta(hours=age))
            past.event(f"event {age}", EVENT_TTL + timedelta(hours=age))
        assert retention.sweep() == 9
        assert past.left() == {f"{kind} {age}" for kind in ("job", "run", "event") for age in range(1, 6)}
        assert [retention.sweep() for _ in range(3)] == [9, 6, 0]
        assert past.left() == set()

    def test_follow_each_other_until_all_is_gone(self, past: Past, retention: Retention) -> None:
        for _ in range(10):
            past.job("job", JOB_TTL + A_MOMENT)
        past.event("event", EVENT_TTL + A_MOMENT)
        past.event("young", timedelta(0))
        assert retention.sweep_all() == 11
        assert past.left() == {"young"}

    def test_of_events_get_past_one_that_was_committed_late(self, past: Past, retention: Retention) -> None:
        """Its id may be below that of an older one by a moment."""
        past.event("young", EVENT_TTL)
        past.event("old", EVENT_TTL + A_MOMENT)
        assert retention.sweep_all() == 1
        assert past.left() == {"young"}

    def test_of_two_sweepers_at_once_are_different_ones(
        self, past: Past, retention: Retention, database: Database
    ) -> None:
        rows = [ProcessingRun, Job, Event]
        with database.transaction() as db_session:
            for number in range(60):
                age = timedelta(days=60, seconds=number)
                then = past._clock() - age
                job = Job(
                    id=new_id(), kind="k", queue="q", asset_id=new_id(), state="failed", max_attempts=1, run_at=then
                )
                job.finished_at = then
                run = ProcessingRun(id=new_id(), job_id=job.id, asset_id=job.asset_id, kind="k", worker="w", attempt=1)
                run.outcome, run.started_at, run.finished_at = "failed", then, then
                event = Event(kind="asset", subject_id=job.asset_id, from_state="a", to_state="b", created_at=then)
                db_session.add(job)
                db_session.flush()
                db_session.add_all([run, event])
        start = threading.Barrier(2)

        def sweep(_: int) -> int:
            start.wait()
            return retention.sweep_all()

        with ThreadPoolExecutor(2) as pool:
            totals = list(pool.map(sweep, range(2)))
        # Whoever is left with nothing stops, and the other goes on.
        assert sum(totals) == 60 * len(rows)
        assert past.count() == 0


class TestABrowserThatComesBack:
    """Its last event is older than what was forgotten: it gets what is left."""

    @pytest.fixture
    def asset(self, database: Database, clock: FrozenClock) -> Asset:
        row = Asset(id=new_id(), profile="avatar", storage="default", filename="a.jpg", state="processing")
        with database.transaction() as db_session:
            db_session.add(row)
        return row

    def resume(self, app: Flask, asset: Asset, last_id: int) -> Any:
        with app.test_request_context():
            token = app.extensions["host"].rindle.events_token(str(asset.id), expires_in=10**8)
        headers = {"Last-Event-ID": str(last_id)}
        return app.test_client().get("/rindle/events", query_string={"token": token}, headers=headers)

    def test_gets_what_is_left(self, app: Flask, past: Past, retention: Retention, asset: Asset) -> None:
        seen = past.event("seen", EVENT_TTL + 2 * A_MOMENT, asset.id)
        past.event("missed", EVENT_TTL + A_MOMENT, asset.id)
        past.event("kept", timedelta(days=1), asset.id)
        assert retention.sweep_all() == 2
        answer = self.resume(app, asset, seen)
        assert answer.status_code == 200
        assert ("kept" in answer.text, "missed" in answer.text) == (True, False)

    def test_gets_no_error_when_nothing_is_left(
        self, app: Flask, past: Past, retention: Retention, asset: Asset, database: Database
    ) -> None:
        seen = past.event("seen", EVENT_TTL + A_MOMENT, asset.id)
        assert retention.sweep_all() == 1
        assert self.resume(app, asset, seen).status_code == 200
        with database.transaction() as db_session:
            db_session.get_one(Asset, asset.id).state = "ready"
        assert self.resume(app, asset, seen).status_code == 204, "it is settled: there is nothing to wait for"

    def test_hears_of_what_comes_next(self, app: Flask, past: Past, retention: Retention, asset: Asset) -> None:
        """An id is not given twice, also when the table was emptied."""
        seen = past.event("seen", EVENT_TTL + A_MOMENT, asset.id)
        retention.sweep_all()
        past.event("next", timedelta(0), asset.id)
        assert "next" in self.resume(app, asset, seen).text


class FakeRetention:
    """Forgets as many rows as it is told, one portion after the other."""

    def __init__(self, *portions: int) -> None:
        self.portions = list(portions)
        self.sweeps = 0

    def sweep(self) -> int:
        self.sweeps += 1
        return self.portions.pop(0) if self.portions else 0


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """`now[0]` is what the sweeper's clock shows."""
    shown = [1000.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: shown[0]))
    return shown


class TestSweeper:
    def test_sweeps_until_nothing_is_left_and_rests_for_an_hour(self, now: list[float], tmp_path: Path) -> None:
        fake = FakeRetention(500, 500, 3)
        sweeper = Sweeper(fake, Leftovers({}, tmp_path))  # type: ignore[arg-type]
        for _ in range(10):
            sweeper()
        assert fake.sweeps == 4
        now[0] += SWEEP_SECONDS - 1
        sweeper()
        assert fake.sweeps == 4
        now[0] += 1
        sweeper()
        assert fake.sweeps == 5
        sweeper()
        assert fake.sweeps == 5

    def test_lets_one_thread_sweep_at_a_time(self, now: list[float], tmp_path: Path) -> None:
        entered, over = threading.Event(), threading.Event()

        class Slow(FakeRetention):
            def sweep(self) -> int:
                entered.set()
                assert over.wait(10)
                return super().sweep()

        fake = Slow(1)
        sweeper = Sweeper(fake, Leftovers({}, tmp_path))  # type: ignore[arg-type]
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(sweeper)
            assert entered.wait(10)
            sweeper()
            over.set()
            first.result(10)
        assert fake.sweeps == 1
        sweeper()
        assert fake.sweeps == 2

    def test_tries_again_after_trouble(self, now: list[float], tmp_path: Path) -> None:
        class Broken(FakeRetention):
            def sweep(self) -> int:
                if super().sweep() == 1:
                    raise ZeroDivisionError
                return 0

        fake = Broken(1)
        sweeper = Sweeper(fake, Leftovers({}, tmp_path))  # type: ignore[arg-type]
        with pytest.raises(ZeroDivisionError):
            sweeper()
        sweeper()
        assert fake.sweeps == 2

    def test_of_an_app_goes_by_its_settings(self, engine: Engine, past: Past) -> None:
        past.job("old job", JOB_TTL + A_MOMENT)
        past.job("young job", JOB_TTL)
        past.event("old event", EVENT_TTL + A_MOMENT)
        past.event("young event", EVENT_TTL)
        engine.workplace.tidy()
        assert past.left() == {"young job", "young event"}
