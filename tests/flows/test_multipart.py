"""Uploads in parts, from the ticket to the asset, on a storage that has its own mind."""

from __future__ import annotations

import hashlib
import io
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from flask_rindle import MB, Profile
from flask_rindle.engine import Engine
from flask_rindle.errors import (
    MalformedRequest,
    RindleError,
    SessionClosed,
    StorageUnavailable,
    TooLarge,
    UploadIncomplete,
    UploadUnsupported,
)
from flask_rindle.models import Asset, Job, UploadSession
from flask_rindle.outbox import JobKind
from flask_rindle.storage.base import Part, PartLimits
from flask_rindle.testing.clock import FrozenClock
from flask_rindle.testing.storages import MemoryOfParts

SMALL = PartLimits(smallest_bytes=1)


class Film(Profile):
    max_bytes = 100 * MB


class Poster(Profile):
    allow_mime = {"image/jpeg", "image/png"}  # noqa: RUF012
    max_bytes = 100 * MB


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    backend = "flask_rindle.testing.storages:MemoryOfParts"
    storages = {"default": {"backend": backend}}
    return make_app(profiles=[Film, Poster], storages=storages, actor=lambda: "ann")


@pytest.fixture
def storage(engine: Engine) -> MemoryOfParts:
    found: Any = engine.storages["default"]
    return found


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    """Uploads are cut into parts of 1 MB here, however small they are."""
    monkeypatch.setattr("flask_rindle.uploads.multipart.PART_BYTES", MB)
    monkeypatch.setattr(MemoryOfParts, "part_limits", SMALL)
    return MB


@pytest.fixture
def begun(app: Flask, small_parts: int) -> Callable[..., Any]:
    """`begun(data)`: an upload in parts of 1 MB, of which nothing has come."""

    def begin(data: bytes, profile: Any = Film, **fields: Any) -> Any:
        fields = {"filename": "film.txt", "content_type": "text/plain"} | fields
        with app.app_context():
            return app.extensions["host"].rindle.initiate_multipart_upload(profile, byte_size=len(data), **fields)

    return begin


def send(storage: MemoryOfParts, upload: Any, data: bytes, *numbers: int) -> list[Part]:
    def cut(number: int) -> io.BytesIO:
        return io.BytesIO(data[(number - 1) * upload.part_size :][: upload.part_size])

    key, upload_id, size = upload.upload_key, upload.upload_id, upload.part_size
    return [storage.put_part(key, upload_id, number, cut(number), size_bytes=size) for number in numbers]


