"""Uploads in parts, from the ticket to the asset, on a storage that has its own mind."""

from __future__ import annotations

import hashlib
import io
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
