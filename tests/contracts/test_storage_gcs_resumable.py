"""Resumable uploads to GCS as clients and browsers meet them: session URIs, breaks, and what other origins may do."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from gcs import FakeGcs
from gcs_faults import status
from gcs_storages import content, hurry, open_storage, put

from flask_rindle.errors import StorageDenied, StorageError
from flask_rindle.storage.base import (
    ConfiguresCors,
    PutTerms,
    ResumableProgress,
    ResumableStart,
    ResumableState,
    UploadTerms,
)
from flask_rindle.storage.gcs import GCS
from flask_rindle.types import KB, MB, utcnow

CHUNK = 256 * KB
SIZE = 2 * CHUNK + 100
TERMS = UploadTerms(content_type="video/mp4", size_bytes=SIZE, public=True)
PAGE = "https://app.example.com"
OTHER_PAGE = "https://evil.example.com"
EXPIRED = ResumableProgress(committed_bytes=0, state=ResumableState.EXPIRED)


@pytest.fixture
def fake() -> Iterator[FakeGcs]:
    with FakeGcs() as server:
        yield server


@pytest.fixture
def storage(fake: FakeGcs) -> Iterator[GCS]:
    with closing(open_storage(fake)) as gcs:
        yield gcs


@pytest.fixture
def web() -> Iterator[requests.Session]:
    """A client with no credentials."""
    with requests.Session() as session:
        yield session


def going(committed_bytes: int) -> ResumableProgress:
    return ResumableProgress(committed_bytes=committed_bytes, state=ResumableState.IN_PROGRESS)


def send(web: requests.Session, uri: str, data: bytes, at: int, total: int | str, **headers: str) -> requests.Response:
    place = f"bytes {at}-{at + len(data) - 1}/{total}"
    return web.put(uri, data, headers={"Content-Range": place, **headers}, allow_redirects=False)


# ---- how an upload begins


def test_the_start_says_what_will_come(fake: FakeGcs, storage: GCS) -> None:
    start = storage.start_resumable("sealed/a.mp4", TERMS, origin=PAGE)
    (begin,) = [request for operation, request in fake.requests if operation == "start"]
    assert begin.headers["X-Upload-Content-Type"] == "video/mp4"
    assert begin.headers["X-Upload-Content-Length"] == str(SIZE)
    assert begin.headers["Origin"] == PAGE
    assert begin.args["ifGenerationMatch"] == "0"
    assert begin.args["uploadType"] == "resumable"
    assert start.upload_id == parse_qs(urlsplit(start.uri).query)["upload_id"][0]
    assert timedelta(days=7) - timedelta(minutes=1) < start.expires_at - utcnow() <= timedelta(days=7)


@pytest.mark.parametrize(("key", "caches"), [("sealed/a", "public, max-age=31536000, immutable"), ("incoming/a", None)])
def test_the_object_is_as_a_put_makes_it(
    fake: FakeGcs, storage: GCS, web: requests.Session, key: str, caches: str | None
) -> None:
    """A key that is not staged may be final, so what it is served with is there from the start."""
    start = storage.start_resumable(key, UploadTerms(content_type="text/html", size_bytes=4, public=True))
    assert send(web, start.uri, b"text", 0, 4).status_code == 200
    about = fake.objects[key].about
    assert about["contentType"] == "text/html"
    assert about["contentDisposition"] == "attachment"
    assert about.get("cacheControl") == caches


def test_the_size_may_be_unknown(fake: FakeGcs, storage: GCS, web: requests.Session) -> None:
    start = storage.start_resumable("a", UploadTerms(content_type="video/mp4", size_bytes=None))
    assert send(web, start.uri, bytes(CHUNK), 0, "*").status_code == 308
    assert send(web, start.uri, b"end", CHUNK, CHUNK + 3).status_code == 200
    assert storage.stat("a").size_bytes == CHUNK + 3


# ---- how it goes on


def test_an_upload_survives_breaks(storage: GCS, web: requests.Session) -> None:
    """A short chunk is kept in whole granules, bytes that come twice count once, and a gap is refused."""
    data = os.urandom(SIZE)
    uri = storage.start_resumable("a", TERMS).uri
    assert storage.resumable_progress("a", uri) == going(0)
    assert send(web, uri, data[: CHUNK + 1000], 0, SIZE).headers["Range"] == f"bytes=0-{CHUNK - 1}"
    assert storage.resumable_progress("a", uri) == going(CHUNK)
    assert send(web, uri, data[2 * CHUNK :], 2 * CHUNK, SIZE).status_code == 400
    assert send(web, uri, data[: 2 * CHUNK], 0, SIZE).status_code == 308
    assert storage.resumable_progress("a", uri) == going(2 * CHUNK)
    assert send(web, uri, data[2 * CHUNK :], 2 * CHUNK, SIZE).status_code == 200
    assert storage.resumable_progress("a", uri) == ResumableProgress(
        committed_bytes=SIZE, state=ResumableState.COMPLETE
    )
    assert content(storage, "a") == data


@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1])
def test_another_size_than_announced_is_refused(fake: FakeGcs, storage: GCS, web: requests.Session, size: int) -> None:
    uri = storage.start_resumable("a", TERMS).uri
    assert send(web, uri, bytes(size), 0, size).status_code == 400
    assert fake.objects == {}


def test_an_upload_overwrites_nothing(storage: GCS, web: requests.Session) -> None:
    """Whoever has the URI cannot replace what has come to stand there."""
    uri = storage.start_resumable("a", TERMS).uri
    before = put(storage, "a")
    assert send(web, uri, bytes(SIZE), 0, SIZE).status_code == 412
    assert storage.stat("a") == before


def test_a_complete_upload_takes_no_other_bytes(storage: GCS, web: requests.Session) -> None:
    uri = storage.start_resumable("a", TERMS).uri
    send(web, uri, bytes(SIZE), 0, SIZE)
    before = storage.stat("a")
    send(web, uri, os.urandom(SIZE), 0, SIZE)
    assert storage.stat("a") == before


@pytest.mark.parametrize("state", ["expired", "cancelled"])
def test_what_google_has_forgotten_is_expired(fake: FakeGcs, storage: GCS, state: str) -> None:
    start = storage.start_resumable("a", TERMS)
    fake.state.sessions[start.upload_id].state = state
    assert storage.resumable_progress("a", start.uri) == EXPIRED
    storage.cancel_resumable("a", start.uri)


def test_what_google_never_knew_is_expired(storage: GCS) -> None:
    uri = storage.start_resumable("a", TERMS).uri + "0"
    assert storage.resumable_progress("a", uri) == EXPIRED
    storage.cancel_resumable("a", uri)


@pytest.mark.parametrize(("fault", "error"), [(status(403), StorageDenied), (status(400), StorageError)])
def test_other_refusals_are_told(
    monkeypatch: pytest.MonkeyPatch, fake: FakeGcs, storage: GCS, fault: object, error: type[StorageError]
) -> None:
    hurry(monkeypatch)
    start = storage.start_resumable("a", TERMS)
    fake.script.always.update(status=fault, cancel=fault)
    for ask in (storage.resumable_progress, storage.cancel_resumable):
        with pytest.raises(error):
            ask("a", start.uri)


def test_session_uris_get_no_credentials(fake: FakeGcs, storage: GCS) -> None:
    """They come from a database, and whoever writes there would be handed an access token."""
    start = storage.start_resumable("a", TERMS)
    storage.resumable_progress("a", start.uri)
    storage.cancel_resumable("a", start.uri)
    for operation, request in fake.requests:
        assert ("Authorization" in request.headers) == (operation == "start") or operation == "token"


# ---- other origins


def preflight(web: requests.Session, url: str, origin: str, headers: Mapping[str, str]) -> Mapping[str, str]:
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": ",".join(headers).lower(),
    }
    return web.options(url, headers=asked).headers


def test_a_page_may_put_at_a_signed_url(storage: GCS, web: requests.Session) -> None:
    """With every header that it must send, after the rules are applied; another page may not, nor this one before."""
    terms = PutTerms(expires_in=timedelta(minutes=5), content_type="image/png", size_bytes=4)
    upload = storage.presign_put("incoming/a", terms)
    assert "Access-Control-Allow-Origin" not in preflight(web, upload.url, PAGE, upload.headers)
    storage.apply_cors([PAGE])
    allowed = preflight(web, upload.url, PAGE, upload.headers)
    assert allowed["Access-Control-Allow-Origin"] == PAGE
    assert "PUT" in allowed["Access-Control-Allow-Methods"]
    assert "Access-Control-Allow-Origin" not in preflight(web, upload.url, OTHER_PAGE, upload.headers)
    answer = web.put(upload.url, b"text", headers={**upload.headers, "Origin": PAGE})
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    assert "ETag" in answer.headers["Access-Control-Expose-Headers"]


def test_a_page_sends_to_the_session_that_was_begun_for_it(storage: GCS, web: requests.Session) -> None:
    """Google looks at the origin of the start, and not at the bucket's rules."""
    storage.apply_cors([OTHER_PAGE])
    uri = storage.start_resumable("a", TERMS, origin=PAGE).uri
    allowed = preflight(web, uri, PAGE, {"Content-Range": "", "Content-Type": ""})
    assert allowed["Access-Control-Allow-Origin"] == PAGE
    answer = send(web, uri, bytes(CHUNK), 0, SIZE, Origin=PAGE)
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    assert "Range" in answer.headers["Access-Control-Expose-Headers"]
    assert "Access-Control-Allow-Origin" not in preflight(web, uri, OTHER_PAGE, {"Content-Range": ""})
    assert "Access-Control-Allow-Origin" not in send(web, uri, bytes(CHUNK), CHUNK, SIZE, Origin=OTHER_PAGE).headers


