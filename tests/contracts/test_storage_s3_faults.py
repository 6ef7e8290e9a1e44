"""S3 when its server or the network fails, request by request: asked again where that is safe, and nothing left."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from s3_proxy import Answer, Asked, Cut, Fault, Proxy, ReplyLost, Reset, Silence
from s3_servers import S3Server, uploads

from flask_rindle.errors import (
    ObjectChanged,
    ObjectNotFound,
    StorageDenied,
    StorageError,
    StorageFull,
    StorageUnavailable,
)
from flask_rindle.storage import s3_bucket, s3_moving, s3_reading
from flask_rindle.storage.base import Part, UploadTerms
from flask_rindle.storage.s3 import S3
from flask_rindle.types import MB, ByteRange

LARGE = bytes(range(256)) * (6 * MB // 256)  # two parts
TERMS = UploadTerms(content_type="video/mp4", size_bytes=None)
ATTEMPTS = s3_bucket.ATTEMPTS


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK asks again at once, and gives up soon."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)
    monkeypatch.setattr(s3_bucket, "READ_SECONDS", 1)
    monkeypatch.setattr(s3_reading, "PIECE_BYTES", 4 * MB)


@dataclass
class Line:
    """A storage behind a proxy, and a client that goes past it."""

    storage: S3
    proxy: Proxy
    client: Any
    bucket: str

    def listen(self) -> None:
        """Forget what was asked so far."""
        self.proxy.asked.clear()

    def left(self) -> list[dict[str, Any]]:
        """The uploads that were begun and are not over."""
        return uploads(self.client, self.bucket)

    def keys(self) -> set[str]:
        return {each["Key"] for each in self.client.list_objects_v2(Bucket=self.bucket).get("Contents", ())}


@pytest.fixture
def line(localstack: S3Server, make_bucket: Callable[[S3Server], str]) -> Iterator[Line]:
    bucket = make_bucket(localstack)
    with Proxy(localstack.port) as proxy:
        options = localstack.options(bucket, endpoint_url=proxy.endpoint_url)
        with closing(S3("media", **options)) as storage:
            storage.delete("nothing")  # it has seen its bucket
            yield Line(storage, proxy, localstack.client, bucket)


# ---- one request fails, and is made again


class Work:
    """Something that a storage does: `prepare` without faults, and then the call, whose answer tells what it did."""

    def __init__(self, line: Line, folder: Path) -> None:
        self.line = line
        self.storage = line.storage
        self.path = folder / "copy"
        self.path.unlink(missing_ok=True)

    def prepare(self) -> None:
        there = {"Bucket": self.line.bucket, "Key": "there", "ContentType": "image/webp"}
        self.etag = self.line.client.put_object(Body=LARGE, **there)["ETag"].strip('"')

    def call(self) -> Any:
        raise NotImplementedError


class PutSmall(Work):
    def prepare(self) -> None:
        return

    def call(self) -> Any:
        return self.storage.put("new", io.BytesIO(b"small")).size_bytes, b"".join(self.storage.read("new"))


class PutLarge(PutSmall):
    def call(self) -> Any:
        stored = self.storage.put("new", io.BytesIO(LARGE))
        head = self.line.client.head_object(Bucket=self.line.bucket, Key="new")
        return stored.etag == head["ETag"].strip('"'), stored.size_bytes, head["ContentLength"]


class Read(Work):
    def call(self) -> Any:
        return hashlib.sha256(b"".join(self.storage.read("there"))).digest()


class ReadNothing(Work):
    def call(self) -> Any:
        return list(self.storage.read("there", ByteRange(3, 3)))


class Save(Work):
    def call(self) -> Any:
        self.storage.save_to("there", self.path)
        return hashlib.sha256(self.path.read_bytes()).digest()


class Delete(Work):
    def call(self) -> Any:
        self.storage.delete("there")
        return self.line.keys()


class Promote(Work):
    def prepare(self) -> None:
        super().prepare()
        self.line.client.delete_object(Bucket=self.line.bucket, Key="final")

    def call(self) -> Any:
        promoted = self.storage.promote("there", "final", etag=self.etag)
        return promoted.size_bytes, promoted.content_type, self.line.keys()


class StartAndAbort(PutSmall):
    def call(self) -> Any:
        upload_id = self.storage.start_parts("parts", TERMS)
        listed = self.storage.list_parts("parts", upload_id)
        self.storage.abort_parts("parts", upload_id)
        return listed


class AbortAll(Work):
    def prepare(self) -> None:
        self.storage.start_parts("parts", TERMS)

    def call(self) -> Any:
        self.storage.abort_parts("parts", None)
        return self.line.left()


class UploadInParts(PutSmall):
    def call(self) -> Any:
        upload_id = self.storage.start_parts("parts", TERMS)
        part = self.storage.put_part("parts", upload_id, 1, io.BytesIO(b"one"), size_bytes=3)
        stored = self.storage.complete_parts("parts", upload_id, [part])
        return stored.size_bytes, stored.content_type


WORKS = [PutSmall, PutLarge, Read, ReadNothing, Save, Delete, Promote, StartAndAbort, AbortAll, UploadInParts]
PASSING: list[Fault] = [
    Answer(500, "InternalError"),
    Answer(503, "SlowDown"),
    Reset(),
    ReplyLost(),
]


@pytest.mark.parametrize("fault", PASSING, ids=str)
@pytest.mark.parametrize("kind", WORKS)
def test_any_one_request_may_fail(line: Line, tmp_path: Path, kind: type[Work], fault: Fault) -> None:
    """Whichever it is, the work is done as if it had not, and no upload is left over."""
    work = kind(line, tmp_path)
    work.prepare()
    line.listen()
    expected = work.call()
    asked = len(line.proxy.asked)
    assert asked
    for index in range(asked):
        work = kind(line, tmp_path)
        work.prepare()
        line.listen()
        line.proxy.script = [None] * index + [fault]
        assert work.call() == expected, f"request {index}: {line.proxy.asked[index]}"
        assert len(line.proxy.asked) > asked, "the fault did not happen"
        assert line.left() == [], f"request {index}: {line.proxy.asked[index]}"


@pytest.mark.parametrize("kind", [PutSmall, Read, Promote])
def test_a_server_that_is_silent_is_asked_again(line: Line, tmp_path: Path, kind: type[Work]) -> None:
    """After the time-out."""
    work = kind(line, tmp_path)
    work.prepare()
    expected = work.call()
    work.prepare()
    line.listen()
    line.proxy.script = [Silence()]
    assert work.call() == expected
    assert str(line.proxy.asked[0]) == str(line.proxy.asked[1])


# ---- every request fails


# What it means, and what it means on a HEAD, whose answer has a status and no words.
LASTING: list[tuple[Fault, type[StorageError], type[StorageError]]] = [
    (Answer(500, "InternalError"), StorageUnavailable, StorageUnavailable),
    (Answer(503, "SlowDown"), StorageUnavailable, StorageUnavailable),
    (Answer(403, "RequestTimeTooSkewed"), StorageDenied, StorageDenied),
    (Answer(403, "AccessDenied"), StorageDenied, StorageDenied),
    (Answer(403, "SignatureDoesNotMatch"), StorageDenied, StorageDenied),
    (Answer(400, "ExpiredToken"), StorageDenied, StorageError),
    (Answer(403, "QuotaExceeded"), StorageFull, StorageDenied),
    (Answer(507, "InsufficientStorage"), StorageFull, StorageFull),
    (Answer(418, "ImATeapot"), StorageError, StorageError),
    (Answer(404, "NoSuchBucket"), StorageError, ObjectNotFound),
    (Reset(), StorageUnavailable, StorageUnavailable),
]


@pytest.mark.parametrize(("fault", "error", "of_head"), LASTING, ids=str)
@pytest.mark.parametrize("kind", [PutSmall, PutLarge, Read, Save, Promote, UploadInParts])
def test_what_lasts_leaves_as_our_own_error(
    line: Line, tmp_path: Path, kind: type[Work], fault: Fault, error: type[StorageError], of_head: type[StorageError]
) -> None:
    """With the SDK's own as its cause."""
    work = kind(line, tmp_path)
    work.prepare()
    line.proxy.rule = lambda asked: fault
    with pytest.raises(StorageError) as caught:
        work.call()
    line.proxy.rule = lambda asked: None
    assert type(caught.value) is (of_head if line.proxy.asked[-1].method == "HEAD" else error)
    assert caught.value.storage == "media"
    assert type(caught.value.__cause__).__module__.startswith("botocore")
    assert not work.path.exists()


