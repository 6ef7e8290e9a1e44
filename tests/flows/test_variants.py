"""Variants: rows stay independent, publishing is a compare-and-set, and a dead worker costs one attempt."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_rindle import Profile, image
from flask_rindle.engine import Engine
from flask_rindle.errors import OutputWrong, SandboxFailed
from flask_rindle.models import Asset, Job, ProcessingRun, Variant
from flask_rindle.outbox import JobKind
from flask_rindle.processing.base import Failed, Made, Order
from flask_rindle.signals import job_stop
from flask_rindle.testing.clock import FrozenClock


@pytest.fixture
def asset_id(app: Flask, engine: Engine, photo: Callable[..., bytes]) -> Any:
    """An asset whose promotion is through and whose variants still wait."""
    sent: list[Any] = []
    real, engine.outbox.send = engine.outbox.send, sent.append
    with app.app_context():
        asset = app.extensions["host"].rindle.upload("avatar", io.BytesIO(photo(300, 200)), filename="a.jpg")
    engine.pipeline.run(engine.outbox.claim("test", queues=["rindle_promote"]))
    engine.outbox.send = real
    return asset.id


@pytest.fixture
def drain(engine: Any) -> Callable[[], int]:
    return engine.jobs.drain


@pytest.fixture
def meddle(engine: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`meddle(fn)`: `fn(answers)` runs between making and publishing, and may change the answers."""
    work = engine.pipeline._steps[JobKind.VARIANTS]
    ask = work._ask

    def install(fn: Callable[[list[Made | Failed]], Sequence[Made | Failed] | None]) -> None:
        def asked(*args: Any, **kwargs: Any) -> Sequence[Made | Failed]:
            answers = list(ask(*args, **kwargs))
            return fn(answers) or answers

        monkeypatch.setattr(work, "_ask", asked)

    return install


def states(rows: Callable[..., Any]) -> dict[str, str]:
    return {variant.name: variant.state for variant in rows(Variant)}


def variant_files(app: Flask) -> set[str]:
    root = app.extensions["rindle"].storages["default"].root
    return {path.name.partition("-")[0] for path in root.rglob("*-*") if path.is_file()}


def failing(name: str, error: Exception) -> Callable[[list[Any]], list[Any]]:
    return lambda answers: [Failed(name=name, error=error) if a.name == name else a for a in answers]  # type: ignore[arg-type]


def test_one_variant_that_fails_leaves_its_sibling_alone(
    asset_id: Any, meddle: Callable[..., None], drain: Callable[[], int], rows: Callable[..., Any]
) -> None:
    meddle(failing("large", OutputWrong("not webp")))
    drain()
    assert states(rows) == {"large": "failed", "thumb": "ready"}
    failed = next(v for v in rows(Variant) if v.name == "large")
    assert (failed.error_code, failed.storage_key) == ("output_wrong", None)
    assert rows(Asset)[0].state == "degraded"
    assert [job.state for job in rows(Job) if job.kind == "variants"] == ["succeeded"]


def test_only_what_is_missing_is_made_again(
    asset_id: Any,
    meddle: Callable[..., None],
    drain: Callable[[], int],
    rows: Callable[..., Any],
    clock: FrozenClock,
) -> None:
    asked: list[list[str]] = []

    def first_time(answers: list[Any]) -> list[Any] | None:
        asked.append(sorted(answer.name for answer in answers))
        return failing("large", SandboxFailed("crashed"))(answers) if len(asked) == 1 else None

    meddle(first_time)
    drain()
    assert states(rows) == {"large": "queued", "thumb": "ready"}
    assert rows(Asset)[0].state == "processing"
    clock.tick(minutes=1)
    drain()
    assert states(rows) == {"large": "ready", "thumb": "ready"}
    assert asked == [["large", "thumb"], ["large"]]
    assert rows(Asset)[0].state == "ready"


