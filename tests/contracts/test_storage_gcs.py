"""GCS keeps the contract, on a fake that checks what Google checks and on an emulator that somebody else wrote."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import gcs_json
import pytest
from gcs import FakeGcs
from gcs_emulator import emulator
from gcs_faults import LOST, cut, meanwhile, status
from gcs_storages import content, hurry, open_storage, put

from flask_rindle.errors import ObjectChanged, ObjectNotFound, StorageDenied, StorageError, StorageUnavailable
from flask_rindle.storage import gcs_upload
from flask_rindle.storage.base import CHUNK_BYTES, UploadTerms
from flask_rindle.storage.gcs import GCS
from flask_rindle.testing.contracts import StorageContract, lint_storage
from flask_rindle.testing.contracts.trial import CHECKS, Check
from flask_rindle.types import KB, MB, ByteRange

YEAR = "max-age=31536000, immutable"


@pytest.fixture
def fake() -> Iterator[FakeGcs]:
    with FakeGcs() as server:
        yield server


@pytest.fixture
def storage(fake: FakeGcs) -> Iterator[GCS]:
    with closing(open_storage(fake)) as gcs:
        yield gcs


class TestGCS(StorageContract):
    """The contract."""


def test_nothing_is_left_after_use(fake: FakeGcs, storage: GCS) -> None:
    """No object and no session, after every sort of failure."""
    assert lint_storage(storage) == []
    assert fake.objects == {}
    assert fake.open_sessions == []


# ---- the emulator

REWRITE = "the emulator's rewrite drops the metadata that it is sent"
CANCEL = "the emulator does not cancel: 501"
EMULATOR_BREAKS = {
    "promoting_tells_what_the_bytes_turned_out_to_be": REWRITE,
    "promoting_twice_gives_the_same_answer": REWRITE,
    "late_write_leaves_the_promoted_object": REWRITE,
    "resumable_progress_tells_committed_bytes": "the emulator calls an empty upload `bytes=0-0`",
    "complete_resumable_upload_says_so": "the emulator forgets an upload that is complete: 404",
    "cancelling_ends_a_resumable_upload": CANCEL,
    "cancelling_a_resumable_upload_too_late_leaves_the_object": CANCEL,
    "resumable_uploads_keep_apart": CANCEL,
    "resumable_upload_hides_its_uri": CANCEL,
}


@pytest.fixture(scope="module")
def emulated() -> Iterator[GCS]:
    """A storage on the emulator; its access tokens are the fake's, and the emulator looks at none."""
    with FakeGcs() as fake, emulator(fake.bucket) as url, closing(open_storage(fake, endpoint_url=url)) as gcs:
        yield gcs


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(
            check,
            id=check.name,
            marks=[pytest.mark.xfail(reason=EMULATOR_BREAKS[check.name], strict=False)]
            if check.name in EMULATOR_BREAKS
            else [],
        )
        for check in CHECKS
    ],
)
def test_the_emulator_agrees(emulated: GCS, check: Check) -> None:
    if not check.applies_to(emulated):
        pytest.skip("GCS does not declare it")
    check.run(emulated)


# ---- what is kept beside the bytes


@pytest.mark.parametrize(
    ("key", "public", "kept"),
    [("a.png", True, f"public, {YEAR}"), ("a.png", False, f"private, {YEAR}"), ("incoming/a", True, None)],
)
def test_caches_are_told(fake: FakeGcs, storage: GCS, key: str, public: bool, kept: str | None) -> None:
    """For good, because a key is never written twice; and nothing of what is staged, which is never served."""
    put(storage, key, content_type="image/png", public=public)
    assert fake.objects[key].about.get("cacheControl") == kept


@pytest.mark.parametrize(
    ("content_type", "kept"),
    [("image/png", None), ("text/html", "attachment"), ("image/svg+xml", "attachment"), (None, "attachment")],
)
def test_what_a_browser_might_execute_is_an_attachment(
    fake: FakeGcs, storage: GCS, content_type: str | None, kept: str | None
) -> None:
    put(storage, "a", content_type=content_type)
    assert fake.objects["a"].about.get("contentDisposition") == kept


def test_class_and_encryption_key_are_set(fake: FakeGcs) -> None:
    """Of what stays; what is staged is not charged for the months that a cold class costs at least."""
    key = "projects/p/locations/l/keyRings/r/cryptoKeys/k"
    with closing(open_storage(fake, kms_key_name=key, storage_class="NEARLINE")) as storage:
        etag = put(storage, "incoming/a").etag
        assert fake.objects["incoming/a"].about.get("storageClass") is None
        assert fake.objects["incoming/a"].kms_key_name == key
        storage.promote("incoming/a", "final", etag=etag)
    assert fake.objects["final"].about["storageClass"] == "NEARLINE"
    assert fake.objects["final"].kms_key_name == key


