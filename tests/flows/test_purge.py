"""The purge against the workers: whoever is quicker, no bytes stay that nobody knows of."""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_rindle.engine import Engine
from flask_rindle.models import Asset, Job, ProcessingRun, Variant
from flask_rindle.testing.clock import FrozenClock


class Killed(BaseException):
    """The process dies."""


@pytest.fixture
def asset_id(app: Flask, hold_jobs: Callable[[], int], photo: Callable[..., bytes]) -> uuid.UUID:
    """An asset whose bytes have come and whose jobs all wait."""
    with app.app_context():
        return app.extensions["host"].rindle.upload("avatar", io.BytesIO(photo(300, 200)), filename="a.jpg").id


@pytest.fixture
def remove(engine: Engine, asset_id: uuid.UUID) -> Callable[[], None]:
    """Remove the asset, and run its purge at once."""

    def delete() -> None:
        with engine.database.transaction() as db_session:
            engine.attachments.remove(db_session, db_session.get_one(Asset, asset_id))
        claim = engine.outbox.claim("purger", queues=["rindle_purge"])
        assert claim is not None
        engine.pipeline.run(claim)

    return delete


@pytest.fixture
def work(engine: Any, clock: FrozenClock) -> Callable[[], None]:
    """Everything that is due in the next days."""

    def drain() -> None:
        for _ in range(40):
            engine.jobs.drain()
            clock.tick(hours=1)

    return drain


def files(app: Flask) -> list[Path]:
    return [path for path in app.extensions["rindle"].storages["default"].root.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("verb", "call"), [("save_to", 1), ("promote", 1), ("save_to", 2), ("put", 1), ("put", 2)], ids=str
)
@pytest.mark.parametrize("moment", ["before", "after", "before a crash", "after a crash"])
def test_an_asset_that_is_removed_while_it_is_worked_on_leaves_no_bytes(
    app: Flask,
    engine: Any,
    remove: Callable[[], None],
    work: Callable[[], None],
    rows: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    call: int,
    moment: str,
) -> None:
    """At any call to the storage, and also when the worker dies right after it."""
    storage = engine.storages["default"]
    real, calls = getattr(storage, verb), [0]

    def overtaken(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] != call:
            return real(*args, **kwargs)
        if moment.startswith("before"):
            remove()
        answer = real(*args, **kwargs)
        if moment.startswith("after"):
            remove()
        if moment.endswith("crash"):
            raise Killed
        return answer

    monkeypatch.setattr(storage, verb, overtaken)
    try:
        engine.jobs.drain()
    except Killed:
        assert moment.endswith("crash")
    assert calls[0] >= call
    work()
    assert files(app) == []
    assert (rows(Asset), rows(Variant)) == ([], [])
    assert {job.state for job in rows(Job)} <= {"succeeded", "cancelled"}
    assert [job.attempt for job in rows(Job) if job.kind == "purge"] == [1], "waiting uses up no attempt"
    waits = [run for run in rows(ProcessingRun) if run.error_code == "work_in_progress"]
    assert {run.outcome for run in waits} == {"released"}, "it has waited for the worker"


def test_a_purge_that_is_quicker_than_promotion_leaves_nothing_and_no_error(
    app: Flask, engine: Any, remove: Callable[[], None], work: Callable[[], None], rows: Callable[..., Any]
) -> None:
    remove()
    assert (rows(Asset), files(app)) == ([], [])
    work()
    assert sorted((job.kind, job.state, job.errors) for job in rows(Job)) == [
        ("promote", "cancelled", []),
        ("purge", "succeeded", []),
    ]
