"""The library's pool is its own: a host whose requests hold all their connections is still answered."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask

from flask_rindle.models import Asset

servers = pytest.mark.parametrize("any_database", ["postgresql", "mariadb"], indirect=True)
SMALL = {"pool_size": 2, "max_overflow": 0, "pool_timeout": 2}


@pytest.fixture
def waiting(make_app: Callable[..., Flask], any_database: str) -> Flask:
    """Every request holds a connection of the host, as a user loader does, before it asks the library."""
    barrier, ready = threading.Barrier(2), threading.Event()

    def actor() -> None:
        host = app.extensions["host"]
        host.db.session.get(host.User, 1)
        if ready.is_set():
            barrier.wait(10)

    app = make_app(database_url=any_database, actor=actor, SQLALCHEMY_ENGINE_OPTIONS=SMALL)
    app.extensions["ready"] = ready
    return app


@servers
def test_two_requests_that_hold_all_connections_are_both_answered(
    waiting: Flask, photo: Callable[..., bytes], caplog: pytest.LogCaptureFixture
) -> None:
    with waiting.app_context():
        tickets = [waiting.extensions["host"].rindle.upload_ticket("avatar") for _ in range(2)]
    waiting.extensions["ready"].set()

    def submit(ticket: str) -> Any:
        fields = {"ticket": ticket, "file": (io.BytesIO(photo()), "a.jpg", "image/jpeg")}
        return waiting.test_client().post("/rindle/uploads/form", data=fields, headers={"Accept": "application/json"})

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(submit, tickets))
    assert [answer.status_code for answer in answers] == [201, 201]
    with waiting.extensions["rindle"].database.reading() as db_session:
        assert [asset.state for asset in db_session.query(Asset)] == ["ready", "ready"]
    assert caplog.records == []
