"""The feed: no event is missed, also when its transaction commits late, and no reader holds up another."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from flask_rindle.errors import DatabaseUnavailable
from flask_rindle.models import Event
from flask_rindle.readiness import Change, Feed, Subscription
from flask_rindle.types import new_id, utcnow

SOON = timedelta(seconds=10)


class StillBell:
    """Keeps the feed's own thread waiting, so that only the test reads."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def ring(self) -> None:
        """Nobody listens."""

    def wait(self, seen: int, timeout_seconds: float) -> int:
        self.over.wait()
        return seen


@pytest.fixture
def app(make_app: Callable[..., Flask], any_database: str) -> Flask:
    return make_app(database_url=any_database)


@pytest.fixture
def feed(app: Flask) -> Iterator[Feed]:
    bell = StillBell()
    yield Feed(app.extensions["rindle"].database, bell)
    bell.over.set()


def write(db_session: Session, asset_id: uuid.UUID, name: str) -> int:
    row = Event(
        kind="variant",
        subject_id=new_id(),
        asset_id=asset_id,
        name=name,
        from_state="queued",
        to_state="processing",
        created_at=utcnow(),
    )
    db_session.add(row)
    db_session.flush()
    return row.id


def commit(app: Flask, asset_id: uuid.UUID, name: str) -> int:
    with app.extensions["rindle"].database.transaction() as db_session:
        return write(db_session, asset_id, name)


def heard(subscription: Subscription) -> list[Change]:
    found = []
    while (change := subscription.next(timedelta())) is not None:
        found.append(change)
    return found


def test_changes_come_in_order_and_only_for_those_who_asked(app: Flask, feed: Feed) -> None:
    mine, other = new_id(), new_id()
    commit(app, mine, "before")
    with feed.subscribe([mine]) as subscription:
        ids = [commit(app, mine, "a"), commit(app, other, "x"), commit(app, mine, "b")]
        feed.read()
        assert [(change.name, change.resume_id) for change in heard(subscription)] == [("a", ids[0]), ("b", ids[2])]
    assert [change.name for change in feed.since([mine], ids[0])] == ["b"]


# SQLite has one writer at a time, so there ids are committed in order and none is left out.
several_writers = pytest.mark.parametrize("any_database", ["postgresql", "mariadb"], indirect=True)


@several_writers
def test_an_event_that_commits_late_is_told_and_never_skipped_by_a_resume(app: Flask, feed: Feed) -> None:
    asset_id = new_id()
    first = commit(app, asset_id, "first")
    engine = app.extensions["host"].db
    with app.app_context():
        sql_engine = engine.engine
    with feed.subscribe([asset_id]) as subscription, Session(sql_engine) as late:
        write(late, asset_id, "late")
        commit(app, asset_id, "early")
        feed.read()
        (early,) = heard(subscription)
        assert (early.name, early.resume_id) == ("early", first)
        late.commit()
        assert [change.name for change in feed.since([asset_id], early.resume_id)] == ["late", "early"]
        feed.read()
        assert [change.name for change in heard(subscription)] == ["late"]
        last = commit(app, asset_id, "last")
        feed.read()
        assert [change.resume_id for change in heard(subscription)] == [last]


@several_writers
def test_the_very_first_event_may_commit_late_too(app: Flask, feed: Feed) -> None:
    """Nothing older tells a feed, or a resume, that there is a gap below what it sees first."""
    asset_id = new_id()
    with app.app_context():
        sql_engine = app.extensions["host"].db.engine
    with Session(sql_engine) as late:
        write(late, asset_id, "late")
        commit(app, asset_id, "early")
        (early,) = feed.since([asset_id], 0)
        assert early.name == "early"
        with feed.subscribe([asset_id]) as subscription:
            late.commit()
            feed.read()
            assert [change.name for change in heard(subscription)] == ["late"]
        assert [change.name for change in feed.since([asset_id], early.resume_id)] == ["late", "early"]


@several_writers
def test_a_feed_that_begins_above_a_gap_tells_of_it(app: Flask, feed: Feed) -> None:
    """As a process that has just been started, among others that are writing."""
    asset_id = new_id()
    first = commit(app, asset_id, "first")
    with app.app_context():
        sql_engine = app.extensions["host"].db.engine
    with Session(sql_engine) as late:
        write(late, asset_id, "late")
        commit(app, asset_id, "early")
        assert [(change.name, change.resume_id) for change in feed.since([asset_id], first)] == [("early", first)]
        with feed.subscribe([asset_id]) as subscription:
            commit(app, asset_id, "next")
            feed.read()
            assert [(change.name, change.resume_id) for change in heard(subscription)] == [("next", first)]
            late.commit()
            feed.read()
            assert [change.name for change in heard(subscription)] == ["late"]
        assert [change.name for change in feed.since([asset_id], first)] == ["late", "early", "next"]


