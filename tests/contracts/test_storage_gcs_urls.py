"""URLs that GCS signs: made without a request, and good for just what they say at a server that verifies them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import gcs_signatures
import pytest
import requests
from gcs import FakeGcs
from gcs_storages import BASE_URL, open_storage, put

from flask_rindle.errors import CapabilityMissing, MalformedRequest
from flask_rindle.security.names import content_disposition
from flask_rindle.storage.base import Capability, LinkTerms, PresignedUpload, PresignsPut, PutTerms, can
from flask_rindle.storage.gcs import GCS
from flask_rindle.types import utcnow

MINUTES = timedelta(minutes=5)
WEEK = timedelta(days=7)
NAME = "grüße.txt"


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


def link(expires_in: timedelta | None = MINUTES, **terms: Any) -> LinkTerms:
    given = {"content_type": "text/plain", "disposition": "attachment", "filename": NAME, **terms}
    return LinkTerms(expires_in=expires_in, **given)


def presign(storage: GCS, key: str = "incoming/a", expires_in: timedelta = MINUTES) -> PresignedUpload:
    return storage.presign_put(key, PutTerms(expires_in=expires_in, content_type="image/png", size_bytes=4))


# ---- made here


def test_signing_opens_no_socket(monkeypatch: pytest.MonkeyPatch, fake: FakeGcs) -> None:
    """Not even for a token."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("signing opened a socket")

    with closing(open_storage(fake)) as storage:
        monkeypatch.setattr(socket.socket, "connect", refuse)
        monkeypatch.setattr(socket, "getaddrinfo", refuse)
        assert storage.url("a", link())
        assert storage.url("a", link(None))
        assert presign(storage).url
    assert fake.requests == []


def test_a_week_is_the_longest(storage: GCS) -> None:
    assert storage.longest_url == WEEK
    assert storage.url("a", link(WEEK))
    for sign in (lambda life: storage.url("a", link(life)), lambda life: presign(storage, expires_in=life)):
        with pytest.raises(MalformedRequest) as caught:
            sign(WEEK + timedelta(seconds=1))
        assert caught.value.field == "expires_in"
        assert caught.value.problem == "must be at most 604800 seconds"


def test_expiry_is_told_and_never_too_late(storage: GCS) -> None:
    before = utcnow()
    upload = presign(storage)
    assert before + MINUTES - timedelta(seconds=1) <= upload.expires_at <= utcnow() + MINUTES


def test_public_urls_are_plain(storage: GCS) -> None:
    assert storage.url("a b/grüße?#%.png", link(None)) == f"{BASE_URL}/a%20b/gr%C3%BC%C3%9Fe%3F%23%25.png"


def test_without_a_base_there_are_no_public_urls(fake: FakeGcs) -> None:
    with closing(open_storage(fake, public_base_url=None)) as storage:
        assert Capability.PUBLIC_URL not in storage.capabilities
        with pytest.raises(CapabilityMissing):
            storage.url("a", link(None))


def test_without_a_key_nothing_is_signed(monkeypatch: pytest.MonkeyPatch, fake: FakeGcs) -> None:
    """And all the rest works."""
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    fake.anonymous = True
    with closing(open_storage(fake, credentials=None)) as storage:
        assert not storage.capabilities & {Capability.SIGNED_URL, Capability.PRESIGNED_PUT}
        assert not can(storage, PresignsPut)
        for ask in (lambda: storage.url("a", link()), lambda: presign(storage)):
            with pytest.raises(CapabilityMissing):
                ask()
        assert put(storage, "a") == storage.stat("a")


# ---- GET


def test_a_link_downloads(storage: GCS, web: requests.Session) -> None:
    """With the type, the disposition and the name that were asked for, and ranges."""
    put(storage, "odd key/ü%2F.txt", b"0123456789", content_type="text/html")
    url = storage.url("odd key/ü%2F.txt", link())
    answer = web.get(url)
    assert (answer.status_code, answer.content) == (200, b"0123456789")
    assert answer.headers["Content-Type"] == "text/plain"
    assert answer.headers["Content-Disposition"] == content_disposition("attachment", NAME)
    assert web.get(url, headers={"Range": "bytes=2-4"}).content == b"234"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("text%2Fplain", "text%2Fhtml"),
        ("attachment", "inline"),
        ("X-Goog-Expires=300", "X-Goog-Expires=301"),
        ("/incoming/a", "/incoming/b"),
    ],
)
def test_a_link_says_nothing_else(storage: GCS, web: requests.Session, old: str, new: str) -> None:
    for key in ("incoming/a", "incoming/b"):
        put(storage, key)
    url = storage.url("incoming/a", link())
    assert old in url
    assert web.get(url.replace(old, new)).status_code == 403


