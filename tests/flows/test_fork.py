"""A server that forks after it was set up: no connection, thread or child process is shared."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable
from typing import Any

from flask import Flask

from flask_rindle.models import Asset
from flask_rindle.types import utcnow


def in_a_fork(work: Callable[[], bool]) -> bool:
    """Whether `work` returns true in a forked process."""
    with warnings.catch_warnings():
        # Newer Pythons warn that threads do not survive; that they are started anew is what is tested.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_work_goes_on_on_both_sides_of_a_fork(make_app: Callable[..., Flask], photo: Callable[..., bytes]) -> None:
    app = make_app(clock=utcnow)
    engine: Any = app.extensions["rindle"]

    def upload_and_look() -> bool:
        with app.app_context():
            asset = app.extensions["host"].rindle.upload("avatar", io.BytesIO(photo()), filename="a.jpg")
            return bool(engine.feed.asset(asset.id).state == "ready")

    assert upload_and_look()
    assert in_a_fork(upload_and_look)
    assert upload_and_look()
    with engine.database.reading() as db_session:
        assert [asset.state for asset in db_session.query(Asset)] == ["ready"] * 3


def test_a_connection_is_not_carried_over(make_app: Callable[..., Flask], any_database: str) -> None:
    app = make_app(database_url=any_database)
    database = app.extensions["rindle"].database

    def connection_id() -> int:
        with database.reading() as db_session:
            return id(db_session.connection().connection.dbapi_connection)

    before = connection_id()
    assert connection_id() == before
    assert in_a_fork(lambda: connection_id() != before)
    assert connection_id() == before, "the child has not hung up"


def test_embedded_workers_start_again_in_a_fork(make_app: Callable[..., Flask]) -> None:
    app = make_app(jobs="embedded", clock=utcnow)
    jobs: Any = app.extensions["rindle"].jobs
    app.test_client().get("/")
    parents = list(jobs._shifts[0].threads)

    def starts_its_own() -> bool:
        app.test_client().get("/")
        alive = [thread for thread in jobs._shifts[0].threads if thread.is_alive()]
        return len(alive) == 2 and not set(alive) & set(parents)

    assert in_a_fork(starts_its_own)
