"""S3 keeps the contract, on LocalStack and on Ceph; and what only S3 has."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from s3_servers import S3Server, uploads

from flask_rindle.errors import InvalidKey, ObjectChanged, ObjectNotFound, StorageDenied, StorageError, UploadGone
from flask_rindle.storage import s3 as s3_module
from flask_rindle.storage import s3_moving, s3_reading, s3_writing
from flask_rindle.storage.base import UploadTerms
from flask_rindle.storage.s3 import S3
from flask_rindle.testing.contracts import StorageContract
from flask_rindle.types import MB, ByteRange

TEXT = b"0123456789"
LARGE = bytes(range(256)) * (11 * MB // 256)


@pytest.fixture
def make(make_bucket: Callable[[S3Server], str]) -> Iterator[Callable[..., S3]]:
    """`make(server, **options)`: a storage with an empty bucket."""
    with ExitStack() as stack:

        def make(server: S3Server, **options: Any) -> S3:
            given = {**server.options(options.get("bucket") or make_bucket(server)), **options}
            return stack.enter_context(closing(S3("media", **given)))

        yield make


@pytest.fixture
def storage(s3_server: S3Server, make: Callable[..., S3]) -> S3:
    return make(s3_server)


class TestS3(StorageContract):
    """The contract."""


def put(storage: S3, key: str, data: bytes = TEXT, **options: Any) -> Any:
    return storage.put(key, io.BytesIO(data), **options)


def content(storage: S3, key: str) -> bytes:
    return b"".join(storage.read(key))


def head(server: S3Server, storage: S3, key: str) -> dict[str, Any]:
    return server.client.head_object(Bucket=storage.bucket.options.bucket, Key=key)


def left(server: S3Server, storage: S3) -> list[Any]:
    return uploads(server.client, storage.bucket.options.bucket)


def sent_in_parts(storage: S3, key: str, content_type: str, *, public: bool) -> None:
    upload_id = storage.start_parts(key, UploadTerms(content_type=content_type, size_bytes=None, public=public))
    part = storage.put_part(key, upload_id, 1, io.BytesIO(TEXT), size_bytes=len(TEXT))
    storage.complete_parts(key, upload_id, [part])


def promoted(storage: S3, key: str, content_type: str, *, public: bool) -> None:
    source = put(storage, "incoming/source", content_type="application/x-declared")
    storage.promote("incoming/source", key, etag=source.etag, content_type=content_type, public=public)


def put_small(storage: S3, key: str, content_type: str, *, public: bool) -> None:
    put(storage, key, content_type=content_type, public=public)


def put_large(storage: S3, key: str, content_type: str, *, public: bool) -> None:
    put(storage, key, LARGE, content_type=content_type, public=public)


WRITERS = [put_small, put_large, sent_in_parts, promoted]
Writer = Callable[..., None]


# ---- what objects are stored with


@pytest.mark.parametrize("public", [False, True])
@pytest.mark.parametrize("write", WRITERS)
def test_final_objects_can_be_cached_for_good(s3_server: S3Server, storage: S3, write: Writer, public: bool) -> None:
    """By everybody, or by the one browser that has a link."""
    write(storage, "avatars/a.webp", "image/webp", public=public)
    found = head(s3_server, storage, "avatars/a.webp")
    assert found["CacheControl"] == f"{'public' if public else 'private'}, max-age=31536000, immutable"
    assert found["ContentType"] == "image/webp"
    assert "ContentDisposition" not in found


@pytest.mark.parametrize("write", WRITERS)
def test_staged_objects_are_not_cached(s3_server: S3Server, storage: S3, write: Writer) -> None:
    write(storage, "incoming/a", "image/webp", public=True)
    assert "CacheControl" not in head(s3_server, storage, "incoming/a")


@pytest.mark.parametrize("write", WRITERS)
def test_what_a_browser_might_execute_leaves_as_an_attachment(s3_server: S3Server, storage: S3, write: Writer) -> None:
    """Also through a CDN that nobody signs links for."""
    write(storage, "pages/a", "text/html", public=True)
    assert head(s3_server, storage, "pages/a")["ContentDisposition"] == "attachment"


@pytest.mark.parametrize("write", WRITERS)
def test_objects_are_encrypted_and_classed_as_configured(
    localstack: S3Server, make: Callable[..., S3], write: Writer
) -> None:
    storage = make(localstack, server_side_encryption="AES256", storage_class="STANDARD_IA")
    write(storage, "a", "image/webp", public=False)
    found = head(localstack, storage, "a")
    assert (found["ServerSideEncryption"], found["StorageClass"]) == ("AES256", "STANDARD_IA")


@pytest.mark.parametrize("write", [*WRITERS, lambda *a, **b: put_small(*a, **b)])
@pytest.mark.usefixtures("in_small_parts")
def test_a_key_of_the_key_service_is_named_to_the_server(
    localstack: S3Server, make: Callable[..., S3], write: Writer
) -> None:
    """By whatever makes an object, and by nothing else."""
    storage = make(localstack, server_side_encryption="aws:kms", kms_key_id="key-1")
    named: dict[str, tuple[Any, Any]] = {}

    def note(model: Any, params: dict[str, Any], **_: Any) -> None:
        names = ("x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id")
        named[model.name] = tuple(params["headers"].pop(name, None) for name in names)

    storage.bucket.client().meta.events.register("before-call.s3", note)
    write(storage, "a", "image/webp", public=False)
    makers = {"PutObject", "CreateMultipartUpload", "CopyObject"} & set(named)
    assert makers
    assert {named[name] for name in makers} == {("aws:kms", "key-1")}
    assert {given for name, given in named.items() if name not in makers} <= {(None, None)}


def test_a_put_sends_its_bytes_as_they_are(storage: S3) -> None:
    """No chunks with trailers and no checksum headers, which servers other than AWS refuse or store."""
    sent: list[dict[str, str]] = []
    storage.bucket.client().meta.events.register(
        "before-send.s3", lambda request, **_: sent.append({k.lower(): str(v) for k, v in request.headers.items()})
    )
    put(storage, "small")
    put(storage, "large", LARGE)
    assert len(sent) > 3
    for headers in sent:
        assert not [name for name in headers if "checksum" in name or "trailer" in name or name == "transfer-encoding"]
        assert "aws-chunked" not in headers.get("content-encoding", "")
        assert "STREAMING" not in headers["x-amz-content-sha256"]


# ---- put


SIZES = [0, 1, 5 * MB - 1, 5 * MB, 5 * MB + 1, 10 * MB, 10 * MB + 1]


@pytest.mark.parametrize("size", SIZES)
def test_every_size_around_a_part_is_stored_whole(s3_server: S3Server, storage: S3, size: int) -> None:
    data = (LARGE * 2)[:size]
    stored = put(storage, "a", data, content_type="video/mp4")
    assert stored == storage.stat("a")
    assert stored.size_bytes == size
    assert content(storage, "a") == data
    assert left(s3_server, storage) == []


def test_what_fits_into_one_request_is_sent_in_one(localstack: S3Server, make: Callable[..., S3]) -> None:
    """Its etag is that of its bytes."""
    storage = make(localstack)
    assert "-" not in put(storage, "a", bytes(5 * MB)).etag
    assert put(storage, "a", bytes(5 * MB + 1)).etag.endswith("-2")


def test_a_put_tells_of_its_own_bytes(localstack: S3Server, make: Callable[..., S3]) -> None:
    """Not of those that another one has put there since."""
    storage = make(localstack)
    bucket = storage.bucket.options.bucket
    storage.bucket.client().meta.events.register(
        "after-call.s3.CompleteMultipartUpload",
        lambda **_: localstack.client.put_object(Bucket=bucket, Key="a", Body=b"others"),
    )
    assert put(storage, "a", LARGE).size_bytes == len(LARGE)
    assert storage.stat("a").size_bytes == 6


def test_parts_grow_so_that_ten_thousand_hold_all_that_s3_takes() -> None:
    sizes = [s3_writing.part_bytes(number) for number in range(1, 10_001)]
    assert sizes[:1000] == [5 * MB] * 1000, "as much memory for 5 GB as for 10 MB"
    assert sizes == sorted(sizes)
    assert sum(sizes) >= 5 * 1024 * 1024 * MB
    assert max(sizes) <= 5 * 1024 * MB


def test_grown_parts_are_stored_whole(
    localstack: S3Server, make: Callable[..., S3], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """From memory and from files, which are gone afterwards."""
    monkeypatch.setattr(s3_writing, "PARTS_BEFORE_GROWTH", 1)
    monkeypatch.setattr(s3_writing, "PARTS_OF_ONE_SIZE", 1)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    storage = make(localstack)
    data = LARGE * 4
    assert put(storage, "a", data).etag.endswith("-4"), "5, 10, 20 and 9 MB"
    assert content(storage, "a") == data
    assert list(tmp_path.iterdir()) == []


# ---- read


@pytest.fixture(scope="module")
def read_only(localstack: S3Server) -> Iterator[S3]:
    """With TEXT under `text`."""
    localstack.client.create_bucket(Bucket="rindle-read-only")
    with closing(S3("media", **localstack.options("rindle-read-only"))) as storage:
        put(storage, "text")
        yield storage
    localstack.client.delete_object(Bucket="rindle-read-only", Key="text")
    localstack.client.delete_bucket(Bucket="rindle-read-only")


offsets = st.integers(0, 14) | st.integers(0, 10**30)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=offsets, length=st.none() | offsets)
def test_any_range_is_a_slice(read_only: S3, start: int, length: int | None) -> None:
    stop = None if length is None else start + length
    assert b"".join(read_only.read("text", ByteRange(start, stop))) == TEXT[start:stop]


@pytest.mark.parametrize("size", [0, 1, 2 * MB - 1, 2 * MB, 2 * MB + 1, 11 * MB])
def test_a_copy_has_every_byte(storage: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Whether it is made in one piece or in several at once."""
    monkeypatch.setattr(s3_reading, "PIECE_BYTES", 2 * MB)
    stored = put(storage, "a", LARGE[:size])
    assert storage.save_to("a", tmp_path / "copy") == stored
    assert (tmp_path / "copy").read_bytes() == LARGE[:size]


