"""Crews in this process: who looks for work, who is woken, and what they survive."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from host_site import Site, until
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from flask_rindle.errors import DatabaseUnavailable
from flask_rindle.jobs import crew as crews
from flask_rindle.jobs.crew import Crew, Shift
from flask_rindle.jobs.embedded import EmbeddedJobs
from flask_rindle.outbox import Queue
from flask_rindle.signals import job_stop

SECRET = "postgresql://rindle:hunter2@db.internal/app"


@pytest.fixture
def site(make_site: Callable[..., Site], new_database: Callable[[str], str]) -> Site:
    """A site whose own backend has no threads."""
    return make_site(jobs="embedded", workers=0, database=new_database("sqlite"))


@pytest.fixture
def open_jobs(site: Site) -> Iterator[Callable[..., EmbeddedJobs]]:
    """`open_jobs(crew, ...)`: a backend at work for the site; stopped after the test."""
    made: list[EmbeddedJobs] = []

    def start(*crew: Crew) -> EmbeddedJobs:
        jobs = EmbeddedJobs(site.engine.workplace, crew)
        made.append(jobs)
        site.engine.outbox.send = jobs.send
        jobs.start()
        return jobs

    yield start
    for jobs in made:
        jobs.stop()


@contextmanager
def counted_claims(site: Site) -> Iterator[list[str]]:
    """The names of the threads that looked for work."""
    claim = site.engine.outbox.claim
    looks: list[str] = []

    def counting(name: str, **options: Any) -> Any:
        looks.append(threading.current_thread().name)
        return claim(name, **options)

    site.engine.outbox.claim = counting
    try:
        yield looks
    finally:
        site.engine.outbox.claim = claim


def shift_of(jobs: EmbeddedJobs) -> Shift:
    (shift,) = jobs._shifts
    return shift


def settled(jobs: EmbeddedJobs) -> Callable[[], bool]:
    return lambda: jobs.is_idle


def test_one_thread_at_a_time_looks(
    site: Site, open_jobs: Callable[..., EmbeddedJobs], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight idle threads ask the database as often as one does."""
    monkeypatch.setattr(crews, "POLL_SECONDS", 0.02)
    with counted_claims(site) as looks:
        open_jobs(Crew(threads=8))
        until(lambda: len(looks) >= 20)
        assert len(set(looks)) == 1


