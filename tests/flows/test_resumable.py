"""Uploads that a storage can resume, from the ticket to the asset; the URI is a secret."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from flask_rindle import MB, Profile
from flask_rindle.engine import Engine
from flask_rindle.errors import (
    MalformedRequest,
    SessionClosed,
    StorageUnavailable,
    TooLarge,
    UploadIncomplete,
    UploadUnsupported,
)
from flask_rindle.models import UploadSession
from flask_rindle.testing.clock import FrozenClock
from flask_rindle.testing.storages import ResumableMemory

DATA = b"bytes that come in several requests.\n" * 1000


class Film(Profile):
    max_bytes = 100 * MB


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    backend = "flask_rindle.testing.storages:ResumableMemory"
    return make_app(profiles=[Film], storages={"default": {"backend": backend}})


@pytest.fixture
def storage(engine: Engine) -> ResumableMemory:
    found: Any = engine.storages["default"]
    return found


@pytest.fixture
def begun(app: Flask) -> Callable[..., Any]:
    """`begun()`: a resumable upload of DATA, of which nothing has come."""

    def begin(**fields: Any) -> Any:
        fields = {"filename": "film.txt", "content_type": "text/plain", "byte_size": len(DATA)} | fields
        with app.app_context():
            return app.extensions["host"].rindle.initiate_resumable_session(Film, **fields)

    return begin


@pytest.fixture
def status(app: Flask) -> Callable[[Any], Any]:
    def ask(upload: Any) -> Any:
        with app.app_context():
            return app.extensions["host"].rindle.resumable_session_status(upload.session)

    return ask


class TestTheWay:
    def test_bytes_in_several_requests_become_the_file(
        self, app: Flask, engine: Engine, storage: ResumableMemory, begun: Callable[..., Any], status: Any
    ) -> None:
        upload = begun(origin="https://page.test")
        assert storage.uploads[upload.session_uri].origin == "https://page.test"
        assert (status(upload).committed_bytes, status(upload).state) == (0, "in_progress")
        storage.send(upload.session_uri, DATA[:100])
        assert status(upload).committed_bytes == 100
        storage.send(upload.session_uri, DATA[100:], last=True)
        found = status(upload)
        assert (found.committed_bytes, found.state) == (len(DATA), "complete")
        assert found.session.state == "completed", "one that is all there is completed by asking"
        assert engine.feed.asset(found.session.asset_id).state == "ready"
        assert status(upload).state == "complete"

    def test_the_object_stays_where_it_is(
        self, app: Flask, engine: Engine, storage: ResumableMemory, begun: Callable[..., Any]
    ) -> None:
        upload = begun()
        storage.send(upload.session_uri, DATA, last=True)
        with app.app_context():
            done = app.extensions["host"].rindle.verify_completion(upload.session)
        assert engine.feed.asset(done.asset.id).storage_key == done.session.upload_key
        assert done.session.session_uri is None, "nobody needs the secret any more"

    def test_a_size_that_nobody_knows_is_found_out(
        self, engine: Engine, storage: ResumableMemory, begun: Callable[..., Any], status: Any
    ) -> None:
        upload = begun(byte_size=None)
        storage.send(upload.session_uri, DATA, last=True)
        assert status(upload).session.received_bytes == len(DATA)

    def test_completing_too_early_changes_nothing(
        self, app: Flask, storage: ResumableMemory, begun: Callable[..., Any], status: Any
    ) -> None:
        upload = begun()
        storage.send(upload.session_uri, DATA[:100])
        with app.app_context(), pytest.raises(UploadIncomplete):
            app.extensions["host"].rindle.verify_completion(upload.session)
        assert status(upload).committed_bytes == 100


class TestTheSecret:
    def test_the_row_cannot_be_read_and_no_repr_shows_it(
        self, engine: Engine, begun: Callable[..., Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.DEBUG):
            upload = begun()
        with engine.database.reading() as db_session:
            stored = db_session.scalar(text("SELECT session_uri FROM rindle_upload_sessions"))
            row = db_session.get_one(UploadSession, upload.session.id)
            events = db_session.execute(text("SELECT * FROM rindle_events")).all()
        assert stored
        for shown in (stored, repr(upload), str(upload), repr(row), repr(vars(row)), repr(events), caplog.text):
            assert upload.session_uri not in shown
            assert upload.upload_id not in shown

    def test_a_key_that_is_gone_makes_it_a_500_that_says_nothing(
        self, app: Flask, engine: Engine, begun: Callable[..., Any]
    ) -> None:
        upload = begun()
        with engine.database.transaction() as db_session:
            db_session.get_one(UploadSession, upload.session.id).session_uri = "altered"
        with app.app_context():
            headers = {"Rindle-Ticket": app.extensions["host"].rindle.upload_ticket(Film)}
        answer = app.test_client().get(f"/rindle/uploads/{upload.session.id}", headers=headers)
        assert answer.status_code in (403, 404, 500)
        assert "altered" not in answer.text


class TestTheEnd:
    def test_a_cancel_reaches_the_storage(
        self, app: Flask, storage: ResumableMemory, begun: Callable[..., Any]
    ) -> None:
        upload = begun()
        with app.app_context():
            app.extensions["host"].rindle.cancel_resumable_session(upload.session)
        assert storage.uploads == {}

    def test_what_the_storage_forgot_has_expired(
        self, engine: Engine, storage: ResumableMemory, begun: Callable[..., Any], status: Any
    ) -> None:
        upload = begun()
        storage.uploads.clear()
        assert status(upload).state == status(upload).state == "expired"
        session, _ = engine.uploads.find(upload.session.id)
        assert (session.state, session.error_code) == ("failed", "upload_gone")

    def test_bytes_that_come_give_time_and_silence_ends_it(
        self, engine: Engine, storage: ResumableMemory, begun: Callable[..., Any], clock: FrozenClock
    ) -> None:
        jobs: Any = engine.jobs
        upload = begun()
        storage.send(upload.session_uri, DATA[:10])
        clock.tick(hours=25)
        jobs.drain()
        session, _ = engine.uploads.find(upload.session.id)
        assert (session.state, session.received_bytes) == ("signed", 10)
        assert session.expires_at == clock() + timedelta(hours=24)
        clock.tick(hours=25)
        jobs.drain()
        assert engine.uploads.find(upload.session.id)[0].state == "expired"
        assert storage.uploads == {}

    def test_it_never_outlives_the_storages_own_end(
        self, engine: Engine, storage: ResumableMemory, begun: Callable[..., Any], clock: FrozenClock, status: Any
    ) -> None:
        upload = begun()
        ends = clock() + timedelta(hours=30)
        with engine.database.transaction() as db_session:
            db_session.get_one(UploadSession, upload.session.id).session_uri_expires_at = ends
        clock.tick(hours=20)
        storage.send(upload.session_uri, DATA[:10])
        status(upload)
        assert engine.uploads.find(upload.session.id)[0].expires_at == ends

    def test_a_storage_that_is_away_expires_nothing(
        self,
        engine: Engine,
        storage: ResumableMemory,
        begun: Callable[..., Any],
        clock: FrozenClock,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def away(key: str, uri: str) -> Any:
            raise StorageUnavailable("default", key)

        jobs: Any = engine.jobs
        upload = begun()
        monkeypatch.setattr(storage, "resumable_progress", away)
        clock.tick(hours=25)
        jobs.drain()
        session, _ = engine.uploads.find(upload.session.id)
        assert session.state == "signed", "the job is tried again"

    def test_an_upload_that_is_whole_is_so_although_the_storage_forgot_how_it_came(
        self, storage: ResumableMemory, begun: Callable[..., Any], status: Any
    ) -> None:
        upload = begun()
        storage.send(upload.session_uri, DATA, last=True)
        storage._complete.clear()
        assert status(upload).state == "complete"

    def test_more_than_the_profile_takes_ends_it(
        self, engine: Engine, storage: ResumableMemory, begun: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nobody knew the size."""
        monkeypatch.setattr(Film, "max_bytes", 100)
        upload = begun(byte_size=None)
        storage.send(upload.session_uri, DATA)
        with pytest.raises(TooLarge):
            engine.uploads.look(upload.session.id)
        assert engine.uploads.find(upload.session.id)[0].error_code == "too_large"
        assert storage.uploads == {}

    @pytest.mark.parametrize("end", ["expiry", "cancel"])
    def test_a_key_that_is_gone_keeps_no_row_and_no_bytes(
        self,
        app: Flask,
        engine: Engine,
        storage: ResumableMemory,
        begun: Callable[..., Any],
        clock: FrozenClock,
        end: str,
    ) -> None:
        jobs: Any = engine.jobs
        upload = begun()
        storage.send(upload.session_uri, DATA, last=True)
        with engine.database.transaction() as db_session:
            db_session.get_one(UploadSession, upload.session.id).session_uri = "altered"
        if end == "cancel":
            engine.uploads.cancel(upload.session.id)
        else:
            clock.tick(hours=25)
        jobs.drain()
        assert storage._objects == {}
        assert engine.uploads.find(upload.session.id)[1] is None