# ---- put


@pytest.mark.parametrize("size", [0, 1, 256 * KB - 1, 256 * KB, 256 * KB + 1, 768 * KB, 768 * KB + 1])
def test_every_size_arrives(monkeypatch: pytest.MonkeyPatch, storage: GCS, size: int) -> None:
    """Also one that fills its pieces exactly."""
    monkeypatch.setattr(gcs_upload, "PIECE_BYTES", 256 * KB)
    data = os.urandom(size)
    stored = put(storage, "a", data)
    assert content(storage, "a") == data
    assert stored == storage.stat("a")


def test_put_tells_of_its_own_bytes(fake: FakeGcs, storage: GCS) -> None:
    """The answer is the upload's own, so another writer just after it does no harm."""
    stored = put(storage, "a", b"ours")
    assert fake.asked("stat") == 0
    put(storage, "a", b"another's")
    assert storage.stat("a").etag != stored.etag


def test_bytes_that_changed_on_the_way_are_not_kept(
    monkeypatch: pytest.MonkeyPatch, fake: FakeGcs, storage: GCS
) -> None:
    write = fake.state.write
    monkeypatch.setattr(fake.state, "write", lambda bucket, name, data, *a, **k: write(bucket, name, b"?", *a, **k))
    with pytest.raises(StorageUnavailable):
        put(storage, "a", b"text")
    assert fake.objects == {}


# ---- read and save_to


def test_a_read_is_of_one_version(fake: FakeGcs, storage: GCS) -> None:
    """When the connection breaks and the object is another by then, the rest of it is not mixed in."""
    put(storage, "a", bytes(3 * MB))
    fake.script.add("media", cut(2 * MB))
    chunks = storage.read("a")
    fake.script.add("media", meanwhile(partial(put, storage, "a", b"x" * 3 * MB)))
    with pytest.raises(ObjectChanged):
        b"".join(chunks)


@pytest.mark.parametrize("byte_range", [None, ByteRange(1), ByteRange(MB, 5 * MB)])
def test_a_read_goes_on_after_breaks(fake: FakeGcs, storage: GCS, byte_range: ByteRange | None) -> None:
    data = os.urandom(6 * MB)
    put(storage, "a", data)
    fake.script.add("media", cut(MB + 7), cut(0), cut(100))
    wanted = byte_range or ByteRange(0)
    assert b"".join(storage.read("a", byte_range)) == data[wanted.start : wanted.stop]
    assert fake.asked("media") == 4


def test_a_read_does_not_go_on_for_ever(fake: FakeGcs, storage: GCS) -> None:
    put(storage, "a", bytes(20 * MB))
    fake.script.always["media"] = cut(MB)
    with pytest.raises(StorageUnavailable):
        content(storage, "a")
    assert fake.asked("media") == 6


def test_what_is_stored_compressed_is_read_as_it_is_stored(fake: FakeGcs, storage: GCS) -> None:
    """Or the verified bytes and the size would be of something else."""
    fake.state.write(fake.bucket, "a", b"\x1f\x8b not really", {"contentEncoding": "gzip"})
    assert content(storage, "a") == b"\x1f\x8b not really"
    assert b"".join(storage.read("a", ByteRange(2, 5))) == b" no"


@pytest.mark.parametrize("byte_range", [None, ByteRange(2, 5)])
def test_a_download_in_chunks_of_the_transfer_is_read(
    monkeypatch: pytest.MonkeyPatch, storage: GCS, byte_range: ByteRange | None
) -> None:
    """Without a Content-Length, the size is the stored one."""
    put(storage, "a", b"0123456789")
    send_bytes = gcs_json.send_bytes

    def chunked(request: Any, blob: Any) -> Any:
        response = send_bytes(request, blob)
        response.response = iter([response.get_data()])
        del response.headers["Content-Length"]
        return response

    monkeypatch.setattr(gcs_json, "send_bytes", chunked)
    assert b"".join(storage.read("a", byte_range)) == (b"234" if byte_range else b"0123456789")


def test_another_range_than_asked_for_is_refused(monkeypatch: pytest.MonkeyPatch, storage: GCS) -> None:
    """A server or proxy that ignores ranges would have its first bytes taken for others."""
    put(storage, "a", b"0123456789")
    send_bytes = gcs_json.send_bytes

    def whole(request: Any, blob: Any) -> Any:
        request.environ.pop("HTTP_RANGE", None)
        return send_bytes(request, blob)

    monkeypatch.setattr(gcs_json, "send_bytes", whole)
    with pytest.raises(StorageUnavailable):
        storage.read("a", ByteRange(2, 5))


