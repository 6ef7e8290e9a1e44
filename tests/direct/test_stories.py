"""Whole stories of files that go past the app: what arrives, what is refused, what is left."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from direct_sites import Answer, Film, Picture, Site
from flask import Flask
from s3_servers import S3Server

from flask_rindle import MB, Profile, image
from flask_rindle.errors import ConfigurationError
from flask_rindle.models import Asset, UploadSession
from flask_rindle.testing.clock import FrozenClock


def only(site: Site, model: type[Any]) -> Any:
    with site.engine.database.reading() as db_session:
        (row,) = db_session.query(model)
        return row


class TestASmallFile:
    def test_goes_all_the_way(self, site: Site, put_whole: Any, http: Callable[..., Answer], png: Any) -> None:
        data = png()
        done = put_whole(site, data)
        state = site.client.get(done.json["state_url"]).json
        assert (state["state"], state["variants"]) == ("ready", {"thumb": "ready"})
        asset = site.asset(done.json)
        assert sorted(site.look()) == sorted([asset.storage_key, asset.variants[0].storage_key]), "nothing is staged"
        with site.app.app_context():
            url = site.rindle.url(asset, disposition="attachment", filename="mine.png")
            thumb = site.rindle.variant_url(asset, "thumb")
        whole = http("GET", url, {})
        assert (whole.status, whole.body, whole.headers["Content-Type"]) == (200, data, "image/png")
        assert whole.headers["Content-Disposition"].startswith('attachment; filename="mine.png"')
        assert http("GET", thumb, {}).headers["Content-Type"] == "image/jpeg"
        assert http("GET", url.replace("mine.png", "other.png"), {}).status == 403

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda data, headers: (data + b"x", headers), "longer"),
            (lambda data, headers: (data[:-1], headers), "shorter"),
            (lambda data, headers: (data, headers | {"Content-Type": "text/html"}), "another type"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_a_url_takes_no_other_bytes(
        self, site: Site, http: Callable[..., Answer], png: Any, change: Any, reason: str
    ) -> None:
        data = png()
        upload = site.open(site.ticket(), data).json["upload"]
        headers = {name: value for name, value in upload["headers"].items() if name.lower() != "content-length"}
        sent, headers = change(data, headers)
        assert http("PUT", upload["url"], headers, sent).status in (400, 403), reason
        assert site.look() == {}

    def test_a_checksum_that_is_wrong_is_found_out(self, site: Site, http: Callable[..., Answer], png: Any) -> None:
        """By S3 when the bytes come; by the gate where the storage knows no SHA-256."""
        headers, data = site.ticket(), png()
        checksum = f"sha256:{hashlib.sha256(b'other').hexdigest()}"
        opened = site.open(headers, data, checksum=checksum).json
        if http("PUT", opened["upload"]["url"], opened["upload"]["headers"], data).status == 200:
            site.client.post(f"/rindle/uploads/{opened['id']}/complete", headers=headers)
            assert only(site, Asset).error_code == "checksum_mismatch"
        assert site.look() == {}

    def test_completing_what_never_came_changes_nothing(self, site: Site, png: Any) -> None:
        headers = site.ticket()
        opened = site.open(headers, png()).json
        answer = site.client.post(f"/rindle/uploads/{opened['id']}/complete", headers=headers)
        assert (answer.status_code, answer.json["code"]) == (409, "upload_incomplete")
        assert only(site, UploadSession).state == "signed"

    def test_bytes_that_were_overwritten_after_a_look_are_refused(self, site: Site, put_whole: Any, png: Any) -> None:
        site.hold_jobs()
        put_whole(site, png())
        key = only(site, UploadSession).upload_key
        site.storage.put(key, io.BytesIO(png(50, 50)), content_type="image/png")
        site.drain()
        asset = only(site, Asset)
        assert (asset.state, asset.error_code) == ("quarantined", "content_changed")

    def test_bytes_that_are_overwritten_between_the_look_and_the_move_are_refused(
        self, site: Site, put_whole: Any, png: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The last moment: they have been downloaded and judged."""
        site.hold_jobs()
        put_whole(site, png())
        real = site.storage.promote

        def late(source_key: str, target_key: str, **terms: Any) -> Any:
            site.storage.put(source_key, io.BytesIO(png(50, 50)), content_type="image/png")
            return real(source_key, target_key, **terms)

        monkeypatch.setattr(site.storage, "promote", late)
        site.drain()
        asset = only(site, Asset)
        assert (asset.state, asset.error_code) == ("quarantined", "content_changed")