class Short(io.BytesIO):
    """A body that ends early without an error, as some proxies let it."""


def test_a_body_that_ends_early_is_no_end(localstack: S3Server, make: Callable[..., S3]) -> None:
    """The rest is asked for."""
    storage = make(localstack)
    etag = put(storage, "a").etag
    opened = s3_reading.Opened(Short(TEXT[:3]), 0, len(TEXT), etag)
    assert b"".join(s3_reading.chunks(storage.bucket, "a", opened, MB)) == TEXT


def test_a_rest_that_is_not_there_is_a_change(localstack: S3Server, make: Callable[..., S3]) -> None:
    storage = make(localstack)
    etag = put(storage, "a").etag
    opened = s3_reading.Opened(Short(TEXT), 0, len(TEXT) + 1, etag)
    with pytest.raises(ObjectChanged):
        b"".join(s3_reading.chunks(storage.bucket, "a", opened, MB))


def test_a_copy_is_not_shorter_than_its_object(
    localstack: S3Server, make: Callable[..., S3], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A size that does not fit the bytes is a change."""
    storage = make(localstack)
    put(storage, "a")
    real = storage.bucket.head
    monkeypatch.setattr(storage.bucket, "head", lambda key: {**real(key), "ContentLength": 11})
    with pytest.raises(ObjectChanged):
        storage.save_to("a", tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


def test_a_copy_does_not_overwrite_a_file(storage: S3, tmp_path: Path) -> None:
    put(storage, "a")
    (tmp_path / "copy").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        storage.save_to("a", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"mine"


def test_a_full_disk_is_told_as_it_is(storage: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is this machine's, and no trouble of the storage."""

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    put(storage, "a", LARGE)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left") as caught:
        storage.save_to("a", tmp_path / "copy")
    assert not isinstance(caught.value, StorageError)
    assert list(tmp_path.iterdir()) == []


# ---- parts


def test_parts_are_listed_page_by_page(storage: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_module, "LIST_PAGE", 2)
    upload_id = storage.start_parts("a", UploadTerms(content_type="video/mp4", size_bytes=None))
    sent = [storage.put_part("a", upload_id, number, io.BytesIO(TEXT), size_bytes=10) for number in (1, 3, 4, 7, 9)]
    assert storage.list_parts("a", upload_id) == sent


def test_a_part_is_no_longer_than_it_was_announced(storage: S3) -> None:
    """What the source has more stays in the source."""
    upload_id = storage.start_parts("a", UploadTerms(content_type="video/mp4", size_bytes=None))
    source = io.BytesIO(TEXT)
    assert storage.put_part("a", upload_id, 1, source, size_bytes=4).size_bytes == 4
    assert source.read() == TEXT[4:]


def test_an_object_of_another_size_is_not_the_upload(storage: S3) -> None:
    """After an abort, somebody else's object does not pass for the completed one."""
    put(storage, "a", b"something else")
    upload_id = storage.start_parts("a", UploadTerms(content_type="video/mp4", size_bytes=None))
    part = storage.put_part("a", upload_id, 1, io.BytesIO(TEXT), size_bytes=10)
    storage.abort_parts("a", upload_id)
    with pytest.raises(UploadGone):
        storage.complete_parts("a", upload_id, [part])


# ---- promotion


@pytest.fixture
def in_small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects over 6 MB are copied in parts of 5."""
    monkeypatch.setattr(s3_moving, "LARGEST_COPY_BYTES", 6 * MB)
    monkeypatch.setattr(s3_moving, "COPY_PART_BYTES", 5 * MB)


@pytest.mark.usefixtures("in_small_parts")
def test_what_is_too_large_for_one_copy_is_copied_in_parts(s3_server: S3Server, storage: S3) -> None:
    """With all that a whole copy has, the answer to a repeated call too."""
    source = put(storage, "incoming/a", LARGE, content_type="video/mp4")
    called: list[str] = []
    storage.bucket.client().meta.events.register("before-call.s3", lambda model, **_: called.append(model.name))
    moved = storage.promote("incoming/a", "final/a", etag=source.etag, content_type="video/webm", public=True)
    assert called.count("UploadPartCopy") == 3
    assert moved == storage.stat("final/a")
    assert (moved.size_bytes, moved.content_type) == (len(LARGE), "video/webm")
    assert head(s3_server, storage, "final/a")["CacheControl"].startswith("public")
    assert content(storage, "final/a") == LARGE
    assert storage.promote("incoming/a", "final/a", etag=source.etag) == moved
    with pytest.raises(ObjectNotFound):
        storage.stat("incoming/a")
    assert left(s3_server, storage) == []


@contextmanager
def rewritten_before(server: S3Server, storage: S3, operation: str, data: bytes) -> Iterator[None]:
    """Just before the first such call, a URL that could still write has been used."""
    bucket = storage.bucket.options.bucket
    events, once = storage.bucket.client().meta.events, threading.Lock()

    def rewrite(**_: Any) -> None:
        if once.acquire(blocking=False):
            server.client.put_object(Bucket=bucket, Key="incoming/a", Body=data)

    events.register(f"before-call.s3.{operation}", rewrite)
    yield
    events.unregister(f"before-call.s3.{operation}", rewrite)
    assert once.locked(), "it was not called"


@pytest.mark.parametrize(("operation", "data"), [("CopyObject", TEXT), ("UploadPartCopy", LARGE)])
@pytest.mark.usefixtures("in_small_parts")
def test_a_write_after_the_look_is_noticed_by_the_copy(
    s3_server: S3Server, storage: S3, operation: str, data: bytes
) -> None:
    """The server compares again, at the copy itself: nothing comes to stand at the target."""
    source = put(storage, "incoming/a", data)
    with rewritten_before(s3_server, storage, operation, data[::-1]), pytest.raises(ObjectChanged):
        storage.promote("incoming/a", "final/a", etag=source.etag)
    with pytest.raises(ObjectNotFound):
        storage.stat("final/a")
    assert left(s3_server, storage) == []
    assert content(storage, "incoming/a") == data[::-1]


def test_a_copy_may_have_another_etag(storage: S3) -> None:
    """Not every server's is a hash of the bytes."""
    source = put(storage, "incoming/a")
    storage.bucket.client().meta.events.register(
        "after-call.s3.CopyObject", lambda parsed, **_: parsed["CopyObjectResult"].update(ETag='"another"')
    )
    assert storage.promote("incoming/a", "final/a", etag=source.etag).etag == "another"
    assert content(storage, "final/a") == TEXT


@pytest.mark.parametrize(("operation", "data"), [("CopyObject", TEXT), ("UploadPartCopy", LARGE)])
@pytest.mark.usefixtures("in_small_parts")
def test_every_copy_is_conditional(localstack: S3Server, make: Callable[..., S3], operation: str, data: bytes) -> None:
    """Where the server heeds it, other bytes are never at the target, not even for a moment."""
    storage = make(localstack)
    source = put(storage, "incoming/a", data)
    sent: list[str] = []
    storage.bucket.client().meta.events.register(
        f"before-call.s3.{operation}", lambda params, **_: sent.append(params["headers"]["x-amz-copy-source-if-match"])
    )
    storage.promote("incoming/a", "final/a", etag=source.etag)
    assert set(sent) == {f'"{source.etag}"'}


@pytest.mark.parametrize("data", [TEXT, LARGE], ids=["whole", "parts"])
@pytest.mark.usefixtures("in_small_parts")
def test_two_promoters_get_the_same_answer(storage: S3, data: bytes) -> None:
    source = put(storage, "incoming/a", data)

    def promote(_: int) -> Any:
        return storage.promote("incoming/a", "final/a", etag=source.etag)

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(promote, range(4)))
    assert {(answer.key, answer.size_bytes) for answer in answers} == {("final/a", len(data))}
    assert content(storage, "final/a") == data
    assert storage.promote("incoming/a", "final/a", etag=source.etag) == storage.stat("final/a")