def test_an_idle_crew_asks_twice_a_poll(
    site: Site, open_jobs: Callable[..., EmbeddedJobs], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a job, and for when the next one is due; however many threads there are."""
    monkeypatch.setattr(crews, "POLL_SECONDS", 0.02)
    with counted_claims(site) as looks:
        jobs = open_jobs(Crew(threads=8))
        until(lambda: len(looks) >= 2)
        statements: list[str] = []
        bind = site.engine.database._binds().reader

        def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
            statements.append(statement)

        event.listen(bind, "before_cursor_execute", note)
        before = len(looks)
        until(lambda: len(looks) >= before + 10)
        jobs.stop()
        looked = len(looks) - before
    assert len([statement for statement in statements if statement.startswith("SELECT")]) <= 2 * looked + 2


def test_a_ring_starts_a_job_once(
    site: Site, open_jobs: Callable[..., EmbeddedJobs], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, although nobody polls for an hour, and on one of many threads."""
    monkeypatch.setattr(crews, "POLL_SECONDS", 3600)
    with counted_claims(site) as looks:
        jobs = open_jobs(Crew(threads=8))
        until(lambda: len(looks) == 1)
        (job_id,) = site.add()
        until(lambda: site.are_done([job_id]))
        until(settled(jobs))
        assert len(site.started([job_id])) == 1
        # One that finds it, one that takes the turn over; and a look that was on its way when the bell rang.
        assert len(looks) <= 4
    assert jobs.claims == 1


def test_a_job_that_comes_after_the_last_one_was_taken_is_heard(
    site: Site, open_jobs: Callable[..., EmbeddedJobs], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next thread does not look at once: it waits for a ring first, and hears one that came before it waited."""
    monkeypatch.setattr(crews, "POLL_SECONDS", 3600)
    monkeypatch.setattr(crews, "_AFTER_THE_LAST_SECONDS", 3600)
    with counted_claims(site) as looks, site.scripted("hold"):
        open_jobs(Crew(threads=4))
        until(lambda: len(looks) == 1)
        for _ in range(3):
            job_ids = site.add()
            until(lambda job_ids=job_ids: site.started(job_ids))
        # The first look, one for each job, and one that may have been on its way.
        assert len(looks) <= 5


def test_all_threads_work_when_there_is_work(site: Site, open_jobs: Callable[..., EmbeddedJobs]) -> None:
    with site.scripted("hold"):
        jobs = open_jobs(Crew(threads=4))
        job_ids = site.add(6)
        until(lambda: len(site.started(job_ids)) == 4)
        assert not jobs.is_idle
        assert site.states(job_ids) == {"running": 4, "queued": 2}
    until(lambda: site.are_done(job_ids))
    until(settled(jobs))
    assert jobs.claims == 6


def test_stopping_ends_the_threads_and_hands_work_back(site: Site, open_jobs: Callable[..., EmbeddedJobs]) -> None:
    with site.scripted("hold"):
        jobs = open_jobs(Crew(threads=3, queues=("rindle_process",)), Crew(threads=2, queues=("rindle_media",)))
        job_ids = [*site.add(2), *site.add(1, Queue.MEDIA)]
        until(lambda: len(site.started(job_ids)) == 3)
        threads = [thread for shift in jobs._shifts for thread in shift.threads]
        assert len(threads) == 5
        assert jobs.stop(20) is True
        assert not any(thread.is_alive() for thread in threads)
        assert site.states(job_ids) == {"queued": 3}
        assert {site.job(job_id).attempt for job_id in job_ids} == {0}


def test_stopping_says_who_is_late(site: Site, open_jobs: Callable[..., EmbeddedJobs]) -> None:
    with site.scripted("hold", "deaf"):
        jobs = open_jobs(Crew(threads=1))
        (job_id,) = site.add()
        until(lambda: site.started([job_id]))
        began = time.monotonic()
        assert jobs.stop(0.2) is False
        assert time.monotonic() - began < 5
    assert shift_of(jobs).join(time.monotonic() + 20)
    until(lambda: site.are_done([job_id]))


def test_an_idle_crew_stops_at_once_and_takes_nothing_new(
    site: Site, open_jobs: Callable[..., EmbeddedJobs], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without waiting for its next look, which is an hour away."""
    monkeypatch.setattr(crews, "POLL_SECONDS", 3600)
    with counted_claims(site) as looks:
        jobs = open_jobs(Crew(threads=2))
        until(lambda: looks)
        until(settled(jobs))
        assert jobs.stop(10)
    job_ids = site.add(2)
    assert not any(thread.is_alive() for thread in shift_of(jobs).threads)
    assert site.states(job_ids) == {"queued": 2}


def test_a_crew_is_idle_when_nothing_of_its_queues_is_due(site: Site, open_jobs: Callable[..., EmbeddedJobs]) -> None:
    jobs = open_jobs(Crew(threads=1, queues=("rindle_process",)))
    until(settled(jobs))
    others = site.add(1, Queue.MEDIA)
    until(settled(jobs))
    with site.scripted("hold"):
        mine = site.add(2)
        until(lambda: site.started(mine))
        assert not jobs.is_idle
    until(lambda: site.are_done(mine))
    until(settled(jobs))
    assert site.states(others) == {"queued": 1}


@pytest.mark.parametrize(
    "error",
    [
        DatabaseUnavailable(SECRET),
        OperationalError("SELECT 1", {}, Exception("no connection")),
        RuntimeError("somebody's hook"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_trouble_of_the_database_is_survived(
    site: Site,
    open_jobs: Callable[..., EmbeddedJobs],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    """It is told, and the same threads go on."""
    monkeypatch.setattr(crews, "POLL_SECONDS", 0.02)
    claim = site.engine.outbox.claim
    troubles: list[Exception] = [error] * 3

    def troubled(name: str, **options: Any) -> Any:
        if troubles:
            raise troubles.pop()
        return claim(name, **options)

    monkeypatch.setattr(site.engine.outbox, "claim", troubled)
    with caplog.at_level(logging.WARNING, "flask_rindle"):
        jobs = open_jobs(Crew(threads=2))
        job_ids = site.add(2)
        until(lambda: site.are_done(job_ids))
    assert all(thread.is_alive() for thread in shift_of(jobs).threads)
    assert len(caplog.records) == 3
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize(
    "error", [DatabaseUnavailable(SECRET), ZeroDivisionError("oops")], ids=lambda error: type(error).__name__
)
def test_a_job_that_cannot_be_settled_leaves_its_thread(
    site: Site,
    open_jobs: Callable[..., EmbeddedJobs],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    """Its lease will run out; the thread does the next job."""
    succeed = site.engine.outbox.succeed
    troubles = [error]

    def troubled(claim: Any) -> None:
        if troubles:
            raise troubles.pop()
        succeed(claim)

    monkeypatch.setattr(site.engine.outbox, "succeed", troubled)
    jobs = open_jobs(Crew(threads=1))
    with caplog.at_level(logging.WARNING, "flask_rindle"):
        (first,) = site.add()
        until(lambda: site.started([first]))
        until(settled(jobs))
        (second,) = site.add()
        until(lambda: site.are_done([second]))
    assert site.job(first).state == "running"
    assert len(caplog.records) == 1
    assert "hunter2" not in caplog.text


def test_a_listener_that_calls_exit_ends_no_thread(site: Site, open_jobs: Callable[..., EmbeddedJobs]) -> None:
    def leave(_sender: object, **_facts: object) -> None:
        sys.exit(1)

    with job_stop.connected_to(leave):
        jobs = open_jobs(Crew(threads=1))
        job_ids = site.add(3)
        until(lambda: site.are_done(job_ids))
        until(settled(jobs))
    assert all(thread.is_alive() for thread in shift_of(jobs).threads)
