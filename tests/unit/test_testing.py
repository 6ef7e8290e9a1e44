"""What `flask_rindle.testing` gives to tests: a clock, and the rule about bytes and transactions."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask

from flask_rindle.engine import Engine
from flask_rindle.models.database import in_transaction, on_commit
from flask_rindle.testing.clock import FrozenClock
from flask_rindle.testing.transactions import no_io_in_transaction


def test_a_frozen_clock_moves_only_when_told() -> None:
    clock = FrozenClock(datetime(2026, 1, 1, tzinfo=UTC))
    assert clock() == clock() == datetime(2026, 1, 1, tzinfo=UTC)
    assert clock.tick(minutes=16) == datetime(2026, 1, 1, 0, 16, tzinfo=UTC) == clock()
    clock.set(datetime(2027, 1, 1, tzinfo=UTC))
    assert clock() - timedelta(days=365) == datetime(2026, 1, 1, tzinfo=UTC)


def test_a_frozen_clock_refuses_a_moment_without_a_zone() -> None:
    with pytest.raises(ValueError, match="time zone"):
        FrozenClock().set(datetime(2026, 1, 1))  # noqa: DTZ001


def put(engine: Engine) -> None:
    engine.storages["default"].put("a/b", io.BytesIO(b"text"))


def caught(act: Callable[[], object]) -> bool:
    """Whether the rule speaks up, both at once and at the end of its block."""
    at_once = False
    try:
        with no_io_in_transaction():
            try:
                act()
            except AssertionError:
                at_once = True
    except AssertionError:
        return at_once
    assert not at_once
    return False


@pytest.fixture(autouse=True)
def _no_io_in_transaction() -> None:
    """The suite's own guard would count these breaches too."""


@pytest.mark.parametrize("backend", ["local", "memory"])
@pytest.mark.parametrize("session", ["transaction", "reading"])
def test_bytes_inside_a_transaction_of_ours_are_caught(
    make_app: Callable[..., Flask], tmp_path: Any, backend: str, session: str
) -> None:
    options = {"root": tmp_path / "media"} if backend == "local" else {}
    engine = make_app(storages={"default": {"backend": backend, **options}}).extensions["rindle"]

    def act() -> None:
        with getattr(engine.database, session)():
            put(engine)

    assert caught(act)


def test_bytes_outside_of_a_transaction_are_fine(engine: Engine) -> None:
    assert not caught(lambda: put(engine))


def test_bytes_in_a_hook_after_commit_are_fine(engine: Engine) -> None:
    def act() -> None:
        with engine.database.transaction() as db_session:
            assert in_transaction()
            on_commit(db_session, lambda: put(engine))
        assert not in_transaction()

    assert not caught(act)


def test_a_transaction_that_is_undone_is_over(engine: Engine) -> None:
    with pytest.raises(ZeroDivisionError), engine.database.transaction():
        raise ZeroDivisionError
    assert not in_transaction()


def test_bytes_beside_uncommitted_rows_of_the_host_are_caught(app: Flask, engine: Engine) -> None:
    host = app.extensions["host"]

    def act() -> None:
        host.db.session.add(host.User(name="ann"))
        host.db.session.flush()
        put(engine)

    with app.app_context():
        assert caught(act)


@pytest.mark.parametrize("end", ["commit", "rollback", "close"])
def test_bytes_after_the_hosts_transaction_are_fine(app: Flask, engine: Engine, end: str) -> None:
    host = app.extensions["host"]

    def act() -> None:
        host.db.session.add(host.User(name="ann"))
        host.db.session.flush()
        getattr(host.db.session, end)()
        put(engine)

    with app.app_context():
        assert not caught(act)