def test_trouble_that_stays_ends_in_failed(
    asset_id: Any,
    meddle: Callable[..., None],
    drain: Callable[[], int],
    rows: Callable[..., Any],
    clock: FrozenClock,
) -> None:
    meddle(failing("large", SandboxFailed("memory")))
    for _ in range(12):
        drain()
        clock.tick(hours=2)
    assert states(rows) == {"large": "failed", "thumb": "ready"}
    (job,) = [job for job in rows(Job) if job.kind == "variants"]
    assert (job.state, job.attempt) == ("failed", 8)
    assert rows(Asset)[0].state == "degraded"


def test_a_worker_that_dies_costs_one_attempt(
    engine: Engine, asset_id: Any, drain: Callable[[], int], rows: Callable[..., Any], clock: FrozenClock
) -> None:
    dead = engine.outbox.claim("dead", queues=["rindle_process"])
    assert dead is not None
    engine.pipeline._steps[JobKind.VARIANTS]._take(asset_id)  # type: ignore[attr-defined]
    assert set(states(rows).values()) == {"processing"}
    assert drain() == 0
    clock.tick(seconds=61)
    assert drain() == 1
    assert states(rows) == {"large": "ready", "thumb": "ready"}
    assert sorted(run.outcome for run in rows(ProcessingRun) if run.kind == "variants") == ["lost", "succeeded"]
    engine.outbox.fail(dead, SandboxFailed("late"))
    assert {job.state for job in rows(Job)} == {"succeeded"}


def test_a_job_that_kills_its_workers_ends(
    engine: Engine, asset_id: Any, drain: Callable[[], int], rows: Callable[..., Any], clock: FrozenClock
) -> None:
    for _ in range(8):
        assert engine.outbox.claim("dies", queues=["rindle_process"]) is not None
        clock.tick(seconds=61)
    assert drain() == 1
    assert set(states(rows).values()) == {"failed"}
    assert [job.state for job in rows(Job) if job.kind == "variants"] == ["failed"]


def test_a_changed_recipe_is_not_published_under_the_old_digest(
    engine: Engine, app: Flask, asset_id: Any, meddle: Callable[..., None], drain: Callable[[], int], rows: Any
) -> None:
    def change(_: object) -> None:
        with engine.database.transaction() as db_session:
            db_session.query(Variant).filter_by(name="thumb").update({"recipe_digest": "0" * 64})

    meddle(change)
    drain()
    thumb = next(v for v in rows(Variant) if v.name == "thumb")
    assert (thumb.state, thumb.storage_key) == ("processing", None)
    assert variant_files(app) == {"large"}


def test_a_changed_source_is_not_published(
    engine: Engine, app: Flask, asset_id: Any, meddle: Callable[..., None], drain: Callable[[], int], rows: Any
) -> None:
    def change(_: object) -> None:
        with engine.database.transaction() as db_session:
            db_session.query(Asset).update({"etag": "other"})

    meddle(change)
    drain()
    assert "ready" not in states(rows).values()


def test_an_asset_that_is_removed_meanwhile_keeps_nothing(
    engine: Engine,
    app: Flask,
    asset_id: Any,
    meddle: Callable[..., None],
    drain: Callable[[], int],
    rows: Any,
    clock: FrozenClock,
) -> None:
    """The purge waits for the worker, which may still write; then everything goes."""

    def remove(_: object) -> None:
        with engine.database.transaction() as db_session:
            engine.attachments.remove(db_session, db_session.get_one(Asset, asset_id))

    meddle(remove)
    drain()
    assert [(job.state, job.attempt, job.errors) for job in rows(Job) if job.kind == "purge"] == [("queued", 0, [])]
    assert [run.error_code for run in rows(ProcessingRun) if run.kind == "purge"] == ["work_in_progress"]
    clock.tick(seconds=5)
    drain()
    assert (rows(Asset), rows(Variant), variant_files(app)) == ([], [], set())