DATA = b"two and a half.\n" * (5 * MB // 32)


class TestTheWay:
    def test_parts_in_any_order_become_the_file(
        self, app: Flask, engine: Engine, storage: MemoryOfParts, begun: Callable[..., Any]
    ) -> None:
        checksum = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
        upload = begun(DATA, checksum=checksum)
        assert (upload.part_size, upload.part_count) == (MB, 3)
        send(storage, upload, DATA, 3, 1, 2)
        with app.app_context():
            done = app.extensions["host"].rindle.complete_multipart_upload(upload.session)
        asset = engine.feed.asset(done.asset.id)
        assert asset.state == "ready"
        assert b"".join(storage.read(str(asset.storage_key))) == DATA
        assert storage.uploads == {}

    def test_what_the_client_names_is_compared(
        self, app: Flask, storage: MemoryOfParts, begun: Callable[..., Any]
    ) -> None:
        upload = begun(DATA)
        parts = send(storage, upload, DATA, 1, 2, 3)
        named = [{"number": part.number, "etag": f'"{part.etag}"'} for part in parts]
        with app.app_context():
            rindle = app.extensions["host"].rindle
            for wrong in (
                named[:2],
                [*named[:2], {"number": 3, "etag": "other"}],
                [*named, {"number": 4, "etag": "x"}],
            ):
                with pytest.raises(MalformedRequest):
                    rindle.complete_multipart_upload(upload.session, wrong)
            assert rindle.complete_multipart_upload(upload.session, reversed(named)).session.state == "completed"
            # Asked again, whatever it says: the answer was lost.
            assert rindle.complete_multipart_upload(upload.session, named).session.state == "completed"

    def test_what_is_missing_is_named_and_can_still_come(
        self, app: Flask, storage: MemoryOfParts, begun: Callable[..., Any]
    ) -> None:
        upload = begun(DATA)
        send(storage, upload, DATA, 2)
        storage.put_part(upload.upload_key, upload.upload_id, 3, io.BytesIO(b"short"), size_bytes=5)
        with app.app_context():
            rindle = app.extensions["host"].rindle
            with pytest.raises(UploadIncomplete) as caught:
                rindle.complete_multipart_upload(upload.session)
            assert caught.value.missing == (1, 3)
            assert caught.value.facts == {"missing": [1, 3]}
            send(storage, upload, DATA, 1, 3)
            assert rindle.verify_completion(upload.session).session.state == "completed"

    def test_a_part_beyond_the_last_does_not_get_in(
        self, app: Flask, storage: MemoryOfParts, begun: Callable[..., Any], engine: Engine
    ) -> None:
        """The layout is cut from the declared size, and what is stored must be of that size."""
        upload = begun(DATA)
        send(storage, upload, DATA, 1, 2, 3)
        storage.put_part(upload.upload_key, upload.upload_id, 4, io.BytesIO(b"more"), size_bytes=4)
        with app.app_context():
            done = app.extensions["host"].rindle.complete_multipart_upload(upload.session)
        asset = engine.feed.asset(done.asset.id)
        assert b"".join(storage.read(str(asset.storage_key))) == DATA

    def test_a_completion_whose_answer_was_lost_is_made_good(
        self, app: Flask, storage: MemoryOfParts, begun: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        upload = begun(DATA)
        send(storage, upload, DATA, 1, 2, 3)
        real = storage.complete_parts

        def losing(key: str, upload_id: str, parts: Any) -> Any:
            real(key, upload_id, parts)
            raise StorageUnavailable("default", key)

        monkeypatch.setattr(storage, "complete_parts", losing)
        with app.app_context():
            rindle = app.extensions["host"].rindle
            with pytest.raises(StorageUnavailable):
                rindle.complete_multipart_upload(upload.session)
            assert rindle.complete_multipart_upload(upload.session).session.state == "completed"


class TestWhatIsRefused:
    def test_a_storage_that_takes_no_parts(self, make_app: Callable[..., Flask]) -> None:
        app = make_app(profiles=[Film])
        with app.app_context():
            rindle = app.extensions["host"].rindle
            with pytest.raises(UploadUnsupported) as caught:
                rindle.initiate_multipart_upload(Film, byte_size=10)
            assert caught.value.capability == "multipart_upload"
            session = rindle.initiate_upload(Film, byte_size=10)
            with pytest.raises(UploadUnsupported):
                rindle.sign_multipart_part(session, 1)
        with app.extensions["rindle"].database.reading() as db_session:
            assert db_session.query(UploadSession).count() == 1

    def test_a_size_that_nobody_knows(self, app: Flask) -> None:
        with app.app_context(), pytest.raises(MalformedRequest, match="byte_size"):
            app.extensions["host"].rindle.initiate_multipart_upload(Film)

    def test_more_than_the_profile_takes(self, app: Flask, engine: Engine) -> None:
        with app.app_context(), pytest.raises(TooLarge):
            app.extensions["host"].rindle.initiate_multipart_upload(Film, byte_size=101 * MB)
        with engine.database.reading() as db_session:
            assert db_session.query(Asset).count() == 0

    @pytest.mark.parametrize("number", [0, -1, 4, True, "1", 1.0, None])
    def test_parts_that_do_not_exist(self, app: Flask, begun: Callable[..., Any], number: Any) -> None:
        upload = begun(DATA)
        with app.app_context(), pytest.raises(MalformedRequest, match="numbers"):
            app.extensions["host"].rindle.sign_multipart_part(upload.session, number)

    def test_a_put_of_the_whole(self, app: Flask, begun: Callable[..., Any]) -> None:
        upload = begun(DATA)
        with app.app_context(), pytest.raises(UploadUnsupported):
            app.extensions["host"].rindle.sign_upload(upload.session)

    def test_a_session_that_is_over(self, app: Flask, begun: Callable[..., Any]) -> None:
        upload = begun(DATA)
        with app.app_context():
            rindle = app.extensions["host"].rindle
            rindle.cancel_upload(upload.session)
            with pytest.raises(SessionClosed):
                rindle.sign_multipart_part(upload.session, 1)
            with pytest.raises(SessionClosed):
                rindle.complete_multipart_upload(upload.session)


class TestTroubleAtTheBeginning:
    def test_a_storage_that_does_not_answer_fails_the_session_and_says_so(
        self, app: Flask, engine: Engine, storage: MemoryOfParts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def away(key: str, terms: Any) -> str:
            raise StorageUnavailable("default", key)

        monkeypatch.setattr(storage, "start_parts", away)
        with app.app_context(), pytest.raises(StorageUnavailable):
            app.extensions["host"].rindle.initiate_multipart_upload(Film, byte_size=10)
        with engine.database.reading() as db_session:
            (session,) = db_session.query(UploadSession)
            assert (session.state, session.error_code) == ("failed", "storage_unavailable")
            assert db_session.query(Asset).count() == 0, "the purge has been"

    def test_an_answer_that_was_lost_leaves_nothing_at_the_storage(
        self, app: Flask, storage: MemoryOfParts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The storage knows an upload whose id we never learned."""
        real = storage.start_parts

        def losing(key: str, terms: Any) -> str:
            real(key, terms)
            raise StorageUnavailable("default", key)

        monkeypatch.setattr(storage, "start_parts", losing)
        with app.app_context(), pytest.raises(StorageUnavailable):
            app.extensions["host"].rindle.initiate_multipart_upload(Film, byte_size=10)
        assert storage.uploads == {}

    def test_two_requests_begin_one_upload(
        self, engine: Engine, storage: MemoryOfParts, begun: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The second comes while the first waits for the storage."""
        real = storage.start_parts
        upload = begun(DATA)
        with engine.database.transaction() as db_session:
            db_session.get_one(UploadSession, upload.session.id).multipart_upload_id = None
        storage.uploads.clear()

        def slow(key: str, terms: Any) -> str:
            monkeypatch.setattr(storage, "start_parts", real)
            engine.uploads.begin(upload.session.id)
            return real(key, terms)

        monkeypatch.setattr(storage, "start_parts", slow)
        session = engine.uploads.begin(upload.session.id)
        assert list(storage.uploads) == [session.multipart_upload_id]

    def test_a_session_that_is_cancelled_meanwhile_leaves_nothing(
        self, engine: Engine, storage: MemoryOfParts, begun: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = storage.start_parts
        upload = begun(DATA)
        with engine.database.transaction() as db_session:
            db_session.get_one(UploadSession, upload.session.id).multipart_upload_id = None
        storage.uploads.clear()

        def slow(key: str, terms: Any) -> str:
            upload_id = real(key, terms)
            engine.uploads.cancel(upload.session.id)
            return upload_id

        monkeypatch.setattr(storage, "start_parts", slow)
        with pytest.raises(SessionClosed):
            engine.uploads.begin(upload.session.id)
        assert storage.uploads == {}


class TestTheEndWithoutSuccess:
    def test_a_cancel_removes_the_parts(self, app: Flask, storage: MemoryOfParts, begun: Callable[..., Any]) -> None:
        upload = begun(DATA)
        send(storage, upload, DATA, 1, 2)
        with app.app_context():
            app.extensions["host"].rindle.cancel_upload(upload.session)
        assert storage.uploads == {}

    def test_bytes_that_come_give_time_and_silence_ends_it(
        self, app: Flask, engine: Engine, storage: MemoryOfParts, begun: Callable[..., Any], clock: FrozenClock
    ) -> None:
        jobs: Any = engine.jobs
        upload = begun(DATA)
        opened = clock()
        clock.tick(hours=23)
        send(storage, upload, DATA, 1)
        clock.tick(hours=2)
        jobs.drain()
        session, _ = engine.uploads.find(upload.session.id)
        assert (session.state, session.received_bytes) == ("initialized", MB)
        assert session.expires_at == opened + timedelta(hours=25 + 24)
        clock.tick(hours=25)
        jobs.drain()
        session, _ = engine.uploads.find(upload.session.id)
        assert session.state == "expired"
        assert storage.uploads == {}

    def test_signing_gives_time(
        self, app: Flask, engine: Engine, begun: Callable[..., Any], clock: FrozenClock
    ) -> None:
        jobs: Any = engine.jobs
        upload = begun(DATA)
        clock.tick(hours=23)
        with app.app_context():
            app.extensions["host"].rindle.sign_multipart_part(upload.session, 1)
        clock.tick(hours=2)
        jobs.drain()
        session, _ = engine.uploads.find(upload.session.id)
        assert session.state == "signed"
        assert session.expires_at == clock() + timedelta(hours=22)
        with engine.database.reading() as db_session:
            (job,) = db_session.query(Job).filter_by(kind=JobKind.EXPIRE, state="queued")
        assert job.run_at == session.expires_at

    def test_an_upload_that_the_storage_forgot_fails_and_says_so(
        self, engine: Engine, storage: MemoryOfParts, begun: Callable[..., Any]
    ) -> None:
        upload = begun(DATA)
        storage.uploads.clear()
        with pytest.raises(SessionClosed):
            engine.uploads.look(upload.session.id)
        session, _ = engine.uploads.find(upload.session.id)
        assert (session.state, session.error_code) == ("failed", "upload_gone")


class TestPromotion:
    def test_sealed_bytes_stay_where_they_are(
        self, app: Flask, engine: Engine, storage: MemoryOfParts, begun: Callable[..., Any], photo: Callable[..., bytes]
    ) -> None:
        data = photo()
        upload = begun(data, Poster, filename="a.jpg", content_type="image/jpeg")
        send(storage, upload, data, 1)
        with app.app_context():
            done = app.extensions["host"].rindle.complete_multipart_upload(upload.session)
        asset = engine.feed.asset(done.asset.id)
        assert (asset.state, asset.storage_key) == ("ready", upload.upload_key)
        assert not upload.upload_key.startswith("incoming/")

    def test_bytes_of_another_type_than_declared_get_a_key_of_their_own(
        self, app: Flask, engine: Engine, storage: MemoryOfParts, begun: Callable[..., Any], photo: Callable[..., bytes]
    ) -> None:
        """The object would be served as what its sender called it."""
        data = photo()
        upload = begun(data, Poster, filename="a.jpg", content_type=None)
        send(storage, upload, data, 1)
        with app.app_context():
            done = app.extensions["host"].rindle.complete_multipart_upload(upload.session)
        asset = engine.feed.asset(done.asset.id)
        assert (asset.state, asset.content_type) == ("ready", "image/jpeg")
        assert asset.storage_key != upload.upload_key
        assert storage.stat(str(asset.storage_key)).content_type == "image/jpeg"
        assert list(storage._objects) == [asset.storage_key]

    def test_an_object_that_was_overwritten_all_the_same_is_refused(
        self, app: Flask, engine: Engine, storage: MemoryOfParts, begun: Callable[..., Any], photo: Callable[..., bytes]
    ) -> None:
        jobs: Any = engine.jobs
        engine.outbox.send = lambda _: None
        data = photo()
        upload = begun(data, Poster, filename="a.jpg", content_type="image/jpeg")
        send(storage, upload, data, 1)
        with app.app_context():
            done = app.extensions["host"].rindle.complete_multipart_upload(upload.session)
        storage.put(upload.upload_key, io.BytesIO(photo(80, 80)), content_type="image/jpeg")
        jobs.drain()
        asset = engine.feed.asset(done.asset.id)
        assert (asset.state, asset.error_code) == ("quarantined", "content_changed")
        assert storage._objects == {}

    def test_removing_the_asset_removes_the_object(
        self, app: Flask, engine: Engine, storage: MemoryOfParts, begun: Callable[..., Any], photo: Callable[..., bytes]
    ) -> None:
        data = photo()
        upload = begun(data, Poster, filename="a.jpg", content_type="image/jpeg")
        send(storage, upload, data, 1)
        with app.app_context():
            done = app.extensions["host"].rindle.complete_multipart_upload(upload.session)
        with engine.database.transaction() as db_session:
            engine.attachments.remove(db_session, db_session.get_one(Asset, done.asset.id))
        assert storage._objects == {}


class TestOthersAtTheSameTime:
    """What happens between two steps of ours."""

    def test_a_begin_that_comes_after_the_purge_leaves_nothing(
        self, engine: Engine, storage: MemoryOfParts, begun: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, upload = storage.start_parts, begun(DATA)
        with engine.database.transaction() as db_session:
            db_session.get_one(UploadSession, upload.session.id).multipart_upload_id = None

        def slow(key: str, terms: Any) -> str:
            engine.uploads.cancel(upload.session.id)
            assert storage.uploads == {}
            return real(key, terms)

        monkeypatch.setattr(storage, "start_parts", slow)
        with pytest.raises(SessionClosed):
            engine.uploads.begin(upload.session.id)
        assert storage.uploads == {}

    def test_who_begins_second_and_cannot_tidy_up_does_the_first_no_harm(
        self, engine: Engine, storage: MemoryOfParts, begun: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, upload = storage.start_parts, begun(DATA)
        with engine.database.transaction() as db_session:
            db_session.get_one(UploadSession, upload.session.id).multipart_upload_id = None

        def slow(key: str, terms: Any) -> str:
            monkeypatch.setattr(storage, "start_parts", real)
            engine.uploads.begin(upload.session.id)
            return real(key, terms)

        def away(key: str, upload_id: str | None) -> None:
            raise StorageUnavailable("default", key)

        monkeypatch.setattr(storage, "start_parts", slow)
        monkeypatch.setattr(storage, "abort_parts", away)
        session = engine.uploads.begin(upload.session.id)
        assert session.state == "initialized"
        assert session.multipart_upload_id in storage.uploads

    def test_time_that_was_given_while_somebody_expires_it_counts(
        self, engine: Engine, begun: Callable[..., Any], clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        upload = begun(DATA)
        clock.tick(hours=25)
        real = engine.uploads._arrivals.look

        def slow(session: UploadSession) -> Any:
            found = real(session)
            with engine.database.transaction() as db_session:
                engine.uploads._sessions.prolong(db_session, session)
            return found

        monkeypatch.setattr(engine.uploads._arrivals, "look", slow)
        assert engine.uploads.live(upload.session.id).state == "initialized"

    def test_a_look_at_what_another_has_completed_and_promoted(
        self, app: Flask, engine: Engine, storage: MemoryOfParts, begun: Callable[..., Any], photo: Any
    ) -> None:
        """The parts are gone, and so is the object under the key of the upload."""
        data = photo()
        upload = begun(data, Poster, filename="a.jpg", content_type=None)
        send(storage, upload, data, 1)
        real = engine.uploads._arrivals.look

        def slow(session: UploadSession) -> Any:
            with app.app_context():
                app.extensions["host"].rindle.complete_multipart_upload(upload.session)
            return real(session)

        engine.uploads._arrivals.look = slow  # type: ignore[method-assign]
        session, _ = engine.uploads.look(upload.session.id)
        assert session.state == "completed"

    def test_an_upload_that_is_whole_is_completed_also_after_its_time(
        self, app: Flask, storage: MemoryOfParts, begun: Callable[..., Any], clock: FrozenClock
    ) -> None:
        upload = begun(DATA)
        send(storage, upload, DATA, 1, 2, 3)
        clock.tick(hours=25)
        with app.app_context():
            assert app.extensions["host"].rindle.verify_completion(upload.session).session.state == "completed"

    def test_no_upload_lives_for_ever(
        self, app: Flask, engine: Engine, begun: Callable[..., Any], clock: FrozenClock
    ) -> None:
        upload = begun(DATA)
        with app.app_context():
            for _ in range(7 * 24 // 20):
                clock.tick(hours=20)
                app.extensions["host"].rindle.sign_multipart_part(upload.session, 1)
            clock.tick(hours=20)
            with pytest.raises(SessionClosed):
                app.extensions["host"].rindle.sign_multipart_part(upload.session, 1)

    def test_an_upload_that_its_storage_lost_says_so_when_it_is_completed(
        self, app: Flask, engine: Engine, storage: MemoryOfParts, begun: Callable[..., Any]
    ) -> None:
        upload = begun(DATA)
        storage.uploads.clear()
        with app.app_context(), pytest.raises(SessionClosed):
            app.extensions["host"].rindle.verify_completion(upload.session)
        assert engine.uploads.find(upload.session.id)[0].error_code == "upload_gone"

    def test_a_storage_that_is_gone_from_the_settings_expires_all_the_same(
        self, engine: Engine, begun: Callable[..., Any], clock: FrozenClock
    ) -> None:
        jobs: Any = engine.jobs
        upload = begun(DATA)
        with engine.database.transaction() as db_session:
            db_session.get_one(UploadSession, upload.session.id).storage = "gone"
        clock.tick(hours=25)
        jobs.drain()
        assert engine.uploads.find(upload.session.id)[0].state == "expired"

    def test_a_storage_that_is_away_for_days_holds_no_session_for_ever(
        self,
        engine: Engine,
        storage: MemoryOfParts,
        begun: Callable[..., Any],
        clock: FrozenClock,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def away(*_: Any) -> Any:
            raise StorageUnavailable("default", "key")

        jobs: Any = engine.jobs
        upload = begun(DATA)
        with monkeypatch.context() as patch:
            patch.setattr(storage, "list_parts", away)
            for _ in range(40):
                clock.tick(hours=25)
                jobs.drain()
        assert engine.uploads.find(upload.session.id)[0].state == "expired"
        assert storage.uploads == {}


class Exhibit(Profile):
    public = True
    max_bytes = 100 * MB


def test_nothing_lies_where_everybody_may_read_before_it_has_passed(
    make_app: Callable[..., Flask], photo: Callable[..., bytes], small_parts: int
) -> None:
    backend = "flask_rindle.testing.storages:MemoryOfParts"
    app, data = make_app(profiles=[Exhibit], storages={"default": {"backend": backend}}), photo()
    engine, rindle = app.extensions["rindle"], app.extensions["host"].rindle
    with app.app_context():
        upload = rindle.initiate_multipart_upload(
            Exhibit, filename="a.jpg", content_type="image/jpeg", byte_size=len(data)
        )
        assert upload.upload_key.startswith("incoming/")
        send(engine.storages["default"], upload, data, 1)
        done = rindle.complete_multipart_upload(upload.session)
    asset = engine.feed.asset(done.asset.id)
    assert (asset.state, list(engine.storages["default"]._objects)) == ("ready", [asset.storage_key])
    assert not asset.storage_key.startswith("incoming/")


class TestRoutes:
    @pytest.fixture
    def client(self, app: Flask, small_parts: int, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
        monkeypatch.setattr("flask_rindle.uploads.strategies.LARGE_BYTES", MB)
        return app.test_client()

    @staticmethod
    def ticket(app: Flask, profile: Any = Film, **options: Any) -> dict[str, str]:
        with app.app_context():
            return {"Rindle-Ticket": app.extensions["host"].rindle.upload_ticket(profile, **options)}

    @staticmethod
    def opened(client: FlaskClient, headers: dict[str, str], size: int = len(DATA)) -> Any:
        body = {"filename": "film.txt", "byte_size": size}
        answer = client.post("/rindle/uploads", json=body, headers=headers)
        assert answer.status_code == 201, answer.json
        return answer.json

    def test_a_large_file_comes_in_parts_and_a_small_one_whole(self, app: Flask, client: FlaskClient) -> None:
        headers = self.ticket(app, max_files=2)
        large, small = self.opened(client, headers), self.opened(client, headers, 10)
        assert (large["strategy"], small["strategy"]) == ("multipart", "presigned_put")
        assert large["upload"] == {"part_bytes": MB, "part_count": 3}

    def test_the_storage_tells_what_is_there(
        self, app: Flask, client: FlaskClient, storage: MemoryOfParts, engine: Engine
    ) -> None:
        headers = self.ticket(app)
        opened = self.opened(client, headers)
        url = f"/rindle/uploads/{opened['id']}"
        signed = client.post(f"{url}/parts", json={"numbers": [3, 1]}, headers=headers).json["parts"]
        assert [part["number"] for part in signed] == [3, 1]
        assert "size=524288" in signed[0]["url"], "the last part is signed for its own size"
        (upload_id,) = storage.uploads
        key = storage.uploads[upload_id].key
        storage.put_part(key, upload_id, 1, io.BytesIO(DATA[:MB]), size_bytes=MB)
        truth = client.get(url, headers=headers).json
        assert (truth["received_bytes"], truth["parts"]) == (MB, [{"number": 1, "byte_size": MB}])
        assert truth["upload"] == opened["upload"]
        incomplete = client.post(f"{url}/complete", headers=headers)
        assert (incomplete.status_code, incomplete.json["code"]) == (409, "upload_incomplete")
        assert incomplete.json["missing"] == [2, 3]
        storage.put_part(key, upload_id, 2, io.BytesIO(DATA[MB : 2 * MB]), size_bytes=MB)
        storage.put_part(key, upload_id, 3, io.BytesIO(DATA[2 * MB :]), size_bytes=MB)
        assert client.post(f"{url}/complete", headers=headers).json["state"] == "completed"

    @pytest.mark.parametrize(
        "body", [{}, {"numbers": []}, {"numbers": 1}, {"numbers": [1, 1]}, {"numbers": ["1"]}, {"numbers": [4]}]
    )
    def test_nonsense_numbers_are_refused(self, app: Flask, client: FlaskClient, body: Any) -> None:
        headers = self.ticket(app)
        opened = self.opened(client, headers)
        answer = client.post(f"/rindle/uploads/{opened['id']}/parts", json=body, headers=headers)
        assert (answer.status_code, answer.json["code"]) == (400, "malformed_request")

    def test_more_than_a_hundred_at_once_are_refused(self, app: Flask, client: FlaskClient) -> None:
        headers = self.ticket(app)
        opened = self.opened(client, headers, 100 * MB)
        for most, status in ((100, 200), (101, 400)):
            numbers = {"numbers": list(range(1, most + 1))}
            answer = client.post(f"/rindle/uploads/{opened['id']}/parts", json=numbers, headers=headers)
            assert answer.status_code == status

    def test_a_page_that_was_loaded_again_goes_on(self, app: Flask, client: FlaskClient) -> None:
        """It has a new ticket for the same place; one for another place finds nothing."""
        opened = self.opened(client, self.ticket(app))
        url = f"/rindle/uploads/{opened['id']}"
        assert client.get(url, headers=self.ticket(app)).status_code == 200
        assert client.post(f"{url}/parts", json={"numbers": [1]}, headers=self.ticket(app)).status_code == 200
        for other, status in ((self.ticket(app, Poster), 404), (self.ticket(app, actor="mallory"), 403)):
            assert client.get(url, headers=other).status_code == status
            assert client.delete(url, headers=other).status_code == status

    def test_an_old_ticket_finishes_what_was_begun_in_its_time_and_begins_nothing(
        self, app: Flask, client: FlaskClient, clock: FrozenClock
    ) -> None:
        older = self.ticket(app, expires_in=60)
        clock.tick(minutes=2)
        headers = self.ticket(app, expires_in=60)
        opened = self.opened(client, headers)
        picked_up = self.ticket(app, expires_in=60)
        clock.tick(hours=2)
        url = f"/rindle/uploads/{opened['id']}"
        for late in (headers, picked_up):
            assert client.post(f"{url}/parts", json={"numbers": [1]}, headers=late).status_code == 200
        assert client.get(url, headers=older).json["code"] == "ticket_expired"
        body = {"filename": "film.txt", "byte_size": 10}
        assert client.post("/rindle/uploads", json=body, headers=headers).json["code"] == "ticket_expired"

    def test_a_late_ticket_goes_no_further_than_an_hour_after_the_end(
        self, app: Flask, client: FlaskClient, clock: FrozenClock, storage: MemoryOfParts
    ) -> None:
        headers = self.ticket(app, expires_in=60)
        url = f"/rindle/uploads/{self.opened(client, headers, 100)['id']}"
        clock.tick(hours=2)
        assert client.delete(url, headers=headers).status_code == 204
        assert client.get(url, headers=headers).status_code == 200
        clock.tick(minutes=61)
        assert client.get(url, headers=headers).json["code"] == "ticket_expired"

    def test_who_asks_must_be_known_to_go_on_with_another_ticket(
        self, make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of a page for everybody the owner says where files go, not who sends them."""
        monkeypatch.setattr("flask_rindle.uploads.strategies.LARGE_BYTES", 1)
        app = make_app(
            profiles=[Film], storages={"default": {"backend": "flask_rindle.testing.storages:MemoryOfParts"}}
        )
        host = app.extensions["host"]
        with app.app_context():
            page = host.User(name="page")
            host.db.session.add(page)
            host.db.session.commit()
            tickets = [host.rindle.upload_ticket(Film, owner=page, slot="film") for _ in range(2)]
        client, (mine, theirs) = app.test_client(), [{"Rindle-Ticket": ticket} for ticket in tickets]
        url = f"/rindle/uploads/{self.opened(client, mine, 100)['id']}"
        assert [client.get(url, headers=who).status_code for who in (mine, theirs)] == [200, 404]

    def test_another_file_of_the_same_name_and_size_is_another_upload(
        self, app: Flask, client: FlaskClient, storage: MemoryOfParts
    ) -> None:
        headers = self.ticket(app)
        body = {"filename": "film.txt", "content_type": "text/plain", "byte_size": len(DATA)}
        assert client.post("/rindle/uploads", json=body, headers=headers).status_code == 201
        for other in ({"checksum": f"sha256:{'0' * 64}"}, {"content_type": "text/csv"}):
            answer = client.post("/rindle/uploads", json=body | other, headers=headers)
            assert (answer.status_code, answer.json["code"]) == (409, "ticket_used")
        assert client.post("/rindle/uploads", json=body, headers=headers).status_code == 201

    def test_the_form_leaves_it_alone(self, app: Flask, client: FlaskClient, engine: Engine) -> None:
        headers = self.ticket(app)
        opened = self.opened(client, headers)
        fields = {"ticket": headers["Rindle-Ticket"], "session": opened["id"], "file": (io.BytesIO(b"x"), "film.txt")}
        answer = client.post("/rindle/uploads/form", data=fields, headers={"Accept": "application/json"})
        assert (answer.status_code, answer.json["code"]) == (400, "malformed_request")
        session, _ = engine.uploads.find(uuid.UUID(opened["id"]))
        assert session.state == "initialized"

    def test_as_many_parts_can_be_named_as_there_may_be(self, app: Flask, client: FlaskClient) -> None:
        headers = self.ticket(app)
        url = f"/rindle/uploads/{self.opened(client, headers)['id']}/complete"
        parts = [{"number": number, "etag": f'"{number:032x}"'} for number in range(1, 10_001)]
        assert client.post(url, json={"parts": parts}, headers=headers).json["code"] == "upload_incomplete"

    def test_a_body_of_unknown_length_is_read(self, app: Flask, client: FlaskClient) -> None:
        headers = self.ticket(app)
        url = f"/rindle/uploads/{self.opened(client, headers)['id']}/complete"
        chunked = headers | {"Transfer-Encoding": "chunked", "Content-Type": "application/json"}
        environ = {"wsgi.input_terminated": True, "wsgi.input": io.BytesIO(b'{"parts": 7}')}
        answer = client.post(url, headers=chunked, environ_overrides=environ)
        assert (answer.status_code, answer.json["field"]) == (400, "parts")


NONSENSE = [True, -1, 1.5, 10**30, b"x", [], {}, object(), "\0"]


@pytest.mark.parametrize("value", NONSENSE, ids=lambda value: type(value).__name__)
def test_nonsense_from_python_is_an_error_of_ours(app: Flask, engine: Engine, value: Any) -> None:
    with app.app_context():
        rindle = app.extensions["host"].rindle
        calls: dict[str, Callable[[], Any]] = {
            "byte_size": lambda: rindle.initiate_multipart_upload(Film, byte_size=value),
            "expires_in": lambda: rindle.upload_ticket(Film, expires_in=value),
            "max_files": lambda: rindle.upload_ticket(Film, max_files=value),
            "actor": lambda: rindle.upload_ticket(Film, actor=value),
            "life": lambda: rindle.presigned_put(Film, "a", byte_size=1, expires_in=value),
            "events": lambda: rindle.events_token(f"asset:{uuid.uuid4()}", expires_in=value),
            "head": lambda: rindle.head(Film, value),
            "session": lambda: rindle.sign_multipart_part(value, 1),
        }
        if not isinstance(value, str):
            calls |= {
                "filename": lambda: rindle.initiate_multipart_upload(Film, byte_size=1, filename=value),
                "content_type": lambda: rindle.initiate_multipart_upload(Film, byte_size=1, content_type=value),
                "checksum": lambda: rindle.initiate_multipart_upload(Film, byte_size=1, checksum=value),
            }
        for name, call in calls.items():
            with pytest.raises(RindleError) as caught:
                call()
            assert caught.value.code in ("malformed_request", "unknown_name", "invalid_key"), name
    with engine.database.reading() as db_session:
        assert db_session.query(UploadSession).count() == 0
