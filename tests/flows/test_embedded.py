"""The embedded workers: real threads, started by need, stopped with grace."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from flask_rindle.errors import Cancelled
from flask_rindle.models import Asset, Job, ProcessingRun
from flask_rindle.outbox import JobKind
from flask_rindle.types import utcnow


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    return make_app(jobs="embedded", clock=utcnow)


def rows(app: Flask, model: type[Any]) -> list[Any]:
    with app.extensions["rindle"].database.reading() as db_session:
        return list(db_session.scalars(select(model)))


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that another thread brings about, 30 seconds at most."""
    ends_at = time.monotonic() + 30
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < ends_at, "the condition did not come about"
        pause.wait(0.01)


def upload(app: Flask, data: bytes) -> Any:
    with app.app_context():
        return app.extensions["host"].rindle.upload("avatar", io.BytesIO(data), filename="a.jpg")


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("rindle-worker")]


def test_an_upload_becomes_ready_by_itself(app: Flask, photo: Callable[..., bytes]) -> None:
    upload(app, photo(400, 300))
    until(lambda: rows(app, Asset)[0].state == "ready")
    until(lambda: {job.state for job in rows(app, Job)} == {"succeeded"})
    assert {run.worker.rpartition(":")[0].rpartition(":")[2] for run in rows(app, ProcessingRun)} == {str(os.getpid())}


def test_many_uploads_are_shared_and_none_runs_twice(app: Flask, photo: Callable[..., bytes]) -> None:
    for _ in range(6):
        upload(app, photo(50, 40))
    until(lambda: [asset.state for asset in rows(app, Asset)] == ["ready"] * 6)
    until(lambda: {job.state for job in rows(app, Job)} == {"succeeded"})
    runs = rows(app, ProcessingRun)
    assert len(runs) == 12
    assert {run.outcome for run in runs} == {"succeeded"}


def test_no_thread_starts_before_it_is_needed(make_app: Callable[..., Flask]) -> None:
    before = len(workers())
    app = make_app(jobs="embedded", clock=utcnow)
    assert len(workers()) == before
    app.test_client().get("/")
    assert len(workers()) == before + 2
    app.test_client().get("/")
    assert len(workers()) == before + 2
    app.extensions["rindle"].close()
    assert len(workers()) == before


def test_a_first_request_takes_up_what_an_earlier_process_left(
    make_app: Callable[..., Flask], photo: Callable[..., bytes]
) -> None:
    first = make_app(clock=utcnow)
    first.extensions["rindle"].outbox.send = lambda _: None
    upload(first, photo())
    second = make_app(jobs="embedded", clock=utcnow)
    second.test_client().get("/")
    until(lambda: rows(second, Asset)[0].state == "ready")


def test_stopping_hands_unfinished_work_back(
    app: Flask, photo: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = app.extensions["rindle"]
    started = threading.Event()
    step = engine.pipeline._steps[JobKind.PROMOTE]

    def long_work(claim: object, stop: Callable[[], bool]) -> None:
        started.set()
        until(stop)
        raise Cancelled

    monkeypatch.setattr(step, "run", long_work)
    upload(app, photo())
    assert started.wait(30)
    engine.jobs.stop()
    (job,) = rows(app, Job)
    assert (job.state, job.attempt, job.lease) == ("queued", 0, None)
    assert [run.outcome for run in rows(app, ProcessingRun)] == ["released"]


def test_a_bug_in_a_step_is_tried_three_times_and_recorded(
    make_app: Callable[..., Flask], photo: Callable[..., bytes], clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app()
    engine = app.extensions["rindle"]

    def broken(*_: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(engine.pipeline._steps[JobKind.PROMOTE], "run", broken)
    upload(app, photo())
    for _ in range(5):
        clock.tick(hours=2)
        engine.jobs.drain()
    (job,) = rows(app, Job)
    assert (job.state, job.attempt) == ("failed", 3)
    assert [error["code"] for error in job.errors] == ["ZeroDivisionError"] * 3


def test_a_heartbeat_keeps_a_long_job(app: Flask, photo: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a beat of ten milliseconds the lease moves on while the step still runs."""
    monkeypatch.setattr("flask_rindle.pipeline.heart.HEARTBEAT_SECONDS", 0.01)
    monkeypatch.setattr("flask_rindle.pipeline.heart.LOOK_SECONDS", 0.01)
    engine = app.extensions["rindle"]
    step = engine.pipeline._steps[JobKind.PROMOTE]
    leases: list[Any] = []

    def watching(claim: Any, stop: Callable[[], bool]) -> None:
        def moved() -> bool:
            leases.append(rows(app, Job)[0].lease_expires_at)
            return leases[-1] > leases[0]

        until(moved)

    monkeypatch.setattr(step, "run", watching)
    upload(app, photo())
    until(lambda: rows(app, Job)[0].state == "succeeded")
    assert leases[-1] > leases[0]


def test_cancelling_stops_work_that_runs(
    app: Flask, photo: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flask_rindle.pipeline.heart.HEARTBEAT_SECONDS", 0.01)
    monkeypatch.setattr("flask_rindle.pipeline.heart.LOOK_SECONDS", 0.01)
    engine = app.extensions["rindle"]
    started = threading.Event()

    def long_work(claim: object, stop: Callable[[], bool]) -> None:
        started.set()
        until(stop)
        raise Cancelled

    monkeypatch.setattr(engine.pipeline._steps[JobKind.PROMOTE], "run", long_work)
    asset = upload(app, photo())
    assert started.wait(30)
    with engine.database.transaction() as db_session:
        engine.attachments.remove(db_session, db_session.get_one(Asset, asset.id))
    until(lambda: {job.kind: job.state for job in rows(app, Job)} == {"promote": "cancelled", "purge": "succeeded"})
    assert rows(app, Asset) == []
