"""News between processes: a page that one process serves hears at once what another one commits."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable
from datetime import timedelta

import pytest
import redis
from flask import Flask
from sqlalchemy.exc import OperationalError

from flask_rindle.types import utcnow

LONG = 3600.0


@pytest.fixture(params=["redis", "postgresql"])
def channel_url(request: pytest.FixtureRequest) -> str:
    """Of each server in turn; skipped where it is not."""
    try:
        if request.param == "postgresql":
            return request.getfixturevalue("databases")("postgresql")
        with redis.Redis.from_url("redis://127.0.0.1:6379/0") as client:
            client.ping()
    except (OperationalError, redis.ConnectionError) as error:
        if os.environ.get("CI") or os.environ.get("RINDLE_REQUIRE_ALL"):
            raise
        pytest.skip(f"no {request.param} server on this machine: {error}")
    return "redis://127.0.0.1:6379/0"


@pytest.fixture
def app(make_app: Callable[..., Flask], channel_url: str, monkeypatch: pytest.MonkeyPatch) -> Flask:
    """An app that looks for itself once an hour, so that only a wake-up explains what it hears."""
    monkeypatch.setattr("flask_rindle.readiness.POLL_SECONDS", LONG)
    return make_app(clock=utcnow, RINDLE_EVENTS_URL=channel_url)


def in_another_process(work: Callable[[], object]) -> None:
    with warnings.catch_warnings():
        # Newer Pythons warn that threads do not survive a fork; these are started anew where they are needed.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_change_of_another_process_is_heard_at_once(app: Flask, photo: Callable[..., bytes]) -> None:
    engine = app.extensions["rindle"]
    with app.app_context():
        session = app.extensions["host"].rindle.initiate_upload(
            "avatar", filename="a.jpg", content_type="image/jpeg", byte_size=len(photo())
        )
        app.extensions["host"].rindle.sign_upload(session)
    engine.proxied.write_staged(
        session.storage, session.upload_key, io.BytesIO(photo()), content_type=session.content_type
    )
    with engine.feed.subscribe([session.asset_id]) as subscription:
        in_another_process(lambda: engine.uploads.complete(session.id))
        heard = []
        while not heard or heard[-1] != "ready":
            change = subscription.next(timedelta(seconds=30))
            assert change is not None, f"heard only {heard}"
            if change.kind == "asset":
                heard.append(change.to_state)
    assert heard == ["validating", "analyzing", "promoting", "available", "processing", "ready"]
