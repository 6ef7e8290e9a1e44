"""Requests that S3 lets clients make by themselves: each takes what it was signed for, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from s3_sending import Reply, query, send, signed_headers
from s3_servers import S3Server

from flask_rindle.errors import CapabilityMissing, MalformedRequest, ObjectNotFound, TooLarge
from flask_rindle.storage.base import Capability, LinkTerms, PresignedUpload, PutTerms, UploadTerms
from flask_rindle.storage.s3 import S3
from flask_rindle.types import GB, Checksum

DATA = b"0123456789"
TERMS = PutTerms(expires_in=timedelta(minutes=5), content_type="image/webp", size_bytes=len(DATA))
LINK = LinkTerms(
    expires_in=timedelta(minutes=5), content_type="image/webp", disposition="attachment", filename="grün.webp"
)
UPLOAD = UploadTerms(content_type="video/mp4", size_bytes=None)
AWS = {"bucket": "media", "region": "eu-central-1", "access_key_id": "AKID", "secret_access_key": "the-secret"}


@pytest.fixture
def make(make_bucket: Callable[[S3Server], str]) -> Iterator[Callable[..., S3]]:
    """`make(server, **options)`: a storage with an empty bucket."""
    with ExitStack() as stack:
        yield lambda server, **options: stack.enter_context(
            closing(S3("media", **server.options(make_bucket(server), **options)))
        )


@pytest.fixture
def storage(s3_server: S3Server, make: Callable[..., S3]) -> S3:
    return make(s3_server)


@pytest.fixture
def aws() -> Iterator[Callable[..., S3]]:
    """`aws(**options)`: a storage of AWS, which is never asked."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(closing(S3("media", **{**AWS, **options})))


def put(upload: PresignedUpload, body: bytes = DATA, **headers: str | None) -> Reply:
    """The PUT that the upload asks for; a header that is given replaces one of its own, None leaves it out."""
    changed = {name.replace("_", "-").lower(): value for name, value in headers.items()}
    sent = {**{name.lower(): value for name, value in upload.headers.items()}, **changed}
    return send(upload.method, upload.url, {name: value for name, value in sent.items() if value is not None}, body)


def is_missing(storage: S3, key: str) -> bool:
    try:
        storage.stat(key)
    except ObjectNotFound:
        return True
    return False


def checksum(data: bytes) -> Checksum:
    return Checksum("sha256", hashlib.sha256(data).hexdigest())


# ---- a PUT of one object


def test_a_signed_put_takes_its_bytes(storage: S3) -> None:
    reply = put(storage.presign_put("incoming/a b+c%2F", TERMS))
    assert reply.status == 200, reply.body
    stored = storage.stat("incoming/a b+c%2F")
    assert (stored.size_bytes, stored.content_type) == (len(DATA), "image/webp")
    assert reply.headers["etag"] == f'"{stored.etag}"'