def test_rules_are_replaced(fake: FakeGcs, storage: GCS) -> None:
    storage.apply_cors([PAGE])
    storage.apply_cors([OTHER_PAGE, "http://127.0.0.1:5000"])
    (rule,) = fake.state.cors[fake.bucket]
    assert rule["origin"] == [OTHER_PAGE, "http://127.0.0.1:5000"]
    assert [rule] == storage.cors_rules([OTHER_PAGE, "http://127.0.0.1:5000"])
    storage.apply_cors([])
    assert fake.state.cors[fake.bucket] == []


@pytest.mark.parametrize(
    "origin",
    ["*", "https://*.example.com", "app.example.com", "https://app.example.com/", "https://u@a.example.com", ""],
)
def test_only_exact_origins_are_taken(fake: FakeGcs, storage: GCS, origin: str) -> None:
    ability: ConfiguresCors = storage
    for ask in (ability.cors_rules, ability.apply_cors):
        with pytest.raises(ValueError, match="one such as"):
            ask([PAGE, origin])
    assert fake.bucket not in fake.state.cors


def test_a_start_shows_nothing() -> None:
    start = ResumableStart(uri="https://secret", upload_id="hidden", expires_at=utcnow())
    assert "secret" not in repr(start)
    assert "hidden" not in repr(start)


def test_large_chunks_go_through(storage: GCS, web: requests.Session) -> None:
    data = os.urandom(20 * MB)
    uri = storage.start_resumable("a", UploadTerms(content_type="video/mp4", size_bytes=len(data))).uri
    for at in range(0, len(data), 8 * MB):
        send(web, uri, data[at : at + 8 * MB], at, len(data))
    assert content(storage, "a") == data
