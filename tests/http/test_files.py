"""Delivery from local storage: ranges, caching, headers, and what a link does not give."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flask_rindle import Profile
from flask_rindle.testing.clock import FrozenClock


@pytest.fixture
def file_url(app: Flask, ticket: Callable[..., str], send: Callable[..., Any], photo: Callable[..., bytes]) -> str:
    asset_id = send(ticket(), photo(64, 48)).json["asset"]["id"]
    with app.test_request_context():
        return app.extensions["host"].rindle.url(asset_id)


@pytest.fixture
def whole(client: FlaskClient, file_url: str) -> bytes:
    return client.get(file_url).data


def test_a_file_comes_whole_with_safe_headers(client: FlaskClient, file_url: str, photo: Callable[..., bytes]) -> None:
    answer = client.get(file_url)
    assert (answer.status_code, answer.data) == (200, photo(64, 48))
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert answer.headers["Content-Length"] == str(len(answer.data))
    assert answer.headers["Content-Disposition"] == "inline; filename=\"beach.jpg\"; filename*=UTF-8''beach.jpg"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [("bytes=0-9", 0, 10), ("bytes=5-", 5, None), ("bytes=-7", -7, None), ("bytes=0-99999999", 0, None)],
)
def test_one_range(client: FlaskClient, file_url: str, whole: bytes, asked: str, start: int, stop: int | None) -> None:
    answer = client.get(file_url, headers={"Range": asked})
    part = whole[start:stop]
    first = start % len(whole)
    assert (answer.status_code, answer.data) == (206, part)
    assert answer.headers["Content-Range"] == f"bytes {first}-{first + len(part) - 1}/{len(whole)}"
    assert answer.headers["Content-Length"] == str(len(part))


@pytest.mark.parametrize("more", [0, 1, 10**6, 10**30])
def test_the_last_bytes_of_a_file_that_has_fewer_are_all_of_it(
    client: FlaskClient, file_url: str, whole: bytes, more: int
) -> None:
    """A range by its suffix is satisfiable, however long (RFC 9110, section 14.1.2)."""
    answer = client.get(file_url, headers={"Range": f"bytes=-{len(whole) + more}"})
    assert (answer.status_code, answer.data) == (206, whole)
    assert answer.headers["Content-Range"] == f"bytes 0-{len(whole) - 1}/{len(whole)}"


@pytest.mark.parametrize("asked", ["bytes=0-1,3-4", "bytes=x-y", "items=0-1", "bytes=5-2", "bytes"])
def test_what_is_no_single_range_gets_everything(client: FlaskClient, file_url: str, whole: bytes, asked: str) -> None:
    answer = client.get(file_url, headers={"Range": asked})
    assert (answer.status_code, answer.data) == (200, whole)


def test_a_range_past_the_end_is_not_satisfiable(client: FlaskClient, file_url: str, whole: bytes) -> None:
    answer = client.get(file_url, headers={"Range": f"bytes={len(whole)}-"})
    assert (answer.status_code, answer.headers["Content-Range"]) == (416, f"bytes */{len(whole)}")


@given(start=st.integers(0, 3000), length=st.integers(1, 3000))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_range_is_the_slice(client: FlaskClient, file_url: str, whole: bytes, start: int, length: int) -> None:
    answer = client.get(file_url, headers={"Range": f"bytes={start}-{start + length - 1}"})
    if start < len(whole):
        assert (answer.status_code, answer.data) == (206, whole[start : start + length])
    else:
        assert answer.status_code == 416


def test_head_tells_without_sending(client: FlaskClient, file_url: str, whole: bytes) -> None:
    answer = client.head(file_url)
    assert (answer.status_code, answer.data) == (200, b"")
    assert answer.headers["Content-Length"] == str(len(whole))


def test_an_unchanged_file_is_not_sent_again(client: FlaskClient, file_url: str, whole: bytes) -> None:
    etag = client.get(file_url).headers["ETag"]
    same = client.get(file_url, headers={"If-None-Match": etag})
    other = client.get(file_url, headers={"If-None-Match": '"other"'})
    assert (same.status_code, same.data, other.status_code) == (304, b"", 200)
    resumed = client.get(file_url, headers={"Range": "bytes=0-1", "If-Range": etag})
    changed = client.get(file_url, headers={"Range": "bytes=0-1", "If-Range": '"other"'})
    assert (resumed.status_code, changed.status_code, changed.data) == (206, 200, whole)


def test_a_link_is_kept_as_long_as_it_is_good(client: FlaskClient, file_url: str, clock: FrozenClock) -> None:
    life = int(client.get(file_url).headers["Cache-Control"].removeprefix("private, max-age="))
    assert 675 <= life <= 900
    clock.tick(seconds=life - 1)
    assert client.get(file_url).headers["Cache-Control"] == "private, max-age=1"
    clock.tick(seconds=1)
    answer = client.get(file_url)
    assert (answer.status_code, answer.json["code"]) == (403, "expired_token")


def test_links_stay_the_same_for_a_while(
    app: Flask, ticket: Callable[..., str], send: Callable[..., Any], photo: Callable[..., bytes], clock: FrozenClock
) -> None:
    """A page that is loaded again finds its pictures in the browser's cache."""
    asset_id = send(ticket(), photo()).json["asset"]["id"]
    with app.test_request_context():
        rindle = app.extensions["host"].rindle
        first = rindle.variant_url(asset_id, "thumb")
        clock.tick(seconds=10)
        assert rindle.variant_url(asset_id, "thumb") == first
        clock.tick(seconds=225)
        assert rindle.variant_url(asset_id, "thumb") != first