class TestLateWriters:
    def test_what_comes_after_the_look_is_not_served_and_not_kept(
        self, site: Site, http: Callable[..., Answer], png: Any, clock: FrozenClock
    ) -> None:
        headers, data, other = site.ticket(), png(), png()
        opened = site.open(headers, data).json
        upload = opened["upload"]
        http("PUT", upload["url"], upload["headers"], data)
        site.client.post(f"/rindle/uploads/{opened['id']}/complete", headers=headers)
        asset = only(site, Asset)
        kept = set(site.look())
        late = http("PUT", upload["url"], upload["headers"], other)
        assert late.status == (200 if len(other) == len(data) else 403)
        with site.app.app_context():
            assert http("GET", site.rindle.url(asset.id), {}).body == data
        clock.tick(hours=25)
        site.drain()
        assert set(site.look()) == kept

    def test_what_comes_after_a_cancel_is_not_kept(
        self, site: Site, http: Callable[..., Answer], png: Any, clock: FrozenClock
    ) -> None:
        headers, data = site.ticket(), png()
        opened = site.open(headers, data).json
        upload = opened["upload"]
        assert site.client.delete(f"/rindle/uploads/{opened['id']}", headers=headers).status_code == 204
        assert http("PUT", upload["url"], upload["headers"], data).status == 200
        assert len(site.look()) == 1, "a signed URL cannot be called back"
        clock.tick(minutes=16)
        site.drain()
        assert site.look() == {}
        with site.engine.database.reading() as db_session:
            assert db_session.query(Asset).count() == 0


BAD = {
    "another type": (b"GIF89a" + b"\0" * 50, "type_refused"),
    "html": (b"<!doctype html><script>alert(1)</script>", "type_refused"),
    "too many pixels": (None, "too_many_pixels"),
}


class TestTheGate:
    """What is refused, whatever road it took, leaves nothing at the storage."""

    @pytest.mark.parametrize(("data", "code"), BAD.values(), ids=BAD)
    def test_at_a_put(self, site: Site, put_whole: Any, png: Any, data: bytes | None, code: str) -> None:
        put_whole(site, png(200, 200) if data is None else data)
        self.check(site, code)

    @pytest.mark.parametrize(("data", "code"), BAD.values(), ids=BAD)
    def test_in_several_requests(
        self, site: Site, png: Any, http: Callable[..., Answer], data: bytes | None, code: str
    ) -> None:
        data = png(200, 200) if data is None else data
        with site.app.app_context():
            if site.look.__qualname__.startswith("s3"):
                upload = site.rindle.initiate_multipart_upload(
                    Picture, filename="a.png", content_type="image/png", byte_size=len(data)
                )
                part = site.rindle.sign_multipart_part(upload.session, 1)
                assert http("PUT", part.url, part.headers, data).status == 200
            else:
                upload = site.rindle.initiate_resumable_session(
                    Picture, filename="a.png", content_type="image/png", byte_size=len(data)
                )
                assert http("PUT", upload.session_uri, {}, data).status == 200
            site.rindle.verify_completion(upload.session)
        self.check(site, code)

    @staticmethod
    def check(site: Site, code: str) -> None:
        asset = only(site, Asset)
        assert (asset.state, asset.error_code) == ("quarantined", code)
        clock: Any = site.engine.clock
        clock.tick(hours=25)
        site.drain()
        assert (site.look(), site.open_uploads()) == ({}, 0)


LINE = b"thirty-two bytes of a long film\n"


