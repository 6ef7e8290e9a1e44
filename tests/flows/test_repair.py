"""Calling work off and asking for it again: what waits, what runs, and what is done."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from flask import Flask

from flask_rindle import Profile, Rindle, image
from flask_rindle.engine import Engine
from flask_rindle.errors import NotDeliverable, NotFound, StorageUnavailable, UnknownName
from flask_rindle.models import Asset, Event, Job, ProcessingRun, Variant
from flask_rindle.outbox import JobKind, Priority
from flask_rindle.processing.sandbox import _Child
from flask_rindle.types import new_id


class Avatar(Profile):
    allow_mime = {"image/png", "image/jpeg"}  # noqa: RUF012
    variants = {"large": image.fit(1024, 1024, format="webp"), "thumb": image.fit(128, 128)}  # noqa: RUF012


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    return make_app(profiles=[Avatar])


@pytest.fixture
def verbs(app: Flask, rindle: Rindle) -> Iterator[Rindle]:
    with app.app_context():
        yield rindle


@pytest.fixture
def make_asset(app: Flask, engine: Engine, hold_jobs: Callable[[], int], photo: Any) -> Callable[..., uuid.UUID]:
    """An asset whose promotion is through and whose variants still wait."""

    def make() -> uuid.UUID:
        with app.app_context():
            source = io.BytesIO(photo(300, 200))
            asset = app.extensions["host"].rindle.upload("avatar", source, filename="a.jpg")
        run(engine, "rindle_promote")
        return asset.id

    return make


@pytest.fixture
def asset_id(make_asset: Callable[..., uuid.UUID]) -> uuid.UUID:
    return make_asset()


@pytest.fixture
def state(engine: Engine) -> Callable[..., None]:
    """`state(to, *names)`: variants are brought to a state by hand, with what it needs."""

    def set_by_hand(to: str, *names: str) -> None:
        with engine.database.transaction() as db_session:
            db_session.query(Variant).filter(Variant.name.in_(names)).update({"state": to})

    return set_by_hand


def run(engine: Engine, queue: str = "rindle_process") -> None:
    claim = engine.outbox.claim("worker", queues=[queue])
    assert claim is not None
    engine.pipeline.run(claim)


def states(rows: Callable[..., Any]) -> dict[str, str]:
    return {variant.name: variant.state for variant in rows(Variant)}


def work(rows: Callable[..., Any]) -> list[str]:
    """The states of the jobs that make variants."""
    return [job.state for job in sorted(rows(Job), key=lambda job: job.id) if job.kind == "variants"]


def everything(rows: Callable[..., Any]) -> list[Any]:
    """All that is committed, column by column."""
    found = [row for model in (Asset, Variant, Job, Event) for row in rows(model)]
    return sorted(str({c.key: getattr(row, c.key) for c in row.__mapper__.column_attrs}) for row in found)


def objects(engine: Engine) -> set[str]:
    root = engine.storages["default"].root  # type: ignore[attr-defined]
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def named(rows: Callable[..., Any]) -> set[str]:
    return {row.storage_key for row in [*rows(Asset), *rows(Variant)] if row.storage_key is not None}


def moves(rows: Callable[..., Any], name: str) -> list[tuple[str, str]]:
    found = sorted((event for event in rows(Event) if event.name == name), key=lambda event: event.id)
    return [(event.from_state, event.to_state) for event in found]


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    ends_at, pause = time.monotonic() + seconds, threading.Event()
    while not condition():
        assert time.monotonic() < ends_at, "it did not come about"
        pause.wait(0.01)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class TestCancelBefore:
    @pytest.mark.parametrize("waiting", ["planned", "queued"])
    def test_it_runs_nothing_is_made_and_the_original_stays(
        self, verbs: Rindle, engine: Engine, asset_id: uuid.UUID, state: Any, rows: Any, waiting: str
    ) -> None:
        state(waiting, "large", "thumb")
        assert verbs.cancel_processing(asset_id) == ["large", "thumb"]
        assert states(rows) == {"large": "cancelled", "thumb": "cancelled"}
        assert moves(rows, "thumb")[-1] == (waiting, "cancelled")
        assert (rows(Asset)[0].state, work(rows)) == ("degraded", ["cancelled"])
        assert engine.outbox.claim("worker") is None
        assert verbs.url(asset_id, actor="ann")
        assert verbs.variant_url(asset_id, "thumb") == verbs.url(asset_id), "the original stands in"
        assert objects(engine) == named(rows)

    def test_a_second_attempt_what_was_made_is_kept(
        self, verbs: Rindle, engine: Engine, asset_id: uuid.UUID, state: Any, rows: Any
    ) -> None:
        run(engine)
        state("failed", "large")
        verbs.requeue_variants(asset_id)
        assert verbs.cancel_processing(asset_id) == ["large"]
        assert states(rows) == {"large": "cancelled", "thumb": "ready"}
        assert verbs.variant_url(asset_id, "thumb", fallback=None)
        assert work(rows) == ["succeeded", "cancelled"]

    def test_promotion_is_left_to_run(
        self, app: Flask, verbs: Rindle, engine: Engine, hold_jobs: Any, photo: Any, rows: Any
    ) -> None:
        asset = verbs.upload("avatar", io.BytesIO(photo()), filename="a.jpg")
        assert verbs.cancel_processing(asset.id) == []
        hold_jobs()
        assert rows(Asset)[0].state == "ready"


class TestCancelDuring:
    def test_work_of_a_real_child_ends_it_at_once(
        self, verbs: Rindle, engine: Engine, make_asset: Any, rows: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The decoder never gets to an end; a second later it is gone."""
        asset_id = make_asset()
        asked, pids = threading.Event(), list[int]()
        ask = _Child.ask

        def watched(child: Any, *args: Any) -> Any:
            pids.append(child._process.pid)
            os.kill(child._process.pid, signal.SIGSTOP)
            asked.set()
            return ask(child, *args)

        monkeypatch.setattr(_Child, "ask", watched)
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(run, engine)
            assert asked.wait(30)
            assert (is_alive(pids[0]), done.done()) == (True, False)
            assert verbs.cancel_processing(asset_id) == ["large", "thumb"]
            until(lambda: not is_alive(pids[0]), seconds=3)
            done.result(10)
        assert len(pids) == 1
        assert (work(rows), rows(Asset)[0].state) == (["cancelled"], "degraded")
        assert [row.outcome for row in rows(ProcessingRun) if row.kind == "variants"] == ["cancelled"]
        assert states(rows) == {"large": "cancelled", "thumb": "cancelled"}
        assert moves(rows, "large") == [("planned", "queued"), ("queued", "processing"), ("processing", "cancelled")]
        assert objects(engine) == named(rows)
        assert verbs.url(asset_id)

    @pytest.mark.parametrize("moment", ["before", "after"])
    @pytest.mark.parametrize("call", [1, 2])
    def test_publishing_keeps_what_was_published_and_no_other_bytes(
        self, verbs: Rindle, engine: Any, asset_id: uuid.UUID, rows: Any, monkeypatch: Any, call: int, moment: str
    ) -> None:
        """The first or second time that bytes are stored."""
        storage, calls, cancelled = engine.storages["default"], [0], list[list[str]]()
        real = storage.put

        def put(*args: Any, **kwargs: Any) -> Any:
            calls[0] += 1
            if (calls[0], moment) == (call, "before"):
                cancelled.append(verbs.cancel_processing(asset_id))
            stored = real(*args, **kwargs)
            if (calls[0], moment) == (call, "after"):
                cancelled.append(verbs.cancel_processing(asset_id))
            return stored

        monkeypatch.setattr(storage, "put", put)
        run(engine)
        found = states(rows)
        assert sorted(found.values()) == (["cancelled"] * 2 if call == 1 else ["cancelled", "ready"])
        assert cancelled == [sorted(name for name, at in found.items() if at == "cancelled")]
        assert objects(engine) == named(rows)
        assert {row.name for row in rows(Variant) if row.storage_key} == {n for n, at in found.items() if at == "ready"}
        assert rows(Asset)[0].state == "degraded"
        assert work(rows)[0] in ("succeeded", "cancelled")

    def test_an_attempt_that_meets_trouble_is_not_tried_again(
        self, verbs: Rindle, engine: Any, asset_id: uuid.UUID, rows: Any, monkeypatch: Any
    ) -> None:
        from flask_rindle.errors import StorageUnavailable

        def save_to(key: str, path: Any) -> Any:
            verbs.cancel_processing(asset_id)
            raise StorageUnavailable("default", key)

        monkeypatch.setattr(engine.storages["default"], "save_to", save_to)
        run(engine)
        assert (work(rows), engine.outbox.next_due_at()) == (["cancelled"], None)