def test_a_dropped_read_gives_up_its_connection(fake: FakeGcs, storage: GCS) -> None:
    put(storage, "a", bytes(30 * MB))
    chunks = storage.read("a")
    next(chunks)
    download = chunks.gi_frame.f_locals["self"]  # type: ignore[attr-defined]
    del chunks
    assert download._answer.raw.closed


def test_a_copy_is_of_one_version(fake: FakeGcs, storage: GCS, tmp_path: Path) -> None:
    """Overwritten between the two requests: the newer one, whole, and told of truly."""
    put(storage, "a", b"old")
    fake.script.add("media", meanwhile(partial(put, storage, "a", b"newer")))
    stored = storage.save_to("a", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"newer"
    assert stored == storage.stat("a")


def test_a_copy_of_what_never_stands_still_is_given_up(fake: FakeGcs, storage: GCS, tmp_path: Path) -> None:
    put(storage, "a", b"old")
    fake.script.always["media"] = meanwhile(partial(put, storage, "a", b"newer"))
    with pytest.raises(StorageUnavailable):
        storage.save_to("a", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_copy_that_breaks_leaves_no_file(fake: FakeGcs, storage: GCS, tmp_path: Path) -> None:
    put(storage, "a", bytes(10 * MB))
    fake.script.always["media"] = cut(MB)
    with pytest.raises(StorageUnavailable):
        storage.save_to("a", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_copy_does_not_replace_a_file(storage: GCS, tmp_path: Path) -> None:
    (tmp_path / "copy").write_bytes(b"mine")
    put(storage, "a")
    with pytest.raises(FileExistsError):
        storage.save_to("a", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"mine"


def test_threads_share_a_storage(storage: GCS) -> None:
    """Each its own key, all over the same connections."""
    data = {f"{number}": os.urandom(300 * KB) for number in range(8)}
    failures: list[object] = []

    def work(key: str) -> None:
        for _ in range(3):
            put(storage, key, data[key])
            if content(storage, key) != data[key]:
                failures.append(key)

    threads = [threading.Thread(target=work, args=(key,)) for key in data]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# ---- promote


def test_the_promoted_object_has_what_it_is_served_with(fake: FakeGcs, storage: GCS) -> None:
    """The verified type, its caches and disposition, and nothing that the sender may have put beside the bytes."""
    about = {"contentType": "text/html", "contentEncoding": "gzip", "contentDisposition": "attachment"}
    etag = str(fake.state.write(fake.bucket, "incoming/a", b"png", about).generation)
    stored = storage.promote("incoming/a", "final", etag=etag, content_type="image/png", public=True)
    kept = {"contentType": "image/png", "cacheControl": f"public, {YEAR}", "metadata": {"rindle-source": etag}}
    assert fake.objects["final"].about == kept
    assert stored == storage.stat("final")
    assert stored.content_type == "image/png"


def test_a_large_object_takes_several_requests(fake: FakeGcs, storage: GCS) -> None:
    fake.rewrite_bytes = 100 * KB
    data = os.urandom(450 * KB)
    storage.promote("a", "b", etag=put(storage, "a", data).etag)
    assert fake.asked("rewrite") == 5
    assert content(storage, "b") == data


@pytest.mark.parametrize("operation", ["rewrite", "delete"])
def test_a_lost_answer_does_no_harm(
    monkeypatch: pytest.MonkeyPatch, fake: FakeGcs, storage: GCS, operation: str
) -> None:
    hurry(monkeypatch)
    etag = put(storage, "a").etag
    fake.script.add(operation, LOST)
    stored = storage.promote("a", "b", etag=etag)
    assert storage.stat("b") == stored
    assert storage.promote("a", "b", etag=etag) == stored
    assert set(fake.objects) == {"b"}


def test_a_source_that_stayed_goes_with_the_next_call(
    monkeypatch: pytest.MonkeyPatch, fake: FakeGcs, storage: GCS
) -> None:
    """And the target keeps its generation."""
    hurry(monkeypatch)
    etag = put(storage, "a").etag
    fake.script.add("delete", status(403))
    with pytest.raises(StorageError):
        storage.promote("a", "b", etag=etag)
    generation = fake.objects["b"].generation
    assert storage.promote("a", "b", etag=etag).etag == str(generation)
    assert set(fake.objects) == {"b"}


def test_a_rewrite_at_the_last_moment_is_refused(fake: FakeGcs, storage: GCS) -> None:
    """After we looked and before Google copies: nothing unverified comes to the target."""
    etag = put(storage, "a").etag
    fake.script.add("rewrite", meanwhile(partial(put, storage, "a", b"late")))
    with pytest.raises(ObjectChanged):
        storage.promote("a", "b", etag=etag)
    assert set(fake.objects) == {"a"}


def test_a_rewrite_in_the_middle_of_a_long_copy_is_refused(fake: FakeGcs, storage: GCS) -> None:
    fake.rewrite_bytes = 100 * KB
    etag = put(storage, "a", bytes(250 * KB)).etag
    fake.script.add("rewrite", None, meanwhile(partial(put, storage, "a", b"late")))
    with pytest.raises(ObjectChanged):
        storage.promote("a", "b", etag=etag)
    assert set(fake.objects) == {"a"}


def test_a_late_write_before_the_source_is_removed_stays(fake: FakeGcs, storage: GCS) -> None:
    """Only what was promoted is removed."""
    etag = put(storage, "a").etag
    fake.script.add("delete", meanwhile(partial(put, storage, "a", b"late")))
    storage.promote("a", "b", etag=etag)
    assert content(storage, "a") == b"late"
    assert content(storage, "b") == b"text"


def test_two_promoters_agree(fake: FakeGcs, storage: GCS) -> None:
    """The second comes in just before the first copies; both answer with the one copy."""
    etag = put(storage, "a").etag
    answers = []
    second = partial(storage.promote, "a", "b", etag=etag)
    fake.script.add("rewrite", meanwhile(lambda: answers.append(second())))
    answers.append(storage.promote("a", "b", etag=etag))
    assert answers[0] == answers[1] == storage.stat("b")


def test_two_promoters_copy_once(monkeypatch: pytest.MonkeyPatch, fake: FakeGcs, storage: GCS) -> None:
    """The second has copied and not yet removed the source: the first does not copy over it."""
    hurry(monkeypatch)
    etag = put(storage, "a").etag
    generations = []

    def second() -> None:
        with pytest.raises(StorageDenied):
            storage.promote("a", "b", etag=etag)
        generations.append(str(fake.objects["b"].generation))

    fake.script.add("rewrite", meanwhile(second))
    fake.script.add("delete", status(403))
    assert [storage.promote("a", "b", etag=etag).etag] == generations
    assert set(fake.objects) == {"b"}


def test_what_stood_at_the_target_is_replaced(storage: GCS) -> None:
    put(storage, "b", b"something else")
    stored = storage.promote("a", "b", etag=put(storage, "a").etag)
    assert content(storage, "b") == b"text"
    assert stored == storage.stat("b")


def test_an_object_can_be_promoted_where_it_is(storage: GCS) -> None:
    """It gets its verified type, and is not deleted as its own source."""
    etag = put(storage, "a", content_type="text/html").etag
    first = storage.promote("a", "a", etag=etag, content_type="image/png")
    assert storage.stat("a") == first
    assert first.content_type == "image/png"
    assert storage.promote("a", "a", etag=etag, content_type="image/png") == first


# ---- a bucket that is not there

VERBS: dict[str, Callable[[GCS, Path], object]] = {
    "put": lambda storage, path: put(storage, "a"),
    "read": lambda storage, path: storage.read("a"),
    "stat": lambda storage, path: storage.stat("a"),
    "delete": lambda storage, path: storage.delete("a"),
    "save_to": lambda storage, path: storage.save_to("a", path),
    "promote": lambda storage, path: storage.promote("a", "b", etag="1"),
    "start_resumable": lambda storage, path: storage.start_resumable(
        "a", UploadTerms(content_type="image/png", size_bytes=1)
    ),
    "apply_cors": lambda storage, path: storage.apply_cors(["https://app.example.com"]),
}


@pytest.mark.parametrize("call", VERBS.values(), ids=VERBS)
def test_a_missing_bucket_is_no_missing_object(fake: FakeGcs, call: Callable[[GCS, Path], Any], tmp_path: Path) -> None:
    with closing(open_storage(fake, bucket="no-such-bucket")) as storage, pytest.raises(StorageError) as caught:
        call(storage, tmp_path / "copy")
    assert not isinstance(caught.value, ObjectNotFound)
    assert "bucket" in str(caught.value)


def test_chunks_are_bounded(storage: GCS) -> None:
    put(storage, "a", bytes(5 * MB + 1))
    assert max(map(len, storage.read("a"))) == CHUNK_BYTES


def test_a_source_that_breaks_ends_the_session(monkeypatch: pytest.MonkeyPatch, fake: FakeGcs, storage: GCS) -> None:
    """After the first piece has gone out."""
    monkeypatch.setattr(gcs_upload, "PIECE_BYTES", 256 * KB)

    class Breaks(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() >= 500 * KB:
                raise ConnectionError("the sender hung up")
            return super().read(size)

    with pytest.raises(ConnectionError, match="the sender hung up"):
        storage.put("a", Breaks(bytes(MB)))
    assert fake.asked("chunk") == 2
    assert fake.open_sessions == []
    assert fake.objects == {}