def test_the_text_of_an_error_has_no_signature(line: Line) -> None:
    """Nor has that of its cause: both are logged."""
    line.proxy.rule = lambda asked: Answer(403, "SignatureDoesNotMatch")
    with pytest.raises(StorageDenied) as caught:
        line.storage.stat("a")
    texts = f"{caught.value} {caught.value.__cause__} {caught.value!r} {caught.value.__cause__!r}"
    assert "Signature=" not in texts
    assert "Credential" not in texts


def sends_a_part(asked: Asked) -> bool:
    return asked.method == "PUT" and "partNumber=" in asked.target


def completes(asked: Asked) -> bool:
    return asked.method == "POST" and "uploadId=" in asked.target


@pytest.mark.parametrize("fault", [Answer(500, "InternalError"), Answer(403, "AccessDenied"), Reset()], ids=str)
@pytest.mark.parametrize("doomed", [sends_a_part, completes])
def test_a_put_that_fails_leaves_nothing(line: Line, doomed: Callable[[Asked], bool], fault: Fault) -> None:
    """Neither an object nor parts, and the old object stands."""
    old = line.storage.put("old", io.BytesIO(b"old"))
    line.proxy.rule = lambda asked: fault if doomed(asked) else None
    for key in ("old", "new"):
        with pytest.raises(StorageError):
            line.storage.put(key, io.BytesIO(LARGE))
    line.proxy.rule = lambda asked: None
    assert line.left() == []
    assert line.storage.stat("old") == old
    assert line.keys() == {"old"}