def test_a_variant_that_is_declared_no_more_fails_alone(
    make_app: Callable[..., Flask], photo: Callable[..., bytes], clock: FrozenClock
) -> None:
    class Old(Profile):
        name = "pic"
        variants = {"keep": image.fit(10, 10), "gone": image.fit(20, 20)}  # noqa: RUF012

    class New(Profile):
        name = "pic"
        variants = {"keep": image.fit(12, 12)}  # noqa: RUF012

    before, after = make_app(profiles=[Old]), make_app(profiles=[New])
    engine: Any = before.extensions["rindle"]
    engine.outbox.send = lambda _: None
    with before.app_context():
        asset = before.extensions["host"].rindle.upload("pic", io.BytesIO(photo(90, 60)), filename="a.jpg")
    engine.pipeline.run(engine.outbox.claim("test"))
    other: Any = after.extensions["rindle"]
    other.jobs.drain()
    found = {variant.name: variant for variant in other.feed.asset(asset.id).variants}
    assert (found["keep"].state, found["keep"].width, found["gone"].state) == ("ready", 12, "failed")
    assert found["keep"].recipe_digest == New.recipe("keep").digest
    assert found["gone"].error_code == "unknown_name"


def test_work_that_is_asked_for_while_it_runs_is_done_again(
    engine: Engine, asset_id: Any, meddle: Callable[..., None], drain: Callable[[], int], rows: Callable[..., Any]
) -> None:
    calls: list[int] = []

    def ask_again(_: object) -> None:
        calls.append(1)
        if len(calls) == 1:
            with engine.database.transaction() as db_session:
                engine.outbox.add(db_session, JobKind.VARIANTS, asset_id)

    meddle(ask_again)
    drain()
    assert [run.outcome for run in rows(ProcessingRun) if run.kind == "variants"] == ["succeeded"] * 2


def test_a_processor_gets_one_source_for_all(
    engine: Engine, asset_id: Any, drain: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One download and one decode, whatever the number of variants."""
    storage: Any = engine.storages["default"]
    saved: list[str] = []
    save_to = storage.save_to
    monkeypatch.setattr(storage, "save_to", lambda key, path: (saved.append(key), save_to(key, path))[1])
    work: Any = engine.pipeline._steps[JobKind.VARIANTS]
    processor = work._tools.processors[0]
    asked: list[tuple[Path, int]] = []
    process = type(processor).process

    def watched(self: Any, source: Path, content_type: str, orders: Sequence[Order], **kwargs: Any) -> Any:
        asked.append((source, len(orders)))
        return process(self, source, content_type, orders, **kwargs)

    monkeypatch.setattr(type(processor), "process", watched)
    drain()
    assert len(saved) == 1
    assert [count for _, count in asked] == [2]
    assert not asked[0][0].parent.exists()


def test_work_on_an_asset_that_is_gone_is_discarded(engine: Engine, asset_id: Any, drain: Any, rows: Any) -> None:
    """Its job ends, undone and on purpose, and says why."""
    with engine.database.transaction() as db_session:
        db_session.query(Asset).update({"state": "deleted"})
    drain()
    (job,) = [job for job in rows(Job) if job.kind == "variants"]
    assert (job.state, [error["code"] for error in job.errors]) == ("cancelled", ["discarded"])
    assert [run.outcome for run in rows(ProcessingRun) if run.kind == "variants"] == ["cancelled"]


def test_a_listener_to_the_end_of_a_job_that_fails_holds_nothing_up(
    app: Flask, photo: Callable[..., bytes], engine: Engine
) -> None:
    """Neither the job, which is settled, nor what it leads to."""

    def fail(_sender: object, **_facts: object) -> None:
        raise ZeroDivisionError

    with job_stop.connected_to(fail), app.app_context():
        asset = app.extensions["host"].rindle.upload("avatar", io.BytesIO(photo()), filename="b.jpg")
    assert engine.feed.asset(asset.id).state == "ready"