class TestALargeFile:
    def test_comes_to_s3_in_parts_and_resumes_after_a_reload(
        self, s3_site: Callable[..., Site], http: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        site, data = s3_site(), LINE * (20 * MB // 32)
        monkeypatch.setattr("flask_rindle.uploads.strategies.LARGE_BYTES", 10 * MB)
        opened = site.open(site.ticket(Film), data, filename="a.txt", content_type="text/plain").json
        assert (opened["strategy"], opened["upload"]) == ("multipart", {"part_bytes": 8 * MB, "part_count": 3})
        url = f"/rindle/uploads/{opened['id']}"

        def put(number: int, chunk: bytes) -> int:
            signed = site.client.post(f"{url}/parts", json={"numbers": [number]}, headers=site.ticket(Film))
            (part,) = signed.json["parts"]
            return http(part["method"], part["url"], part["headers"], chunk).status

        assert put(2, data[8 * MB : 16 * MB]) == 200
        assert site.look() == {}, "nothing can be seen before it is complete"
        truth = site.client.get(url, headers=site.ticket(Film)).json
        assert truth["parts"] == [{"number": 2, "byte_size": 8 * MB}]
        assert put(1, data[: 8 * MB]) == 200
        assert put(3, data[16 * MB :]) == 200
        done = site.client.post(f"{url}/complete", headers=site.ticket(Film)).json
        asset = site.asset(done)
        assert asset.state == "ready"
        assert b"".join(site.storage.read(asset.storage_key)) == data
        assert site.look() == {asset.storage_key: len(data)}
        assert site.open_uploads() == 0

    def test_a_part_of_another_size_is_refused_by_the_storage(
        self, s3_site: Callable[..., Site], http: Callable[..., Answer]
    ) -> None:
        site = s3_site()
        with site.app.app_context():
            upload = site.rindle.initiate_multipart_upload(Film, filename="a.txt", byte_size=100)
            part = site.rindle.sign_multipart_part(upload.session, 1)
            assert http("PUT", part.url, {}, b"x" * 101).status == 403
            assert http("PUT", part.url, {}, b"x" * 100).status == 200

    def test_a_cancel_and_an_expiry_leave_no_parts(
        self, s3_site: Callable[..., Site], http: Callable[..., Answer], clock: FrozenClock
    ) -> None:
        site = s3_site()
        for end in ("cancel", "expiry"):
            with site.app.app_context():
                upload = site.rindle.initiate_multipart_upload(Film, filename="a.txt", byte_size=100)
                part = site.rindle.sign_multipart_part(upload.session, 1)
                assert http("PUT", part.url, {}, b"x" * 100).status == 200
                assert site.open_uploads() == 1
                if end == "cancel":
                    site.rindle.cancel_upload(upload.session)
            for _ in range(2 if end == "expiry" else 0):
                clock.tick(hours=25)
                site.drain()
            assert site.open_uploads() == 0
            assert http("PUT", part.url, {}, b"x" * 100).status == 404

    def test_comes_to_gcs_in_requests_that_go_on(
        self, gcs_site: Callable[..., Site], http: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        site, data = gcs_site(), LINE * (MB // 32)
        monkeypatch.setattr("flask_rindle.uploads.strategies.LARGE_BYTES", 1)
        headers = site.ticket(Film)
        opened = site.open(headers, data, filename="a.txt", content_type="text/plain").json
        assert (opened["strategy"], opened["upload"]["chunk_bytes"]) == ("resumable", 256 * 1024)
        uri, half = opened["upload"]["url"], MB // 2
        first = http("PUT", uri, {"Content-Range": f"bytes 0-{half - 1}/{MB}"}, data[:half])
        assert (first.status, first.headers["Range"]) == (308, f"bytes=0-{half - 1}")
        truth = site.client.get(f"/rindle/uploads/{opened['id']}", headers=headers).json
        assert (truth["received_bytes"], truth["upload"]["url"]) == (half, uri)
        assert http("PUT", uri, {"Content-Range": f"bytes {half}-{MB - 1}/{MB}"}, data[half:]).status == 200
        done = site.client.post(f"/rindle/uploads/{opened['id']}/complete", headers=headers).json
        asset = site.asset(done)
        assert asset.state == "ready"
        assert b"".join(site.storage.read(asset.storage_key)) == data
        assert site.look() == {asset.storage_key: len(data)}

    def test_a_cancel_reaches_gcs(self, gcs_site: Callable[..., Site], http: Callable[..., Answer]) -> None:
        site = gcs_site()
        with site.app.app_context():
            upload = site.rindle.initiate_resumable_session(Film, filename="a.txt", byte_size=MB)
            assert site.open_uploads() == 1
            site.rindle.cancel_resumable_session(upload.session)
        assert site.open_uploads() == 0
        assert http("PUT", upload.session_uri, {}, b"x" * MB).status in (404, 410, 499)


class Poster(Profile):
    public = True
    allow_mime = {"image/png"}  # noqa: RUF012
    variants = {"thumb": image.fit(16, 16)}  # noqa: RUF012


class TestPublicProfiles:
    def test_links_are_unsigned_and_objects_can_be_cached_by_everybody(
        self, make_site: Callable[..., Site], put_whole: Any, png: Any
    ) -> None:
        site = make_site(profiles=[Poster], public_base_url="https://cdn.example.org/media")
        done = put_whole(site, png(), Poster, content_type=None)
        asset = site.asset(done.json)
        with site.app.app_context():
            assert site.rindle.url(asset) == f"https://cdn.example.org/media/{asset.storage_key}"
            thumb = site.rindle.variant_url(asset, "thumb")
        assert urlsplit(thumb).query == ""
        assert site.storage.stat(asset.storage_key).content_type == "image/png", "what it turned out to be"

    def test_without_a_public_address_nothing_is_downgraded(self, site: Site) -> None:
        assert "public_url" not in site.storage.capabilities


class Elsewhere(Profile):
    storage = "other"
    allow_mime = {"image/png"}  # noqa: RUF012
    variants = {"thumb": image.fit(16, 16)}  # noqa: RUF012


class Here(Profile):
    allow_mime = {"image/png"}  # noqa: RUF012
    variants = {"thumb": image.fit(16, 16)}  # noqa: RUF012


class TestMixedStorages:
    def test_each_remembers_its_own(
        self,
        localstack: S3Server,
        make_bucket: Callable[[S3Server], str],
        make_app: Callable[..., Flask],
        tmp_path: Any,
        png: Any,
    ) -> None:
        """Also when the profile has moved on to another storage meanwhile."""
        s3 = {"backend": "s3", **localstack.options(make_bucket(localstack))}
        local = {"backend": "local", "root": tmp_path / "media"}
        app = make_app(profiles=[Here, Elsewhere], storages={"default": local, "other": s3})
        engine, rindle = app.extensions["rindle"], app.extensions["host"].rindle
        with app.app_context():
            here = rindle.upload(Here, io.BytesIO(png()), filename="a.png")
            there = rindle.upload(Elsewhere, io.BytesIO(png()), filename="a.png")
            Elsewhere.storage = "default"
            try:
                moved = rindle.upload(Elsewhere, io.BytesIO(png()), filename="a.png")
                kinds = [urlsplit(rindle.url(asset.id)).path.startswith("/rindle/") for asset in (here, there, moved)]
                variant_kinds = [
                    urlsplit(rindle.variant_url(asset.id, "thumb")).path.startswith("/rindle/")
                    for asset in (here, there, moved)
                ]
            finally:
                Elsewhere.storage = "other"
        assert kinds == variant_kinds == [True, False, True]
        with engine.database.transaction() as db_session:
            for asset in (here, there, moved):
                engine.attachments.remove(db_session, db_session.get_one(Asset, asset.id))
        assert (
            engine.storages["other"]
            .bucket.client()
            .list_objects_v2(Bucket=engine.storages["other"].bucket.options.bucket)
            .get("KeyCount")
            == 0
        )
        assert not [path for path in (tmp_path / "media").rglob("*") if path.is_file()]


class TestCors:
    def test_rules_are_printed_and_applied(self, site: Site, png: Any, http: Callable[..., Answer]) -> None:
        run = site.app.test_cli_runner().invoke
        plain = ["rindle", "cors", "--storage", "default", "--origin", "https://page.example.org"]
        upload = site.open(site.ticket(), png()).json["upload"]
        asked = {
            "Origin": "https://page.example.org",
            "Access-Control-Request-Method": "PUT",
            "Access-Control-Request-Headers": ",".join(
                sorted(name.lower() for name in upload["headers"] if name.lower() not in ("host", "content-length"))
            ),
        }
        shown = run(args=[*plain, "--json"])
        assert "https://page.example.org" in json.dumps(json.loads(shown.output))
        assert "access-control-allow-origin" not in {
            name.lower() for name in http("OPTIONS", upload["url"], asked).headers
        }
        applied = run(args=[*plain, "--live"])
        assert (applied.exit_code, "has these rules now" in applied.output) == (0, True)
        allowed = {name.lower(): value for name, value in http("OPTIONS", upload["url"], asked).headers.items()}
        assert allowed["access-control-allow-origin"] == "https://page.example.org"
        other = http("OPTIONS", upload["url"], asked | {"Origin": "https://evil.example.org"})
        assert other.headers.get("Access-Control-Allow-Origin") != "https://evil.example.org"

    @pytest.mark.parametrize("origin", ["page.example.org", "https://page.example.org/path", "", "ftp://a"])
    def test_what_is_no_origin_is_refused(self, site: Site, origin: str) -> None:
        done = site.app.test_cli_runner().invoke(
            args=["rindle", "cors", "--storage", "default", "--origin", origin, "--live"]
        )
        assert done.exit_code == 1
        assert "https://" in done.output

    def test_a_storage_that_has_none_says_so(self, app: Flask) -> None:
        run = app.test_cli_runner().invoke
        done = run(args=["rindle", "cors", "--storage", "default", "--origin", "https://a.example"])
        assert (done.exit_code, "cannot cors" in done.output) == (1, True)
        done = run(args=["rindle", "cors", "--storage", "nowhere", "--origin", "https://a.example"])
        assert (done.exit_code, "nowhere" in done.output) == (1, True)


class TestSecrets:
    def test_no_signature_and_no_session_uri_is_in_a_row_an_event_or_a_log(
        self, site: Site, put_whole: Any, png: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level("INFO"):
            put_whole(site, png())
        with site.app.app_context():
            url = site.rindle.url(only(site, Asset))
        query = parse_qs(urlsplit(url).query)
        (signature,) = query.get("X-Amz-Signature") or query["X-Goog-Signature"]
        assert signature not in caplog.text
        assert "Signature=" not in caplog.text


class TestSetUp:
    def test_urls_that_would_live_longer_than_the_storage_allows(self, make_site: Callable[..., Site]) -> None:
        class Slow(Profile):
            signed_url_ttl = 604_801

        with pytest.raises(ConfigurationError) as caught:
            make_site(profiles=[Slow], settings={"RINDLE_SIGNED_URL_TTL": 700_000})
        first, second = caught.value.problems
        assert (first.split(":")[0], "604800 seconds" in first) == ("RINDLE_SIGNED_URL_TTL=700000", True)
        assert second.startswith("profile 'slow': signed_url_ttl=604801")

    @pytest.mark.parametrize("backend", ["s3", "gcs"])
    def test_options_that_are_wrong_say_what_to_write(self, make_app: Callable[..., Flask], backend: str) -> None:
        for options in ({}, {"bucket": ""}, {"bucket": "b", "no_such_option": 1}):
            with pytest.raises(ConfigurationError, match="RINDLE_STORAGES"):
                make_app(storages={"default": {"backend": backend, **options}})

    @pytest.mark.parametrize(("backend", "module"), [("s3", "boto3"), ("gcs", "google.cloud")])
    def test_a_missing_package_is_named_with_its_extra(
        self, make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch, backend: str, module: str
    ) -> None:
        for loaded in [name for name in sys.modules if name.startswith("flask_rindle.storage.gcs_")]:
            monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ConfigurationError, match=rf"pip install 'flask-rindle\[{backend}\]'"):
            make_app(storages={"default": {"backend": backend, "bucket": "media"}})