def test_a_promote_that_comes_late_finds_what_the_first_made(s3_server: S3Server, storage: S3) -> None:
    """The source went between its look and its copy."""
    source = put(storage, "incoming/a")
    bucket = storage.bucket.options.bucket
    events = storage.bucket.client().meta.events

    def finish_first(**_: Any) -> None:
        events.unregister("before-call.s3.CopyObject", finish_first)
        storage.promote("incoming/a", "final/a", etag=source.etag)

    events.register("before-call.s3.CopyObject", finish_first)
    assert storage.promote("incoming/a", "final/a", etag=source.etag) == storage.stat("final/a")
    assert [each["Key"] for each in s3_server.client.list_objects_v2(Bucket=bucket)["Contents"]] == ["final/a"]


def test_a_late_write_is_not_removed_by_a_repeated_promote(storage: S3) -> None:
    """It is nobody's business here; the lifecycle rule takes it."""
    source = put(storage, "incoming/a")
    first = storage.promote("incoming/a", "final/a", etag=source.etag)
    put(storage, "incoming/a", b"late")
    assert storage.promote("incoming/a", "final/a", etag=source.etag) == first
    assert content(storage, "incoming/a") == b"late"


def test_an_object_can_be_promoted_where_it_is(s3_server: S3Server, storage: S3) -> None:
    """To have its headers set."""
    source = put(storage, "a", content_type="text/plain")
    moved = storage.promote("a", "a", etag=source.etag, content_type="image/webp", public=True)
    assert moved == storage.stat("a")
    assert content(storage, "a") == TEXT
    assert head(s3_server, storage, "a")["CacheControl"].startswith("public")


