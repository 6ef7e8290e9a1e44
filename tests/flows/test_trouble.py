"""Trouble around an upload: nothing half-made stays, and its sender reads a sentence that helps."""

from __future__ import annotations

import errno
import io
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_rindle.errors import OpenTransaction, StorageUnavailable
from flask_rindle.models import Asset, Job, UploadSession
from flask_rindle.testing.faults import faulty


@pytest.fixture
def submit(app: Flask) -> Callable[[bytes], Any]:
    def post(data: bytes) -> Any:
        with app.app_context():
            ticket = app.extensions["host"].rindle.upload_ticket("avatar")
        fields = {"ticket": ticket, "file": (io.BytesIO(data), "a.jpg", "image/jpeg")}
        return app.test_client().post("/rindle/uploads/form", data=fields, headers={"Accept": "application/json"})

    return post


def files(app: Flask) -> list[Path]:
    return [path for path in app.extensions["rindle"].storages["default"].root.rglob("*") if path.is_file()]


def test_a_full_disk(
    app: Flask,
    submit: Callable[..., Any],
    rows: Callable[..., Any],
    photo: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", no_room)
        answer = submit(photo())
    assert (answer.status_code, answer.json["code"]) == (507, "storage_full")
    assert answer.headers["Retry-After"] == "5"
    assert "no room" in answer.json["detail"]
    assert (rows(Asset), files(app)) == ([], [])
    assert [row.state for row in rows(UploadSession)] == ["failed"]
    assert submit(photo()).status_code == 201


def test_a_locked_database(make_app: Callable[..., Flask], photo: Callable[..., bytes], tmp_path: Path) -> None:
    app = make_app(SQLALCHEMY_ENGINE_OPTIONS={"connect_args": {"timeout": 0.05}})
    client = app.test_client()
    with app.app_context():
        ticket = app.extensions["host"].rindle.upload_ticket("avatar")
    blocker = sqlite3.connect(tmp_path / "app.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    body = {"filename": "a.jpg", "content_type": "image/jpeg", "byte_size": 10}
    answer = client.post("/rindle/uploads", json=body, headers={"Rindle-Ticket": ticket})
    blocker.execute("ROLLBACK")
    blocker.close()
    assert (answer.status_code, answer.json["code"], answer.headers["Retry-After"]) == (503, "database_busy", "5")
    assert client.post("/rindle/uploads", json=body, headers={"Rindle-Ticket": ticket}).status_code == 201


def test_the_callers_own_open_transaction_is_named_at_once(app: Flask, photo: Callable[..., bytes]) -> None:
    host = app.extensions["host"]
    with app.app_context():
        host.db.session.add(host.User(name="not committed"))
        host.db.session.flush()
        with pytest.raises(OpenTransaction, match="commit"):
            host.rindle.upload("avatar", io.BytesIO(photo()), filename="a.jpg")
        host.db.session.commit()
        assert host.rindle.upload("avatar", io.BytesIO(photo()), filename="a.jpg").id


def test_a_storage_that_does_not_answer(
    app: Flask, submit: Callable[..., Any], rows: Callable[..., Any], photo: Callable[..., bytes]
) -> None:
    faulty(app.extensions["rindle"].storages["default"], {"put": [StorageUnavailable("default", "secret/key")]})
    answer = submit(photo())
    assert (answer.status_code, answer.json["code"]) == (503, "storage_unavailable")
    assert "secret" not in answer.text
    assert (rows(Asset), [row.state for row in rows(UploadSession)]) == ([], ["failed"])


def test_a_signature_that_fails_opens_nothing(app: Flask, rows: Callable[..., Any]) -> None:
    faulty(app.extensions["rindle"].storages["default"], {"presign_put": [StorageUnavailable("default", "k")]})
    with app.app_context():
        ticket = app.extensions["host"].rindle.upload_ticket("avatar")
    body = {"filename": "a.jpg", "content_type": "image/jpeg", "byte_size": 10}
    post = lambda: app.test_client().post("/rindle/uploads", json=body, headers={"Rindle-Ticket": ticket})  # noqa: E731
    assert post().status_code == 503
    assert [(row.state, row.error_code) for row in rows(UploadSession)] == [("failed", "storage_unavailable")]
    assert post().status_code == 201


def test_a_line_that_breaks_in_the_middle_keeps_nothing(
    app: Flask, rows: Callable[..., Any], photo: Callable[..., bytes]
) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 0:
                raise ConnectionResetError
            return super().read(100)

    with app.app_context(), pytest.raises(ConnectionResetError):
        app.extensions["host"].rindle.upload("avatar", Broken(photo()), filename="a.jpg")
    assert (rows(Asset), files(app)) == ([], [])
    assert [(row.state, row.error_code) for row in rows(UploadSession)] == [("failed", "connection_lost")]


def test_an_upload_that_is_cancelled_while_it_comes_in_keeps_nothing(
    app: Flask, engine: Any, rows: Callable[..., Any], photo: Callable[..., bytes]
) -> None:
    class Cancelling(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            session = next(iter(rows(UploadSession)))
            if session.state == "uploading":
                engine.uploads.cancel(session.id)
            return super().read(size)

    with app.app_context(), pytest.raises(Exception, match="aborted"):
        app.extensions["host"].rindle.upload("avatar", Cancelling(photo()), filename="a.jpg")
    assert (rows(Asset), files(app)) == ([], [])
    assert {job.state for job in rows(Job)} == {"succeeded"}