WRONG: Mapping[str, tuple[bytes, dict[str, str | None]]] = {
    "longer": (DATA + b"!", {"content_length": "11"}),
    "shorter": (DATA[:-1], {"content_length": "9"}),
    "another type": (DATA, {"content_type": "text/html"}),
    "no type": (DATA, {"content_type": None}),
    "without its condition": (DATA, {"if_none_match": None}),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_signed_put_takes_nothing_else(storage: S3, wrong: str) -> None:
    body, headers = WRONG[wrong]
    assert put(storage.presign_put("incoming/a", TERMS), body, **headers).status == 403
    assert is_missing(storage, "incoming/a")


def test_a_second_put_changes_nothing(storage: S3) -> None:
    """The first bytes are what is verified; the answer tells that they are there."""
    upload = storage.presign_put("incoming/a", TERMS)
    assert put(upload).status == 200
    assert put(upload, DATA[::-1]).status == 412
    assert b"".join(storage.read("incoming/a")) == DATA


def test_the_condition_can_be_switched_off(s3_server: S3Server, make: Callable[..., S3]) -> None:
    """For servers that refuse it."""
    upload = make(s3_server, if_none_match=False).presign_put("incoming/a", TERMS)
    assert "If-None-Match" not in upload.headers
    assert [put(upload).status, put(upload).status] == [200, 200]


def test_an_announced_checksum_is_part_of_the_signature(storage: S3) -> None:
    upload = storage.presign_put("incoming/a", replace(TERMS, checksum=checksum(DATA)))
    other = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    assert put(upload, x_amz_checksum_sha256=other).status == 403
    assert put(upload, x_amz_checksum_sha256=None).status == 403
    assert is_missing(storage, "incoming/a")
    assert put(upload).status == 200


def test_other_bytes_than_the_checksums_are_refused(localstack: S3Server, make: Callable[..., S3]) -> None:
    """By a server that verifies it, which Ceph 16 does not."""
    storage = make(localstack)
    reply = put(storage.presign_put("incoming/a", replace(TERMS, checksum=checksum(DATA))), DATA[::-1])
    assert (reply.status, b"BadDigest" in reply.body) == (400, True)
    assert is_missing(storage, "incoming/a")


@contextmanager
def an_hour_ago() -> Iterator[None]:
    """Signatures are made as of then."""
    then = datetime.now(UTC).replace(tzinfo=None) - timedelta(hours=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("botocore.auth.get_current_datetime", lambda: then)
        yield


def test_an_expired_put_is_refused(storage: S3) -> None:
    with an_hour_ago():
        upload = storage.presign_put("incoming/a", TERMS)
    assert put(upload).status == 403
    assert is_missing(storage, "incoming/a")


def test_a_signature_is_for_one_key_and_one_method(storage: S3) -> None:
    upload = storage.presign_put("incoming/a", TERMS)
    elsewhere = replace(upload, url=upload.url.replace("incoming/a", "incoming/b"))
    assert put(elsewhere).status == 403
    assert send("GET", upload.url).status == 403
    assert send("DELETE", upload.url).status == 403
    assert is_missing(storage, "incoming/b")


def test_a_signature_cannot_be_stretched(storage: S3) -> None:
    upload = storage.presign_put("incoming/a", TERMS)
    longer = replace(upload, url=upload.url.replace("X-Amz-Expires=300", "X-Amz-Expires=3000"))
    assert longer.url != upload.url
    assert put(longer).status == 403
    fewer = replace(upload, url=upload.url.replace("content-length%3B", ""))
    assert fewer.url != upload.url
    assert put(fewer).status == 403


def test_a_wrong_secret_signs_nothing(s3_server: S3Server, make: Callable[..., S3]) -> None:
    assert put(make(s3_server, secret_access_key="another").presign_put("incoming/a", TERMS)).status == 403


ENCRYPTED = {
    "server_side_encryption": "aws:kms",
    "kms_key_id": "arn:aws:kms:eu-central-1:1:key/1",
    "storage_class": "STANDARD_IA",
}


@pytest.mark.parametrize("options", [{}, ENCRYPTED, {"if_none_match": False}], ids=["plain", "encrypted", "repeatable"])
@pytest.mark.parametrize("announced", [None, checksum(DATA)], ids=["", "checksum"])
def test_every_header_that_matters_is_signed(
    aws: Callable[..., S3], options: dict[str, Any], announced: Checksum | None
) -> None:
    """The headers to send are those of the signature, all of them, and Host."""
    upload = aws(**options).presign_put("incoming/a", replace(TERMS, checksum=announced))
    names = {name.lower() for name in upload.headers}
    assert signed_headers(upload.url) == names | {"host"}
    expected = {"content-length", "content-type"}
    expected |= {"if-none-match"} if options.get("if_none_match", True) else set()
    expected |= {"x-amz-checksum-sha256"} if announced else set()
    if options == ENCRYPTED:
        expected |= {
            "x-amz-server-side-encryption",
            "x-amz-server-side-encryption-aws-kms-key-id",
            "x-amz-storage-class",
        }
    assert names == expected
    assert upload.headers["Content-Length"] == "10"


def test_the_checksum_is_sent_in_base64(aws: Callable[..., S3]) -> None:
    upload = aws().presign_put("incoming/a", replace(TERMS, checksum=checksum(DATA)))
    assert base64.b64decode(upload.headers["x-amz-checksum-sha256"]) == hashlib.sha256(DATA).digest()


def test_no_checksum_that_nobody_asked_for_is_signed(aws: Callable[..., S3]) -> None:
    """Some releases of the SDK add them by themselves unless told, and servers other than AWS refuse them."""
    storage = aws(public_endpoint="https://files.example.com")
    for client in (storage.bucket.client(), storage.bucket.client("https://files.example.com")):
        assert client.meta.config.request_checksum_calculation == "when_required"
        assert client.meta.config.response_checksum_validation == "when_required"
    urls = [
        storage.presign_put("incoming/a", TERMS).url,
        storage.presign_part("a", "id", 1, size_bytes=10, expires_in=LINK.expires_in).url,
        storage.url("a", LINK),
    ]
    for url in urls:
        assert "checksum" not in url.lower()
        assert query(url)["X-Amz-Algorithm"] == "AWS4-HMAC-SHA256"


def test_a_signature_tells_when_it_expires(aws: Callable[..., S3]) -> None:
    upload = aws().presign_put("incoming/a", replace(TERMS, expires_in=timedelta(seconds=90, milliseconds=900)))
    parts = query(upload.url)
    signed_at = datetime.strptime(parts["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    assert parts["X-Amz-Expires"] == "90"
    assert timedelta(0) <= signed_at + timedelta(seconds=90) - upload.expires_at <= timedelta(seconds=5)


TOO_LONG = timedelta(days=7, seconds=1)


@pytest.mark.parametrize("expires_in", [TOO_LONG, timedelta(0), timedelta(seconds=-1)])
def test_no_url_lives_longer_than_a_week_or_not_at_all(aws: Callable[..., S3], expires_in: timedelta) -> None:
    storage = aws()
    calls: list[Callable[[], object]] = [
        lambda: storage.url("a", replace(LINK, expires_in=expires_in)),
        lambda: storage.presign_put("a", replace(TERMS, expires_in=expires_in)),
        lambda: storage.presign_part("a", "id", 1, size_bytes=1, expires_in=expires_in),
    ]
    for call in calls:
        with pytest.raises(MalformedRequest) as caught:
            call()
        assert caught.value.field == "expires_in"
    assert storage.url("a", replace(LINK, expires_in=storage.longest_url))


def test_a_put_of_more_than_five_gigabytes_is_not_signed(aws: Callable[..., S3]) -> None:
    assert aws().presign_put("a", replace(TERMS, size_bytes=5 * GB))
    with pytest.raises(TooLarge) as caught:
        aws().presign_put("a", replace(TERMS, size_bytes=5 * GB + 1))
    assert (caught.value.limit_bytes, caught.value.size_bytes) == (5 * GB, 5 * GB + 1)


# ---- a PUT of one part


def test_a_signed_part_takes_its_size(storage: S3) -> None:
    upload_id = storage.start_parts("a", UPLOAD)
    upload = storage.presign_part("a", upload_id, 2, size_bytes=len(DATA), expires_in=timedelta(minutes=5))
    assert put(upload, DATA + b"!", content_length="11").status == 403
    assert put(upload, DATA[:-1], content_length="9").status == 403
    assert storage.list_parts("a", upload_id) == []
    reply = put(upload)
    assert reply.status == 200
    (part,) = storage.list_parts("a", upload_id)
    assert (part.number, part.size_bytes, f'"{part.etag}"') == (2, len(DATA), reply.headers["etag"])
    assert signed_headers(upload.url) == {"host", "content-length"}
    assert dict(upload.headers) == {"Content-Length": "10"}


def test_a_signed_part_is_for_one_number_of_one_upload(storage: S3) -> None:
    upload_id, other = storage.start_parts("a", UPLOAD), storage.start_parts("a", UPLOAD)
    upload = storage.presign_part("a", upload_id, 2, size_bytes=len(DATA), expires_in=timedelta(minutes=5))
    assert put(replace(upload, url=upload.url.replace("partNumber=2", "partNumber=3"))).status == 403
    assert put(replace(upload, url=upload.url.replace(upload_id, other))).status == 403
    assert storage.list_parts("a", upload_id) == storage.list_parts("a", other) == []


def test_a_signed_part_of_an_aborted_upload_is_refused(storage: S3) -> None:
    upload_id = storage.start_parts("a", UPLOAD)
    upload = storage.presign_part("a", upload_id, 1, size_bytes=len(DATA), expires_in=timedelta(minutes=5))
    storage.abort_parts("a", upload_id)
    assert put(upload).status == 404


# ---- links


def test_a_signed_link_answers_as_it_was_made(storage: S3) -> None:
    """Type, name and life are of the link, whatever the object was stored with."""
    storage.put("a", io.BytesIO(DATA), content_type="text/html")
    reply = send("GET", storage.url("a", LINK))
    assert (reply.status, reply.body) == (200, DATA)
    assert reply.headers["content-type"] == "image/webp"
    assert reply.headers["content-disposition"].startswith('attachment; filename="grun.webp"')
    assert "filename*=UTF-8''gr%C3%BCn.webp" in reply.headers["content-disposition"]
    assert reply.headers["cache-control"] == "private, max-age=300, immutable"


@pytest.mark.parametrize("change", [("image%2Fwebp", "text%2Fhtml"), ("attachment", "inline"), ("/a?", "/b?")])
def test_a_signed_link_cannot_be_changed(storage: S3, change: tuple[str, str]) -> None:
    storage.put("a", io.BytesIO(DATA))
    storage.put("b", io.BytesIO(DATA))
    url = storage.url("a", LINK)
    assert url.replace(*change) != url
    assert send("GET", url.replace(*change)).status == 403


def test_an_expired_link_is_refused(storage: S3) -> None:
    storage.put("a", io.BytesIO(DATA))
    with an_hour_ago():
        url = storage.url("a", LINK)
    assert send("GET", url).status == 403


def test_a_link_serves_ranges(storage: S3) -> None:
    storage.put("a", io.BytesIO(DATA))
    reply = send("GET", storage.url("a", LINK), {"Range": "bytes=2-4"})
    assert (reply.status, reply.body) == (206, DATA[2:5])


def test_a_permanent_link_leads_to_the_public_address(aws: Callable[..., S3]) -> None:
    storage = aws(public_base_url="https://cdn.example.com/media/")
    assert Capability.PUBLIC_URL in storage.capabilities
    permanent = replace(LINK, expires_in=None)
    assert storage.url("grüße/a b+c%2F?#.webp", permanent) == (
        "https://cdn.example.com/media/gr%C3%BC%C3%9Fe/a%20b%2Bc%252F%3F%23.webp"
    )


def test_without_a_public_address_there_is_no_permanent_link(aws: Callable[..., S3]) -> None:
    storage = aws()
    assert Capability.PUBLIC_URL not in storage.capabilities
    with pytest.raises(CapabilityMissing) as caught:
        storage.url("a", replace(LINK, expires_in=None))
    assert caught.value.capability == Capability.PUBLIC_URL


# ---- where the server is


ADDRESSES: Mapping[str, tuple[dict[str, Any], str]] = {
    "aws": ({}, "https://media.s3.eu-central-1.amazonaws.com/a?"),
    "aws, path": ({"path_style": True}, "https://s3.eu-central-1.amazonaws.com/media/a?"),
    "own": ({"endpoint_url": "https://s3.example.com:8443"}, "https://s3.example.com:8443/media/a?"),
    "own, virtual": (
        {"endpoint_url": "https://s3.example.com", "path_style": False},
        "https://media.s3.example.com/a?",
    ),
    "public": (
        {"endpoint_url": "http://minio:9000", "public_endpoint": "https://files.example.com"},
        "https://files.example.com/media/a?",
    ),
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_urls_lead_to_the_address_that_browsers_know(aws: Callable[..., S3], address: str) -> None:
    options, beginning = ADDRESSES[address]
    storage = aws(**options)
    urls = (
        storage.url("a", LINK),
        storage.presign_put("a", TERMS).url,
        storage.presign_part("a", "id", 1, size_bytes=1, expires_in=timedelta(minutes=5)).url,
    )
    assert [url[: len(beginning)] for url in urls] == [beginning] * 3


def test_a_public_endpoint_is_for_browsers_only(s3_server: S3Server, make: Callable[..., S3]) -> None:
    """The server's own calls go the short way; what browsers are given works at the other name."""
    storage = make(s3_server, public_endpoint=f"http://localhost:{s3_server.port}")
    upload = storage.presign_put("incoming/a", TERMS)
    assert upload.url.startswith(f"http://localhost:{s3_server.port}/")
    assert put(upload).status == 200
    assert storage.bucket.client().meta.endpoint_url == s3_server.endpoint_url
    assert storage.stat("incoming/a").size_bytes == len(DATA)


def test_a_bucket_can_be_part_of_the_name_of_the_server(ceph: S3Server, make: Callable[..., S3]) -> None:
    storage = make(ceph, public_endpoint=f"http://localhost:{ceph.port}", endpoint_url=None, path_style=False)
    upload = storage.presign_put("incoming/a", TERMS)
    assert upload.url.startswith(f"http://{storage.bucket.options.bucket}.localhost:{ceph.port}/incoming/a?")
    assert send("PUT", upload.url, upload.headers, DATA, port=ceph.port).status == 200


# ---- pages of other origins


PAGE = "https://app.example.com"


def preflight(url: str, origin: str, headers: Mapping[str, str]) -> Reply:
    wanted = ", ".join(sorted(name.lower() for name in headers if name.lower() not in ("content-length", "host")))
    asked = {"Origin": origin, "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": wanted}
    return send("OPTIONS", url, asked)


def test_pages_of_an_allowed_origin_can_send(storage: S3) -> None:
    """A preflight of what the PUT sends passes, and its answer can be read."""
    storage.apply_cors([PAGE, "http://localhost:5000"])
    upload = storage.presign_put("incoming/a", replace(TERMS, checksum=checksum(DATA)))
    allowed = preflight(upload.url, PAGE, upload.headers)
    assert (allowed.status, allowed.headers["access-control-allow-origin"]) == (200, PAGE)
    assert int(allowed.headers["access-control-max-age"]) > 0
    reply = put(upload, origin=PAGE)
    assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, PAGE)
    assert "etag" in reply.headers["access-control-expose-headers"].lower()


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "https://app.example.com.evil.example", "http://app.example.com"]
)
def test_pages_of_other_origins_cannot(storage: S3, origin: str) -> None:
    storage.apply_cors([PAGE])
    upload = storage.presign_put("incoming/a", TERMS)
    refused = preflight(upload.url, origin, upload.headers)
    assert refused.status == 403
    assert "access-control-allow-origin" not in refused.headers
    assert "access-control-allow-origin" not in put(upload, origin=origin).headers


def test_rules_replace_the_ones_before(storage: S3) -> None:
    storage.apply_cors([PAGE])
    storage.apply_cors(["https://other.example.com"])
    upload = storage.presign_put("incoming/a", TERMS)
    assert preflight(upload.url, PAGE, upload.headers).status == 403
    assert preflight(upload.url, "https://other.example.com", upload.headers).status == 200


@pytest.mark.parametrize("options", [{}, ENCRYPTED, {"if_none_match": False}], ids=["plain", "encrypted", "repeatable"])
def test_rules_allow_what_a_put_sends(aws: Callable[..., S3], options: dict[str, Any]) -> None:
    storage = aws(**options)
    (rule,) = storage.cors_rules([PAGE])["CORSRules"]
    upload = storage.presign_put("a", replace(TERMS, checksum=checksum(DATA)))
    assert {name.lower() for name in upload.headers} | {"range"} == set(rule["AllowedHeaders"])
    assert set(rule["AllowedMethods"]) == {"PUT", "GET", "HEAD"}
    assert {"ETag", "Content-Range", "Content-Length", "Retry-After"} <= set(rule["ExposeHeaders"])


@pytest.mark.parametrize(
    "origin",
    ["*", "https://*.example.com", "app.example.com", "https://app.example.com/", "https://a b", "ftp://a", "null", ""],
)
def test_only_exact_origins_are_allowed(aws: Callable[..., S3], origin: str) -> None:
    with pytest.raises(ValueError, match=r"https://app\.example\.com"):
        aws().cors_rules([PAGE, origin])
