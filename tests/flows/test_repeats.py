"""Uploads that are sent again, come late or never: one asset, or nothing, and a place that is free again."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from flask_rindle.models import Asset, Job, UploadSession
from flask_rindle.testing.clock import FrozenClock


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def ticket(app: Flask) -> str:
    """For one file, so that whoever still holds its place is in the way."""
    with app.app_context():
        return app.extensions["host"].rindle.upload_ticket("avatar", expires_in=400_000)


@pytest.fixture
def announce(client: FlaskClient, ticket: str) -> Callable[..., Any]:
    def post(data: bytes, **fields: Any) -> Any:
        body = {"filename": "a.jpg", "content_type": "image/jpeg", "byte_size": len(data), **fields}
        return client.post("/rindle/uploads", json=body, headers={"Rindle-Ticket": ticket})

    return post


@pytest.fixture
def put(client: FlaskClient) -> Callable[..., Any]:
    def send(opened: Any, data: bytes) -> Any:
        upload = opened.json["upload"]
        return client.put(upload["url"], data=data, headers=upload["headers"])

    return send


@pytest.fixture
def complete(client: FlaskClient, ticket: str) -> Callable[..., Any]:
    def post(opened: Any) -> Any:
        return client.post(f"/rindle/uploads/{opened.json['id']}/complete", headers={"Rindle-Ticket": ticket})

    return post


@pytest.fixture
def submit(client: FlaskClient, ticket: str) -> Callable[[bytes], Any]:
    """The form without script."""

    def post(data: bytes) -> Any:
        fields = {"ticket": ticket, "file": (io.BytesIO(data), "a.jpg", "image/jpeg")}
        return client.post("/rindle/uploads/form", data=fields, headers={"Accept": "application/json"})

    return post


def files(app: Flask) -> list[Path]:
    return [path for path in app.extensions["rindle"].storages["default"].root.rglob("*") if path.is_file()]


def incoming(app: Flask) -> list[Path]:
    return [path for path in files(app) if "incoming" in path.parts]


@contextmanager
def busy_at(app: Flask, words: str, state: str) -> Iterator[list[str]]:
    """The database is locked, once, at a statement that has these words and this state."""
    engine, met = app.extensions["rindle"].database._binds().writer, list[str]()

    def lock(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if not met and statement.startswith(words) and state in parameters:
            met.append(statement)
            raise OperationalError(statement, {}, Exception("database is locked"))

    event.listen(engine, "before_cursor_execute", lock)
    yield met
    event.remove(engine, "before_cursor_execute", lock)


class TestTheSameFormAgain:
    @pytest.mark.parametrize("with_checksum", [True, False])
    def test_receives_the_file_that_was_announced_and_never_came(
        self,
        announce: Callable[..., Any],
        submit: Callable[..., Any],
        rows: Callable[..., Any],
        photo: Callable[..., bytes],
        with_checksum: bool,
    ) -> None:
        """As when the script dies between the announcement and the bytes."""
        checksum = f"sha256:{hashlib.sha256(photo()).hexdigest()}" if with_checksum else None
        opened = announce(photo(), checksum=checksum)
        answer = submit(photo())
        assert (answer.status_code, answer.json["state"], answer.json["id"]) == (201, "completed", opened.json["id"])
        assert [asset.state for asset in rows(Asset)] == ["ready"]

    def test_after_a_database_that_was_busy_ends_ready(
        self, app: Flask, submit: Callable[..., Any], rows: Callable[..., Any], photo: Callable[..., bytes]
    ) -> None:
        with busy_at(app, "UPDATE rindle_upload_sessions", "verifying") as met:
            refused = submit(photo())
        assert (len(met), refused.status_code, refused.json["code"]) == (1, 503, "database_busy")
        assert (rows(Asset), files(app)) == ([], [])
        assert [session.ticket_place for session in rows(UploadSession)] == [None]
        assert submit(photo()).json["state"] == "completed"
        assert [asset.state for asset in rows(Asset)] == ["ready"]
        assert incoming(app) == []

    def test_after_a_worker_that_died_over_the_first_ends_ready(
        self,
        app: Flask,
        engine: Any,
        announce: Callable[..., Any],
        submit: Callable[..., Any],
        rows: Callable[..., Any],
        photo: Callable[..., bytes],
    ) -> None:
        """A process that is killed leaves its session `uploading`, and says so to nobody."""
        announce(photo())
        with engine.database.transaction() as db_session:
            db_session.query(UploadSession).update({"state": "uploading"})
        answer = submit(photo())
        assert (answer.status_code, answer.json["state"]) == (201, "completed")
        assert [asset.state for asset in rows(Asset)] == ["ready"]
        assert sorted((row.state, row.error_code) for row in rows(UploadSession)) == [
            ("completed", None),
            ("failed", "superseded"),
        ]
        assert incoming(app) == []

    def test_after_success_is_success_with_one_asset(
        self, submit: Callable[..., Any], rows: Callable[..., Any], photo: Callable[..., bytes]
    ) -> None:
        answers = [submit(photo()) for _ in range(3)]
        assert [(answer.status_code, answer.json["state"]) for answer in answers] == [(201, "completed")] * 3
        assert len({answer.json["asset"]["id"] for answer in answers}) == len(rows(Asset)) == 1


class TestAnUploadThatNeverComes:
    def test_is_expired_by_its_job(
        self,
        app: Flask,
        engine: Any,
        announce: Callable[..., Any],
        put: Callable[..., Any],
        complete: Callable[..., Any],
        rows: Callable[..., Any],
        photo: Callable[..., bytes],
        clock: FrozenClock,
    ) -> None:
        opened = announce(photo())
        assert put(opened, photo()).status_code == 200
        assert [(job.kind, job.state) for job in rows(Job)] == [("expire", "queued")]
        clock.tick(hours=23)
        assert engine.jobs.drain() == 0
        assert announce(photo(10, 10)).json["code"] == "ticket_used"
        clock.tick(hours=1)
        assert engine.jobs.drain() == 1
        assert (rows(Asset), files(app)) == ([], [])
        assert [(row.state, row.ticket_place) for row in rows(UploadSession)] == [("expired", None)]
        assert complete(opened).json["state"] == "expired"
        assert announce(photo(10, 10)).status_code == 201

    def test_leaves_no_job_when_it_comes(
        self,
        engine: Any,
        announce: Callable[..., Any],
        put: Callable[..., Any],
        complete: Callable[..., Any],
        rows: Callable[..., Any],
        photo: Callable[..., bytes],
        clock: FrozenClock,
    ) -> None:
        opened = announce(photo())
        put(opened, photo())
        assert complete(opened).status_code == 200
        assert {job.kind for job in rows(Job)} == {"promote", "variants"}
        clock.tick(days=2)
        assert engine.jobs.drain() == 0
        assert [asset.state for asset in rows(Asset)] == ["ready"]

    def test_leaves_no_job_when_it_is_cancelled(
        self, client: FlaskClient, ticket: str, announce: Callable[..., Any], rows: Any, photo: Callable[..., bytes]
    ) -> None:
        opened = announce(photo())
        client.delete(f"/rindle/uploads/{opened.json['id']}", headers={"Rindle-Ticket": ticket})
        assert [(job.kind, job.state) for job in rows(Job)] == [("purge", "succeeded")]

    def test_fails_at_once_when_its_source_is_out_of_order(
        self, app: Flask, rows: Callable[..., Any], photo: Callable[..., bytes]
    ) -> None:
        class Odd(io.BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                if self.tell() > 0:
                    raise RuntimeError("the remote went away")
                return super().read(100)

        with app.app_context(), pytest.raises(RuntimeError, match="went away"):
            app.extensions["host"].rindle.upload("avatar", Odd(photo()), filename="a.jpg")
        assert (rows(Asset), files(app)) == ([], [])
        assert [(row.state, row.ticket_place) for row in rows(UploadSession)] == [("failed", None)]


class TestASlowPut:
    """Its last byte comes when the upload is over."""

    @pytest.fixture
    def put_slowly(self, client: FlaskClient) -> Callable[..., Any]:
        def send(opened: Any, data: bytes, meanwhile: Callable[[], Any]) -> Any:
            class Slow(io.BytesIO):
                def readinto(self, buffer: Any) -> int:
                    count = super().readinto(buffer)
                    if self.tell() == len(data) and not done:
                        done.append(meanwhile())
                    return count

            done: list[Any] = []
            upload = opened.json["upload"]
            answer = client.put(
                upload["url"], input_stream=Slow(data), content_length=len(data), headers=upload["headers"]
            )
            assert len(done) == 1
            return answer

        return send

    def test_that_ends_after_completion_changes_nothing(
        self,
        app: Flask,
        announce: Callable[..., Any],
        put: Callable[..., Any],
        complete: Callable[..., Any],
        put_slowly: Callable[..., Any],
        rows: Callable[..., Any],
        photo: Callable[..., bytes],
    ) -> None:
        good = photo()
        other = good[:-2] + b"\0\0"
        opened = announce(good)
        put(opened, good)
        late = put_slowly(opened, other, lambda: complete(opened))
        assert (late.status_code, late.json["code"]) == (409, "session_closed")
        (asset,) = rows(Asset)
        assert asset.state == "ready"
        storage = app.extensions["rindle"].storages["default"]
        assert b"".join(storage.read(asset.storage_key)) == good
        assert incoming(app) == []

    def test_that_ends_after_cancellation_leaves_nothing(
        self,
        app: Flask,
        client: FlaskClient,
        ticket: str,
        announce: Callable[..., Any],
        put_slowly: Callable[..., Any],
        photo: Callable[..., bytes],
    ) -> None:
        opened = announce(photo())
        url = f"/rindle/uploads/{opened.json['id']}"
        late = put_slowly(opened, photo(), lambda: client.delete(url, headers={"Rindle-Ticket": ticket}))
        assert (late.status_code, late.json["code"]) == (409, "session_closed")
        assert files(app) == []