@pytest.mark.parametrize("error", [RuntimeError("hung up"), KeyboardInterrupt()], ids=repr)
def test_a_source_that_breaks_leaves_nothing(line: Line, error: BaseException) -> None:
    """Its own error comes out unchanged, and the parts that were sent are removed."""

    class Breaks(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 21 * MB:
                raise error
            return super().read(size)

    with pytest.raises(type(error)) as caught:
        line.storage.put("new", Breaks(LARGE * 4))
    assert caught.value is error
    assert any(sends_a_part(asked) for asked in line.proxy.asked), "parts were sent"
    assert line.left() == []
    assert line.keys() == set()


def test_an_abort_that_fails_does_not_hide_the_error(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    line.proxy.rule = lambda asked: Answer(403, "AccessDenied") if "uploadId=" in asked.target else None
    with pytest.raises(StorageDenied):
        line.storage.put("new", io.BytesIO(LARGE))
    assert "could not be removed" in caplog.text
    assert len(line.left()) == 1


def test_a_completion_whose_every_answer_is_lost_has_happened(line: Line) -> None:
    """The server is asked what has become of it."""
    line.proxy.rule = lambda asked: ReplyLost() if completes(asked) else None
    stored = line.storage.put("new", io.BytesIO(LARGE))
    assert stored == line.storage.stat("new")
    upload_id = line.storage.start_parts("parts", TERMS)
    part = line.storage.put_part("parts", upload_id, 1, io.BytesIO(b"one"), size_bytes=3)
    assert line.storage.complete_parts("parts", upload_id, [part]).size_bytes == 3


def test_anothers_object_is_not_taken_for_ours(line: Line) -> None:
    """A put whose upload has gone, while another put has come: it did not store these bytes."""

    def steal(asked: Asked) -> Fault:
        if completes(asked):
            for upload in line.left():
                line.client.abort_multipart_upload(Bucket=line.bucket, Key="new", UploadId=upload["UploadId"])
            line.client.put_object(Bucket=line.bucket, Key="new", Body=LARGE)
        return None

    line.proxy.rule = steal
    with pytest.raises(StorageUnavailable):
        line.storage.put("new", io.BytesIO(LARGE))


def test_an_upload_of_somebody_else_is_not_taken_for_an_unanswered_one(line: Line) -> None:
    """One that began long before."""
    mine = line.storage.start_parts("parts", TERMS)
    part = line.storage.put_part("parts", mine, 1, io.BytesIO(b"one"), size_bytes=3)
    begun = line.left()[0]["Initiated"]
    line.storage.bucket.client().meta.events.register(
        "after-call.s3.ListMultipartUploads",
        lambda parsed, **_: [
            each.update(Initiated=begun.replace(year=begun.year - 1))
            for each in parsed["Uploads"]
            if each["UploadId"] == mine
        ],
    )
    line.proxy.script = [ReplyLost()]
    other = line.storage.start_parts("parts", TERMS)
    assert {each["UploadId"] for each in line.left()} == {mine, other}
    assert line.storage.list_parts("parts", mine) == [part]


# ---- a move that breaks off


@pytest.fixture
def in_small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects over 5 MB are copied in parts of 5."""
    monkeypatch.setattr(s3_moving, "LARGEST_COPY_BYTES", 5 * MB)
    monkeypatch.setattr(s3_moving, "COPY_PART_BYTES", 5 * MB)


@pytest.mark.parametrize("fault", PASSING, ids=str)
@pytest.mark.usefixtures("in_small_parts")
def test_any_one_request_of_a_move_in_parts_may_fail(line: Line, tmp_path: Path, fault: Fault) -> None:
    test_any_one_request_may_fail(line, tmp_path, Promote, fault)


@pytest.mark.parametrize("fault", [Answer(500, "InternalError"), Answer(403, "AccessDenied"), Reset()], ids=str)
@pytest.mark.parametrize("doomed", [sends_a_part, completes])
@pytest.mark.usefixtures("in_small_parts")
def test_a_move_in_parts_that_fails_leaves_the_source(
    line: Line, doomed: Callable[[Asked], bool], fault: Fault
) -> None:
    source = line.storage.put("incoming/a", io.BytesIO(LARGE))
    line.proxy.rule = lambda asked: fault if doomed(asked) else None
    with pytest.raises(StorageError):
        line.storage.promote("incoming/a", "final", etag=source.etag)
    line.proxy.rule = lambda asked: None
    assert line.left() == []
    assert line.keys() == {"incoming/a"}
    assert line.storage.promote("incoming/a", "final", etag=source.etag) == line.storage.stat("final")


def test_a_move_that_could_not_remove_its_source_is_finished_by_the_next(line: Line) -> None:
    """With the same answer."""
    source = line.storage.put("incoming/a", io.BytesIO(b"text"))
    line.proxy.rule = lambda asked: Answer(503, "SlowDown") if asked.method == "DELETE" else None
    with pytest.raises(StorageUnavailable):
        line.storage.promote("incoming/a", "final", etag=source.etag)
    assert line.keys() == {"incoming/a", "final"}
    standing = line.storage.stat("final")
    line.proxy.rule = lambda asked: None
    line.listen()
    assert line.storage.promote("incoming/a", "final", etag=source.etag) == standing
    assert not any(asked.method == "PUT" for asked in line.proxy.asked), "it was copied again"
    assert line.keys() == {"final"}


# ---- a body that breaks off


def test_a_read_goes_on_where_it_broke(line: Line) -> None:
    """Under the condition that it is the same version, and in the end all bytes are there."""
    etag = line.storage.put("a", io.BytesIO(LARGE)).etag
    line.listen()
    line.proxy.script = [Cut(1000), Cut(0), Cut(3 * MB), Cut(7)]
    assert b"".join(line.storage.read("a")) == LARGE
    again = line.proxy.asked[1:]
    assert [asked.headers["If-Match"] for asked in again] == [f'"{etag}"'] * 4
    starts = [int(asked.headers["Range"].removeprefix("bytes=").partition("-")[0]) for asked in again]
    assert starts == sorted(starts)
    assert starts[0] <= 1000


def test_a_range_goes_on_where_it_broke(line: Line) -> None:
    line.storage.put("a", io.BytesIO(LARGE))
    line.proxy.script = [Cut(1000), Cut(1000)]
    assert b"".join(line.storage.read("a", ByteRange(500, 2 * MB))) == LARGE[500 : 2 * MB]


def test_a_read_that_breaks_again_and_again_ends(line: Line) -> None:
    line.storage.put("a", io.BytesIO(LARGE))
    line.listen()
    line.proxy.rule = lambda asked: Cut(10)
    with pytest.raises(StorageUnavailable):
        b"".join(line.storage.read("a"))
    assert len(line.proxy.asked) == 1 + s3_reading.RESUMES


def test_a_read_does_not_go_on_with_another_version(line: Line) -> None:
    line.storage.put("a", io.BytesIO(LARGE))
    line.proxy.script = [Cut(1000)]
    chunks = line.storage.read("a")
    line.client.put_object(Bucket=line.bucket, Key="a", Body=LARGE[::-1])
    with pytest.raises(ObjectChanged):
        b"".join(chunks)


def test_a_copy_goes_on_where_it_broke(line: Line, tmp_path: Path) -> None:
    """Each of its pieces."""
    line.storage.put("a", io.BytesIO(LARGE))
    line.proxy.script = [None, Cut(1000), Cut(2 * MB)]
    line.storage.save_to("a", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == LARGE


def test_a_copy_that_fails_leaves_no_file(line: Line, tmp_path: Path) -> None:
    line.storage.put("a", io.BytesIO(LARGE))
    line.proxy.rule = lambda asked: Cut(10) if asked.method == "GET" else None
    with pytest.raises(StorageUnavailable):
        line.storage.save_to("a", tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


def test_a_copy_is_of_one_version(line: Line, tmp_path: Path) -> None:
    """One that was rewritten after its first bytes is begun anew."""
    line.storage.put("a", io.BytesIO(LARGE))
    other = LARGE[::-1] + b"more"
    rewritten: list[Any] = []

    def rewrite(asked: Asked) -> Fault:
        if asked.method == "GET" and not rewritten:
            rewritten.append(line.client.put_object(Bucket=line.bucket, Key="a", Body=other))
        return None

    line.proxy.rule = rewrite
    stored = line.storage.save_to("a", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == other
    assert stored == line.storage.stat("a")


def test_a_copy_of_what_is_always_rewritten_is_refused(line: Line, tmp_path: Path) -> None:
    line.storage.put("a", io.BytesIO(LARGE))
    times = iter(range(1000))

    def rewrite(asked: Asked) -> Fault:
        if asked.method == "GET":
            line.client.put_object(Bucket=line.bucket, Key="a", Body=f"{next(times)}".encode() * 10 * MB)
        return None

    line.proxy.rule = rewrite
    with pytest.raises(ObjectChanged):
        line.storage.save_to("a", tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_ignores_the_range_is_not_believed(line: Line) -> None:
    line.storage.put("a", io.BytesIO(b"0123456789"))
    line.storage.bucket.client().meta.events.register(
        "before-send.s3.GetObject", lambda request, **_: request.headers.__delitem__("Range")
    )
    with pytest.raises(StorageError):
        b"".join(line.storage.read("a", ByteRange(5, 7)))


def test_parts_of_a_gone_upload_are_told_from_trouble(line: Line) -> None:
    """A server in trouble does not end an upload."""
    upload_id = line.storage.start_parts("parts", TERMS)
    line.proxy.rule = lambda asked: Answer(503, "SlowDown")
    with pytest.raises(StorageUnavailable):
        line.storage.complete_parts("parts", upload_id, [Part(number=1, size_bytes=3, etag="any")])