# ---- servers that refuse


CALLS: dict[str, Callable[[S3], object]] = {
    "put": lambda storage: put(storage, "a"),
    "put in parts": lambda storage: put(storage, "a", LARGE),
    "read": lambda storage: content(storage, "a"),
    "read nothing": lambda storage: list(storage.read("a", ByteRange(1, 1))),
    "stat": lambda storage: storage.stat("a"),
    "delete": lambda storage: storage.delete("a"),
    "promote": lambda storage: storage.promote("a", "b", etag="any"),
    "start_parts": lambda storage: storage.start_parts("a", UploadTerms(content_type="a/b", size_bytes=None)),
    "list_parts": lambda storage: storage.list_parts("a", "any"),
    "abort all": lambda storage: storage.abort_parts("a", None),
    "cors": lambda storage: storage.apply_cors(["https://app.example.com"]),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_missing_bucket_is_no_missing_object(s3_server: S3Server, make: Callable[..., S3], call: str) -> None:
    """Nobody is told that an upload has not arrived because a name is misspelt."""
    storage = make(s3_server, bucket="rindle-never-made")
    with pytest.raises(StorageError, match="no such bucket") as caught:
        CALLS[call](storage)
    assert type(caught.value) is StorageError


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "wrong", [{"secret_access_key": "wrong"}, {"access_key_id": "NOBODY", "secret_access_key": "x"}]
)
def test_wrong_keys_are_denied(ceph: S3Server, make: Callable[..., S3], wrong: dict[str, str], call: str) -> None:
    """By a server that verifies who asks, which LocalStack does not."""
    with pytest.raises(StorageDenied) as caught:
        CALLS[call](make(ceph, **wrong))
    assert "wrong" not in f"{caught.value} {caught.value.__cause__}"