def test_everything_is_told_however_much_it_is(app: Flask, feed: Feed) -> None:
    asset_id = new_id()
    with app.extensions["rindle"].database.transaction() as db_session:
        ids = [write(db_session, asset_id, f"n{n}") for n in range(801)]
    assert [change.resume_id for change in feed.since([asset_id], 0)] == ids
    assert [change.resume_id for change in feed.since([asset_id], ids[299])] == ids[300:]
    assert list(feed.since([asset_id], ids[-1])) == []


@contextmanager
def database_trouble(app: Flask) -> Iterator[threading.Event]:
    """No statement about events gets through; the event is set when one has failed."""
    engine, met = app.extensions["rindle"].database._binds().reader, threading.Event()

    def fail(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "rindle_events" in statement:
            met.set()
            raise OperationalError(statement, {}, Exception("the server closed the connection"))

    event.listen(engine, "before_cursor_execute", fail)
    try:
        yield met
    finally:
        event.remove(engine, "before_cursor_execute", fail)


def test_the_readers_thread_survives_a_database_that_goes_away(make_app: Callable[..., Flask]) -> None:
    app = make_app()
    feed: Any = app.extensions["rindle"].feed
    asset_id = new_id()
    with feed.subscribe([asset_id]) as subscription:
        thread = feed._thread
        with database_trouble(app) as met:
            feed._wakeups.ring()
            assert met.wait(10)
        commit(app, asset_id, "a")
        feed._wakeups.ring()
        change = subscription.next(SOON)
        assert change is not None
        assert change.name == "a"
        assert feed._thread is thread


def test_a_subscription_that_cannot_start_leaves_nothing(app: Flask, feed: Any) -> None:
    asset_id = new_id()
    with database_trouble(app), pytest.raises(DatabaseUnavailable), feed.subscribe([asset_id]):
        pass
    assert (feed._subscriptions, feed._thread) == (set(), None)
    with feed.subscribe([asset_id]) as subscription:
        commit(app, asset_id, "a")
        feed.read()
        assert [change.name for change in heard(subscription)] == ["a"]


@several_writers
def test_an_id_that_is_never_committed_is_given_up(app: Flask, feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    asset_id = new_id()
    with app.app_context():
        sql_engine = app.extensions["host"].db.engine
    with feed.subscribe([asset_id]) as subscription:
        with Session(sql_engine) as undone:
            write(undone, asset_id, "undone")
            undone.rollback()
        held_back = commit(app, asset_id, "a")
        feed.read()
        assert heard(subscription)[0].resume_id < held_back
        monkeypatch.setattr("flask_rindle.readiness.GAP_SECONDS", -1.0)
        released = commit(app, asset_id, "b")
        feed.read()
        assert heard(subscription)[0].resume_id == released


def test_a_reader_that_falls_behind_is_cut_off_alone(app: Flask, feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flask_rindle.readiness._QUEUE_EVENTS", 2)
    asset_id = new_id()
    with feed.subscribe([asset_id]) as slow, feed.subscribe([asset_id]) as quick:
        for name in "abcd":
            commit(app, asset_id, name)
            feed.read()
            assert [change.name for change in heard(quick)] == [name]
        assert (slow.is_cut, quick.is_cut) == (True, False)
        assert [change.name for change in heard(slow)] == ["a", "b"]


def test_the_readers_thread_starts_with_the_first_and_ends_after_the_last(make_app: Callable[..., Flask]) -> None:
    app = make_app()
    feed: Any = app.extensions["rindle"].feed
    asset_id = new_id()
    assert feed._thread is None
    with feed.subscribe([asset_id]) as subscription:
        thread = feed._thread
        commit(app, asset_id, "a")
        feed._wakeups.ring()
        change = subscription.next(SOON)
        assert change is not None
        assert change.name == "a"
    feed._wakeups.ring()
    thread.join(10)
    assert not thread.is_alive()
    with feed.subscribe([asset_id]):
        assert feed._thread.is_alive()