@pytest.mark.parametrize("cut", [slice(0, -1), slice(1, None)])
def test_an_altered_link_gives_nothing(client: FlaskClient, file_url: str, cut: slice) -> None:
    prefix, token, name = file_url.rpartition("/files/")[0], *file_url.rpartition("/files/")[2].split("/")
    answer = client.get(f"{prefix}/files/{token[cut]}/{name}")
    assert (answer.status_code, answer.json["code"]) == (403, "invalid_token")


def test_a_download_link_cannot_upload(
    client: FlaskClient,
    file_url: str,
    announce: Callable[..., Any],
    ticket: Callable[..., str],
    photo: Callable[..., bytes],
) -> None:
    token = file_url.split("/files/")[1].split("/")[0]
    assert client.put(f"/rindle/files/{token}", data=b"x").json["code"] == "invalid_token"
    upload = announce(ticket(), photo()).json["upload"]["url"]
    assert client.get(f"{upload}/x.jpg").json["code"] == "invalid_token"


def test_what_a_browser_could_execute_leaves_as_an_attachment(make_app: Callable[..., Flask]) -> None:
    class Anything(Profile):
        pass

    app = make_app(profiles=[Anything])
    page = io.BytesIO(b"<!doctype html><script>alert(1)</script>")
    with app.test_request_context():
        rindle = app.extensions["host"].rindle
        asset = rindle.upload(Anything, page, filename="page.html", content_type="image/png")
        url = rindle.url(asset.id, disposition="inline", filename='täg "x".html')
    answer = app.test_client().get(url, buffered=True)
    assert answer.headers["Content-Type"].startswith("text/html")
    assert answer.headers["Content-Disposition"].startswith(
        "attachment; filename=\"tag _x_.html\"; filename*=UTF-8''t%C3%A4g"
    )
    assert "sandbox" in answer.headers["Content-Security-Policy"]


def test_public_links_are_permanent_and_cacheable(
    make_app: Callable[..., Flask], photo: Callable[..., bytes], clock: FrozenClock
) -> None:
    class Logo(Profile):
        public = True

    app = make_app(profiles=[Logo])
    with app.test_request_context():
        rindle = app.extensions["host"].rindle
        asset = rindle.upload(Logo, io.BytesIO(photo()), filename="logo.jpg")
        first = rindle.url(asset.id)
        clock.tick(days=400)
        assert rindle.url(asset.id) == first
    answer = app.test_client().get(first, buffered=True)
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"


def test_links_follow_the_prefix_and_the_mount(make_app: Callable[..., Flask], photo: Callable[..., bytes]) -> None:
    app = make_app(RINDLE_URL_PREFIX="/media/")
    with app.app_context():
        rindle = app.extensions["host"].rindle
        asset = rindle.upload("avatar", io.BytesIO(photo()), filename="a.jpg")
        assert rindle.url(asset.id).startswith("/media/files/")
    with app.test_request_context(environ_overrides={"SCRIPT_NAME": "/app"}):
        assert rindle.url(asset.id).startswith("/app/media/files/")


def test_a_file_that_is_gone_is_not_found(app: Flask, client: FlaskClient, file_url: str) -> None:
    storage = app.extensions["rindle"].storages["default"]
    for path in storage.root.rglob("original*"):
        path.unlink()
    answer = client.get(file_url)
    assert (answer.status_code, answer.json["code"]) == (404, "object_not_found")
    assert str(storage.root) not in answer.text