@pytest.mark.parametrize("call", CALLS)
def test_a_wrong_clock_is_denied(ceph: S3Server, make: Callable[..., S3], call: str) -> None:
    storage = make(ceph)
    then = datetime.now(UTC).replace(tzinfo=None) - timedelta(hours=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("botocore.auth.get_current_datetime", lambda: then)
        with pytest.raises(StorageDenied):
            CALLS[call](storage)


def test_without_credentials_access_is_denied(
    localstack: S3Server, make: Callable[..., S3], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The SDK's own chain finds none."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    storage = make(localstack, access_key_id=None, secret_access_key=None)
    with pytest.raises(StorageDenied):
        storage.stat("a")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    storage.close()
    found = make(localstack, access_key_id=None, secret_access_key=None)
    assert put(found, "a").size_bytes == 10


def test_a_key_is_no_longer_than_s3_takes(storage: S3) -> None:
    """1,024 bytes, which may be fewer characters than keys have elsewhere."""
    longest = "/".join(["🎞" * 50] * 5) + "/" + "a" * 19
    assert len(longest.encode()) == 1024
    put(storage, longest)
    with pytest.raises(InvalidKey):
        put(storage, longest + "a")


# ---- processes and threads


def test_a_forked_process_has_connections_of_its_own(localstack: S3Server, make: Callable[..., S3]) -> None:
    storage = make(localstack)
    put(storage, "a")
    clients = dict(storage.bucket._clients)
    assert clients
    child = os.fork()
    if child == 0:
        status = 1
        try:
            afresh = storage.bucket._clients == {} and storage.bucket._session is None
            status = 0 if afresh and content(storage, "a") == TEXT else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert storage.bucket._clients == clients
    assert content(storage, "a") == TEXT


def test_one_client_serves_all_threads(localstack: S3Server, make: Callable[..., S3]) -> None:
    storage = make(localstack)
    with ThreadPoolExecutor(8) as threads:
        clients = set(threads.map(lambda _: id(storage.bucket.client()), range(32)))
    assert len(clients) == 1


def test_closing_twice_is_quiet(localstack: S3Server, make: Callable[..., S3]) -> None:
    storage = make(localstack)
    put(storage, "a")
    storage.close()
    storage.close()