def test_a_link_expires(monkeypatch: pytest.MonkeyPatch, storage: GCS, web: requests.Session) -> None:
    put(storage, "a")
    url = storage.url("a", link(timedelta(seconds=100)))
    assert web.get(url).status_code == 200
    later(monkeypatch, 101)
    assert web.get(url).status_code == 400


def later(monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    """The server's clock goes on."""
    now = gcs_signatures.clock()
    monkeypatch.setattr(gcs_signatures, "clock", lambda: now + seconds)


# ---- PUT


def test_a_put_takes_the_bytes(fake: FakeGcs, storage: GCS, web: requests.Session) -> None:
    """With all the headers that the client is told to send."""
    upload = presign(storage)
    assert upload.method == "PUT"
    assert web.put(upload.url, b"text", headers=upload.headers).status_code == 200
    stored = storage.stat("incoming/a")
    assert (stored.size_bytes, stored.content_type) == (4, "image/png")


@pytest.mark.parametrize("data", [b"", b"tex", b"text!"])
def test_a_put_of_another_size_is_refused(fake: FakeGcs, storage: GCS, web: requests.Session, data: bytes) -> None:
    upload = presign(storage)
    assert web.put(upload.url, data, headers=upload.headers).status_code == 400
    assert fake.objects == {}


@pytest.mark.parametrize(
    "changed",
    [
        {"Content-Type": "text/html"},
        {"Content-Type": None},
        {"x-goog-content-length-range": "0,100"},
        {"x-goog-content-length-range": None},
        {"x-goog-if-generation-match": None},
        {"x-goog-acl": "public-read"},
        {"x-goog-meta-any": "thing"},
    ],
)
def test_a_put_with_other_headers_is_refused(
    fake: FakeGcs, storage: GCS, web: requests.Session, changed: dict[str, str | None]
) -> None:
    """Nothing that was signed can be left out, and nothing of Google's be added."""
    upload = presign(storage)
    assert web.put(upload.url, b"text", headers={**upload.headers, **changed}).status_code in (400, 403)
    assert fake.objects == {}


def test_a_second_put_changes_nothing(storage: GCS, web: requests.Session) -> None:
    upload = presign(storage)
    assert web.put(upload.url, b"text", headers=upload.headers).status_code == 200
    before = storage.stat("incoming/a")
    assert web.put(upload.url, b"evil", headers=upload.headers).status_code == 412
    assert storage.stat("incoming/a") == before


def test_a_put_expires(monkeypatch: pytest.MonkeyPatch, fake: FakeGcs, storage: GCS, web: requests.Session) -> None:
    upload = presign(storage)
    later(monkeypatch, 301)
    assert web.put(upload.url, b"text", headers=upload.headers).status_code == 400
    assert fake.objects == {}


def test_a_put_is_for_its_key_and_its_method(fake: FakeGcs, storage: GCS, web: requests.Session) -> None:
    put(storage, "incoming/a")
    upload = presign(storage)
    other = upload.url.replace("/incoming/a", "/incoming/b")
    assert web.put(other, b"text", headers=upload.headers).status_code == 403
    assert web.get(upload.url, headers=upload.headers).status_code == 403
    assert web.put(storage.url("incoming/b", link()), b"text").status_code == 403
    assert set(fake.objects) == {"incoming/a"}


def test_a_forged_signature_is_refused(fake: FakeGcs, storage: GCS, web: requests.Session) -> None:
    upload = presign(storage)
    forged = upload.url[:-2] + ("00" if not upload.url.endswith("00") else "11")
    assert web.put(forged, b"text", headers=upload.headers).status_code == 403
    unsigned = upload.url.partition("?")[0]
    assert web.put(unsigned, b"text").status_code == 403
    assert fake.objects == {}


def test_a_signature_of_another_account_is_refused(fake: FakeGcs, storage: GCS, web: requests.Session) -> None:
    stranger = {**fake.credentials, "client_email": "stranger@elsewhere.iam.gserviceaccount.com"}
    with closing(open_storage(fake, credentials=stranger)) as other:
        upload = presign(other)
    assert web.put(upload.url, b"text", headers=upload.headers).status_code == 403
    assert fake.objects == {}


def test_the_url_goes_to_the_bucket(fake: FakeGcs, storage: GCS) -> None:
    parts = urlsplit(presign(storage).url)
    assert f"{parts.scheme}://{parts.netloc}{parts.path}" == f"{fake.url}/{fake.bucket}/incoming/a"