class TestCancelAfter:
    def test_all_is_made_there_is_nothing_to_do(self, verbs: Rindle, engine: Engine, asset_id: Any, rows: Any) -> None:
        run(engine)
        before = everything(rows)
        assert verbs.cancel_processing(asset_id) == []
        assert everything(rows) == before

    def test_it_was_cancelled_there_is_nothing_to_do(self, verbs: Rindle, asset_id: uuid.UUID, rows: Any) -> None:
        verbs.cancel_processing(str(asset_id))
        before = everything(rows)
        assert verbs.cancel_processing(asset_id) == []
        assert everything(rows) == before

    @pytest.mark.parametrize("asset", [new_id(), "not an id"], ids=["unknown", "no id"])
    @pytest.mark.parametrize("verb", ["cancel_processing", "requeue_variants"])
    def test_of_an_unknown_asset_says_so(self, verbs: Rindle, asset: Any, verb: str) -> None:
        with pytest.raises(NotFound):
            getattr(verbs, verb)(asset)


class TestRequeue:
    @pytest.mark.parametrize("given_up", ["failed", "cancelled"])
    def test_brings_back_what_was_given_up(
        self, verbs: Rindle, engine: Engine, asset_id: uuid.UUID, state: Any, rows: Any, given_up: str
    ) -> None:
        if given_up == "failed":
            run(engine)
            state("failed", "large")
            with engine.database.transaction() as db_session:
                db_session.query(Variant).filter_by(name="large").update({"error_code": "x", "error_detail": "y"})
        else:
            verbs.cancel_processing(asset_id)
        names = verbs.requeue_variants(asset_id)
        assert names == (["large"] if given_up == "failed" else ["large", "thumb"])
        assert rows(Asset)[0].state == "processing"
        assert {(row.error_code, row.error_detail) for row in rows(Variant)} == {(None, None)}
        run(engine)
        assert states(rows) == {"large": "ready", "thumb": "ready"}
        assert (rows(Asset)[0].state, objects(engine)) == ("ready", named(rows))

    def test_of_names_brings_back_those_and_only_those(
        self, verbs: Rindle, engine: Engine, asset_id: uuid.UUID, rows: Any
    ) -> None:
        verbs.cancel_processing(asset_id)
        assert verbs.requeue_variants(asset_id, ["thumb"]) == ["thumb"]
        run(engine)
        assert states(rows) == {"large": "cancelled", "thumb": "ready"}
        assert verbs.requeue_variants(asset_id, []) == []
        assert work(rows) == ["cancelled", "succeeded"]

    def test_of_what_went_missing_makes_it_again(
        self, verbs: Rindle, engine: Engine, asset_id: uuid.UUID, state: Any, rows: Any
    ) -> None:
        run(engine)
        (thumb,) = [row for row in rows(Variant) if row.name == "thumb"]
        engine.storages["default"].delete(thumb.storage_key)
        state("missing", "thumb")
        assert verbs.requeue_variants(asset_id) == [], "not unless it is named"
        assert verbs.requeue_variants(asset_id, ["thumb", "large"]) == ["thumb"]
        run(engine)
        assert (states(rows), objects(engine)) == ({"large": "ready", "thumb": "ready"}, named(rows))

    def test_of_what_is_stale_makes_it_anew_and_removes_the_old(
        self, verbs: Rindle, engine: Engine, asset_id: uuid.UUID, rows: Any
    ) -> None:
        """No row names the old bytes any more, so nobody could remove them later."""
        run(engine)
        (thumb,) = [row for row in rows(Variant) if row.name == "thumb"]
        old_key = f"{thumb.storage_key}-old"
        storage = engine.storages["default"]
        storage.put(old_key, io.BytesIO(b"".join(storage.read(thumb.storage_key))))
        storage.delete(thumb.storage_key)
        old = {"state": "stale", "recipe_digest": "0" * 64, "storage_key": old_key}
        with engine.database.transaction() as db_session:
            db_session.query(Variant).filter_by(name="thumb").update(old)
        assert verbs.requeue_variants(asset_id) == [], "not unless it is named"
        assert verbs.requeue_variants(asset_id, ["thumb"]) == ["thumb"]
        run(engine)
        (made,) = [row for row in rows(Variant) if row.name == "thumb"]
        assert (made.state, made.recipe_digest) == ("ready", Avatar.recipe("thumb").digest)
        assert objects(engine) == named(rows)

    def test_leaves_what_is_ready_alone(self, verbs: Rindle, engine: Engine, asset_id: uuid.UUID, rows: Any) -> None:
        run(engine)
        before = everything(rows)
        assert verbs.requeue_variants(asset_id) == []
        assert verbs.requeue_variants(asset_id, ["large", "thumb"]) == []
        assert everything(rows) == before

    def test_of_a_name_that_the_profile_lacks_changes_nothing(
        self, verbs: Rindle, asset_id: uuid.UUID, rows: Any
    ) -> None:
        verbs.cancel_processing(asset_id)
        before = everything(rows)
        with pytest.raises(UnknownName) as caught:
            verbs.requeue_variants(asset_id, ["thumb", "poster"])
        assert caught.value.name == "poster"
        assert everything(rows) == before

    @pytest.mark.parametrize("dead", ["quarantined", "deleted"])
    def test_of_an_asset_that_is_dead_changes_nothing(
        self, verbs: Rindle, engine: Engine, asset_id: uuid.UUID, rows: Any, dead: str
    ) -> None:
        verbs.cancel_processing(asset_id)
        with engine.database.transaction() as db_session:
            db_session.query(Asset).update({"state": dead})
        before = everything(rows)
        with pytest.raises(NotDeliverable) as caught:
            verbs.requeue_variants(asset_id)
        assert caught.value.state == dead
        assert everything(rows) == before

    def test_twice_makes_one_job_of_low_priority(self, verbs: Rindle, asset_id: uuid.UUID, rows: Any) -> None:
        verbs.cancel_processing(asset_id)
        assert verbs.requeue_variants(asset_id, ["thumb"]) == ["thumb"]
        assert verbs.requeue_variants(asset_id) == ["large"]
        assert verbs.requeue_variants(asset_id) == []
        (job,) = [job for job in rows(Job) if job.state == "queued"]
        assert (job.kind, job.priority, job.queue) == ("variants", Priority.AGAIN, "rindle_process")

    def test_goes_behind_an_asset_that_is_new(
        self, verbs: Rindle, engine: Engine, make_asset: Any, rows: Any, clock: Any
    ) -> None:
        old = make_asset()
        run(engine)
        with engine.database.transaction() as db_session:
            db_session.query(Variant).update({"state": "failed"})
        verbs.requeue_variants(old)
        clock.tick(minutes=1)
        new = make_asset()
        claim = engine.outbox.claim("worker")
        assert claim is not None
        assert claim.asset_id == new

    def test_goes_first_when_somebody_wants_the_same_for_the_first_time(
        self, verbs: Rindle, engine: Engine, asset_id: uuid.UUID, rows: Any
    ) -> None:
        verbs.cancel_processing(asset_id)
        verbs.requeue_variants(asset_id)
        with engine.database.transaction() as db_session:
            engine.outbox.add(db_session, JobKind.VARIANTS, asset_id)
        assert [job.priority for job in rows(Job) if job.state == "queued"] == [Priority.FIRST]

    def test_before_the_cancelled_worker_has_let_go_runs_after_it(
        self, verbs: Rindle, engine: Any, asset_id: uuid.UUID, rows: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with busy(engine, monkeypatch) as (started, done):
            assert started.wait(30)
            verbs.cancel_processing(asset_id)
            verbs.requeue_variants(asset_id)
            assert engine.outbox.claim("other") is None, "one worker at a time"
            done.result(10)
        assert work(rows) == ["queued"]
        assert set(states(rows).values()) == {"queued"}
        run(engine)
        assert (states(rows), work(rows)) == ({"large": "ready", "thumb": "ready"}, ["succeeded"])
        assert objects(engine) == named(rows)
        outcomes = [row.outcome for row in sorted(rows(ProcessingRun), key=lambda row: row.id)]
        assert outcomes[1:] == ["cancelled", "succeeded"]


@contextmanager
def busy(engine: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, Future[None]]]:
    """A worker that is at it, in a processor that ends when it is asked to stop, the first time."""
    started = threading.Event()
    step = engine.pipeline._steps[JobKind.VARIANTS]
    ask = step._ask

    def wait(*args: Any, stop: Callable[[], bool], **kwargs: Any) -> Any:
        if not started.is_set():
            started.set()
            until(stop)
        return ask(*args, stop=stop, **kwargs)

    monkeypatch.setattr(step, "_ask", wait)
    with ThreadPoolExecutor(1) as pool:
        yield started, pool.submit(run, engine)