@pytest.mark.parametrize(
    "origin", ["example.org", "https://a/b", "null", "", "https://a\r\nX: 1", 7, True, ["https://a"]]
)
def test_what_is_no_origin_is_refused(begun: Callable[..., Any], engine: Engine, origin: Any) -> None:
    with pytest.raises(MalformedRequest, match="origin"):
        begun(origin=origin)
    with engine.database.reading() as db_session:
        assert db_session.query(UploadSession).count() == 0


class TestTwoAtOnce:
    def test_two_requests_begin_one_upload(
        self, engine: Engine, storage: ResumableMemory, begun: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, upload = storage.start_resumable, begun()
        with engine.database.transaction() as db_session:
            row = db_session.get_one(UploadSession, upload.session.id)
            row.session_uri, row.state = None, "initialized"
        storage.uploads.clear()

        def slow(key: str, terms: Any, *, origin: str | None = None) -> Any:
            monkeypatch.setattr(storage, "start_resumable", real)
            engine.uploads.begin(upload.session.id)
            return real(key, terms, origin=origin)

        monkeypatch.setattr(storage, "start_resumable", slow)
        session = engine.uploads.begin(upload.session.id)
        assert list(storage.uploads) == [engine.uploads.resumable.uri(session)]

    def test_a_session_that_is_cancelled_meanwhile_leaves_nothing(
        self, engine: Engine, storage: ResumableMemory, begun: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, upload = storage.start_resumable, begun()
        with engine.database.transaction() as db_session:
            row = db_session.get_one(UploadSession, upload.session.id)
            row.session_uri, row.state = None, "initialized"
        storage.uploads.clear()

        def slow(key: str, terms: Any, *, origin: str | None = None) -> Any:
            engine.uploads.cancel(upload.session.id)
            return real(key, terms, origin=origin)

        monkeypatch.setattr(storage, "start_resumable", slow)
        with pytest.raises(SessionClosed):
            engine.uploads.begin(upload.session.id)
        assert storage.uploads == {}


def test_a_storage_that_cannot_says_so(make_app: Callable[..., Flask]) -> None:
    app = make_app(profiles=[Film])
    with app.app_context():
        rindle = app.extensions["host"].rindle
        with pytest.raises(UploadUnsupported) as caught:
            rindle.initiate_resumable_session(Film, byte_size=10)
        assert caught.value.capability == "resumable_upload"
        session = rindle.initiate_upload(Film, byte_size=10)
        with pytest.raises(UploadUnsupported):
            rindle.resumable_session_status(session)


def test_a_browser_is_told_where_and_in_what_steps(
    app: Flask, storage: ResumableMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flask_rindle.uploads.strategies.LARGE_BYTES", 100)
    with app.app_context():
        headers = {"Rindle-Ticket": app.extensions["host"].rindle.upload_ticket(Film), "Origin": "https://page.test"}
    body = {"filename": "film.txt", "content_type": "text/plain", "byte_size": len(DATA)}
    client = app.test_client()
    opened = client.post("/rindle/uploads", json=body, headers=headers).json
    (uri,) = storage.uploads
    assert opened["strategy"] == "resumable"
    assert opened["upload"] == {"url": uri, "chunk_bytes": 256 * 1024}
    assert storage.uploads[uri].origin == "https://page.test"
    storage.send(uri, DATA[:77])
    truth = client.get(f"/rindle/uploads/{opened['id']}", headers=headers).json
    assert (truth["received_bytes"], truth["upload"]) == (77, opened["upload"])
    storage.send(uri, DATA[77:], last=True)
    done = client.post(f"/rindle/uploads/{opened['id']}/complete", headers=headers).json
    assert (done["state"], done["received_bytes"]) == ("completed", len(DATA))
