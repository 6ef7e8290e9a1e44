"""Trouble passes and bugs do not: what is tried again until it is well, and what is given up."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy.exc import InterfaceError, OperationalError

from flask_rindle import Profile, image
from flask_rindle.errors import StorageUnavailable
from flask_rindle.models import Asset, Job
from flask_rindle.testing.clock import FrozenClock
from flask_rindle.testing.faults import faulty

AWAY = StorageUnavailable("default", "k")
GONE = OperationalError("SELECT 1", {}, Exception("server closed the connection unexpectedly"))
BUG = ZeroDivisionError("division by zero")


class Clam:
    """A scanner behind a socket."""

    name = "clam"

    def __init__(self) -> None:
        self.error: Exception | None = None

    def scan(self, path: Path) -> None:
        if self.error is not None:
            raise self.error


CLAM = Clam()


class Avatar(Profile):
    scanners = [CLAM]  # noqa: RUF012
    variants = {"thumb": image.fit(64, 64)}  # noqa: RUF012


@pytest.fixture
def app(make_app: Callable[..., Flask], tmp_path: Path) -> Flask:
    CLAM.error = None
    (tmp_path / "tmp").mkdir()
    return make_app(profiles=[Avatar], RINDLE_TMP_DIR=tmp_path / "tmp")


@pytest.fixture
def complete(app: Flask, staged: Callable[..., Any], photo: Callable[..., bytes]) -> Callable[[], None]:
    def verify() -> None:
        session = staged(photo())
        with app.app_context():
            app.extensions["host"].rindle.verify_completion(session)

    return verify


@pytest.fixture
def time_passes(engine: Any, clock: FrozenClock) -> Callable[..., None]:
    """`time_passes(minutes=3)`: whatever is due in each second of them is run."""

    def drain(*, minutes: int) -> None:
        for _ in range(minutes * 60):
            clock.tick(seconds=1)
            engine.jobs.drain()

    return drain


@pytest.mark.parametrize(
    "error",
    [ConnectionRefusedError(errno.ECONNREFUSED, "clamd restarts"), TimeoutError(), RuntimeError("odd answer")],
    ids=repr,
)
def test_a_scanner_that_is_away_is_waited_for(
    complete: Callable[[], None],
    time_passes: Callable[..., None],
    rows: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    monkeypatch.setattr(CLAM, "error", error)
    complete()
    time_passes(minutes=3)
    assert [asset.state for asset in rows(Asset)] == ["analyzing"]
    (job,) = rows(Job)
    assert (job.state, {entry["code"] for entry in job.errors}) == ("queued", {"scanner_unavailable"})
    assert job.attempt > 3
    monkeypatch.setattr(CLAM, "error", None)
    time_passes(minutes=5)
    assert [asset.state for asset in rows(Asset)] == ["ready"]


def no_room(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_temp_directory_is_waited_for(
    complete: Callable[[], None],
    time_passes: Callable[..., None],
    rows: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "mkdtemp", no_room)
        complete()
        time_passes(minutes=3)
        assert [asset.state for asset in rows(Asset)] == ["analyzing"]
        assert rows(Job)[0].attempt > 3
    time_passes(minutes=5)
    assert [asset.state for asset in rows(Asset)] == ["ready"]


def test_a_temp_directory_that_is_missing_is_waited_for(
    tmp_path: Path, complete: Callable[[], None], time_passes: Callable[..., None], rows: Callable[..., Any]
) -> None:
    (tmp_path / "tmp").rmdir()
    complete()
    time_passes(minutes=3)
    (tmp_path / "tmp").mkdir()
    time_passes(minutes=5)
    assert [asset.state for asset in rows(Asset)] == ["ready"]


@pytest.mark.parametrize("verb", ["save_to", "promote", "put"])
@pytest.mark.parametrize("error", [GONE, InterfaceError("SELECT 1", {}, Exception("closed"))], ids=["gone", "closed"])
def test_a_database_that_goes_away_is_waited_for(
    engine: Any,
    complete: Callable[[], None],
    time_passes: Callable[..., None],
    rows: Callable[..., Any],
    verb: str,
    error: Exception,
) -> None:
    """In whatever step: in promotion as well as in making the pictures."""
    session_storage = engine.storages["default"]
    faults: list[Exception | None] = [error] * 4
    faulty(session_storage, {verb: [None, *faults] if verb == "put" else faults})
    complete()
    time_passes(minutes=4)
    assert [asset.state for asset in rows(Asset)] == ["ready"]
    assert {job.state for job in rows(Job)} == {"succeeded"}


def test_trouble_does_not_use_up_the_attempts_at_a_bug(
    engine: Any, complete: Callable[[], None], time_passes: Callable[..., None], rows: Callable[..., Any]
) -> None:
    faulty(engine.storages["default"], {"save_to": [AWAY, AWAY, AWAY, BUG, AWAY, BUG]})
    complete()
    time_passes(minutes=10)
    assert [asset.state for asset in rows(Asset)] == ["ready"]


def test_three_bugs_are_the_end(
    engine: Any, complete: Callable[[], None], time_passes: Callable[..., None], rows: Callable[..., Any]
) -> None:
    faulty(engine.storages["default"], {"save_to": [BUG, AWAY, BUG, BUG]})
    complete()
    time_passes(minutes=10)
    (job,) = rows(Job)
    assert (job.state, job.attempt, job.errors[-1]["code"]) == ("failed", 4, "ZeroDivisionError")
    assert [asset.state for asset in rows(Asset)] == ["analyzing"], "nothing is decided about the content"