class TestCommand:
    def call(self, app: Flask, *args: str) -> Any:
        return app.test_cli_runner().invoke(args=["rindle", "cancel", *args])

    def test_names_what_it_called_off(self, app: Flask, asset_id: uuid.UUID, rows: Any) -> None:
        answer = self.call(app, str(asset_id))
        assert (answer.exit_code, answer.output) == (0, "Cancelled large, thumb.\n")
        assert set(states(rows).values()) == {"cancelled"}
        again = self.call(app, str(asset_id))
        assert (again.exit_code, again.output) == (0, "There was nothing to cancel.\n")

    def test_prints_one_object_for_programs(self, app: Flask, asset_id: uuid.UUID) -> None:
        expected: list[Mapping[str, Any]] = [
            {"asset": str(asset_id), "cancelled": names} for names in (["large", "thumb"], [])
        ]
        for answer in expected:
            printed = self.call(app, "--json", str(asset_id))
            assert (printed.exit_code, json.loads(printed.output)) == (0, answer)

    @pytest.mark.parametrize("asset", [str(new_id()), "not-an-id", "0", ""], ids=["unknown", "no id", "zero", "empty"])
    @pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
    def test_of_what_is_not_there_says_so_in_a_sentence(self, app: Flask, asset: str, options: list[str]) -> None:
        answer = self.call(app, *options, asset)
        assert answer.exit_code == 1
        assert isinstance(answer.exception, SystemExit)
        assert answer.output.startswith("Error: ")
        assert answer.output.count("\n") == 1


def test_what_is_asked_for_during_the_last_attempt_has_attempts_of_its_own(
    verbs: Rindle, engine: Any, asset_id: uuid.UUID, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not failed together with what that attempt could not make."""
    with engine.database.transaction() as db_session:
        db_session.query(Job).filter(Job.kind == "variants").update({"max_attempts": 1})
        db_session.query(Variant).filter(Variant.name == "large").update({"state": "failed"})
    storage, asked = engine.storages["default"], []

    def away(*_: Any, **__: Any) -> Any:
        asked.append(verbs.requeue_variants(asset_id))
        raise StorageUnavailable("default", "a/b")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "save_to", away)
        run(engine)
    assert asked == [["large"]]
    assert "failed" not in states(rows).values()
    run(engine)
    assert (states(rows), work(rows)) == ({"large": "ready", "thumb": "ready"}, ["succeeded"])
