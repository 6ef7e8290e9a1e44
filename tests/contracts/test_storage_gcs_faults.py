"""GCS in trouble: what is tried again, what is told, that nothing is left and that nothing secret is shown."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from gcs import FakeGcs
from gcs_faults import LOST, RESET, SILENCE, Fault, cut, meanwhile, status
from gcs_storages import content, hurry, open_storage, put

from flask_rindle.errors import (
    ObjectChanged,
    StorageDenied,
    StorageError,
    StorageFull,
    StorageUnavailable,
)
from flask_rindle.storage import gcs_upload
from flask_rindle.storage.base import ResumableState, UploadTerms
from flask_rindle.storage.gcs import GCS
from flask_rindle.types import KB, MB

TERMS = UploadTerms(content_type="image/png", size_bytes=4)
LARGE_BYTES = MB + 1  # more than goes into one request
LARGE = bytes(LARGE_BYTES)
PASSING = {
    "500": status(500),
    "502": status(502),
    "503": status(503),
    "504": status(504),
    "429": status(429),
    "408": status(408),
    "silence": SILENCE,
    "reset": RESET,
    "lost": LOST,
}
LASTING = {
    "403": (status(403), StorageDenied),
    "401": (status(401), StorageDenied),
    "quota": (status(403, "quotaExceeded"), StorageFull),
    "rate": (status(403, "rateLimitExceeded"), StorageUnavailable),
    "412": (status(412), ObjectChanged),
    "400": (status(400), StorageError),
    "503": (status(503), StorageUnavailable),
    "silence": (SILENCE, StorageUnavailable),
    "reset": (RESET, StorageUnavailable),
}


@pytest.fixture
def fake() -> Iterator[FakeGcs]:
    with FakeGcs() as server:
        yield server


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch, fake: FakeGcs) -> Iterator[GCS]:
    hurry(monkeypatch)
    with closing(open_storage(fake)) as gcs:
        put(gcs, "there")
        yield gcs


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For trouble that does not pass."""
    hurry(monkeypatch, give_up_after=0.25)


lasting = pytest.mark.usefixtures("storage", "impatient")

Verb = Callable[[GCS, Path], object]
OPERATIONS: dict[str, tuple[str, Verb]] = {
    "put": ("create", lambda storage, path: put(storage, "new")),
    "large put, start": ("start", lambda storage, path: put(storage, "new", LARGE)),
    "large put, chunk": ("chunk", lambda storage, path: put(storage, "new", LARGE)),
    "read": ("media", lambda storage, path: content(storage, "there")),
    "save_to": ("media", lambda storage, path: storage.save_to("there", path)),
    "stat": ("stat", lambda storage, path: storage.stat("there")),
    "delete": ("delete", lambda storage, path: storage.delete("there")),
    "promote": ("rewrite", lambda storage, path: storage.promote("there", "b", etag=storage.stat("there").etag)),
    "start_resumable": ("start", lambda storage, path: storage.start_resumable("new", TERMS)),
    "apply_cors": ("bucket", lambda storage, path: storage.apply_cors(["https://app.example.com"])),
}
every_operation = pytest.mark.parametrize(("operation", "call"), OPERATIONS.values(), ids=OPERATIONS)


@every_operation
@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_what_passes_is_tried_again(
    fake: FakeGcs, storage: GCS, tmp_path: Path, operation: str, call: Verb, fault: Fault
) -> None:
    """Every call is safe to repeat: it is conditional, or comes to the same."""
    before = fake.asked(operation) + fake.asked("status")
    fake.script.add(operation, fault)
    call(storage, tmp_path / "copy")
    assert fake.asked(operation) + fake.asked("status") > before + 1
    assert (
        content(storage, "there") == b"text" if operation not in ("delete", "rewrite") else "there" not in fake.objects
    )


@lasting
@every_operation
@pytest.mark.parametrize(("fault", "error"), LASTING.values(), ids=LASTING)
def test_what_lasts_is_told(
    fake: FakeGcs, storage: GCS, tmp_path: Path, operation: str, call: Verb, fault: Fault, error: type[StorageError]
) -> None:
    """As the error that it means, with the SDK's own as the cause; and nothing is left behind."""
    fake.script.always[operation] = fault
    if operation in ("delete", "create") and error is ObjectChanged:
        pytest.skip("a condition that does not hold is no error there")
    if operation == "rewrite" and error is ObjectChanged:
        error = StorageUnavailable  # it looked again each time, and nothing had changed
    if operation == "chunk":
        fake.script.always["status"] = fault
    with pytest.raises(StorageError) as caught:
        call(storage, tmp_path / "copy")
    assert type(caught.value) is error
    assert caught.value.__cause__ is not None or operation == "rewrite"
    assert set(fake.objects) == {"there"}
    assert not (tmp_path / "copy").exists()
    assert fake.open_sessions == []


@lasting
def test_credentials_that_are_refused_are_told(fake: FakeGcs, storage: GCS) -> None:
    with closing(open_storage(fake)) as fresh:
        fake.script.always["token"] = status(401)
        with pytest.raises(StorageDenied):
            fresh.stat("there")
        fake.script.always["token"] = RESET
        with pytest.raises(StorageUnavailable):
            fresh.stat("there")


@lasting
def test_nobody_answers(storage: GCS, fake: FakeGcs) -> None:
    with closing(open_storage(fake, endpoint_url="http://127.0.0.1:9")) as nowhere, pytest.raises(StorageUnavailable):
        nowhere.stat("there")


# ---- put


@pytest.mark.parametrize("data", [b"newer", LARGE], ids=["small", "large"])
def test_a_put_whose_answer_was_lost_overwrites_what_it_wrote(fake: FakeGcs, storage: GCS, data: bytes) -> None:
    """And answers about what stands there."""
    fake.script.add("create", LOST)
    fake.script.add("chunk", LOST)
    for key in ("there", "new"):
        stored = put(storage, key, data)
        assert stored == storage.stat(key)
        assert content(storage, key) == data


def test_a_small_put_takes_one_request(fake: FakeGcs, storage: GCS) -> None:
    """To a new key; what stands there already is overwritten by a session."""
    before = len(fake.requests)
    put(storage, "new", bytes(MB))
    assert [operation for operation, _ in fake.requests[before:]] == ["create"]
    put(storage, "new", b"newer")
    assert [operation for operation, _ in fake.requests[before + 1 :]] == ["create", "start", "chunk"]


def test_a_small_put_is_conditional(fake: FakeGcs, storage: GCS) -> None:
    """So that a request which was given up, and arrives after all, overwrites nothing."""
    put(storage, "new")
    (late,) = [request for operation, request in fake.requests if operation == "create"][1:]
    assert late.args["ifGenerationMatch"] == "0"


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcs_upload, "PIECE_BYTES", 512 * KB)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(
    "faults",
    [
        [None, RESET],
        [None, LOST],
        [None, cut(300 * KB)],
        [cut(0), cut(512 * KB), cut(10)],
        [None, None, LOST],
        [None, None, cut(100)],
        [None, status(503), status(503), status(503)],
        [SILENCE, None, SILENCE],
    ],
    ids=str,
)
def test_a_broken_upload_goes_on_where_it_was(fake: FakeGcs, storage: GCS, faults: list[Fault | None]) -> None:
    """Whatever part of a piece has arrived, every byte comes once."""
    data = os.urandom(MB + 100 * KB)
    fake.script.add("chunk", *faults)
    stored = put(storage, "a", data)
    assert fake.objects["a"].data == data
    assert stored == storage.stat("a")
    assert fake.open_sessions == []


@pytest.mark.usefixtures("small_pieces")
def test_only_what_is_missing_is_sent_again(fake: FakeGcs, storage: GCS) -> None:
    """After a break, Google is asked how much has arrived."""
    fake.script.add("chunk", None, cut(300 * KB))
    put(storage, "a", os.urandom(LARGE_BYTES))
    sent = [request.headers["Content-Range"] for operation, request in fake.requests if operation == "chunk"]
    assert sent[1:3] == [f"bytes {512 * KB}-{1024 * KB - 1}/*", f"bytes {768 * KB}-{1024 * KB - 1}/*"]
    assert fake.asked("status") == 1


def test_a_session_that_is_gone_is_not_asked_again(fake: FakeGcs, storage: GCS) -> None:
    fake.script.always["chunk"] = status(410)
    with pytest.raises(StorageUnavailable):
        put(storage, "a", LARGE)
    assert fake.asked("chunk") == 1


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("fault", [status(404), status(410), status(400)], ids=["404", "410", "400"])
def test_a_session_that_is_lost_is_told(fake: FakeGcs, storage: GCS, fault: Fault) -> None:
    """Not as a missing object: another attempt may do."""
    fake.script.add("chunk", None, fault)
    with pytest.raises(StorageError) as caught:
        put(storage, "a", LARGE)
    assert caught.value.retryable
    assert set(fake.objects) == {"there"}


@pytest.mark.usefixtures("small_pieces")
def test_a_session_that_forgets_bytes_is_given_up(fake: FakeGcs, storage: GCS) -> None:
    """They cannot be read from the source again."""

    def forget() -> None:
        (session,) = [fake.state.sessions[upload_id] for upload_id in fake.open_sessions]
        session.data.clear()

    fake.script.add("chunk", None, status(503))
    fake.script.add("status", meanwhile(forget))
    with pytest.raises(StorageUnavailable):
        put(storage, "a", os.urandom(MB))
    assert set(fake.objects) == {"there"}
    assert fake.open_sessions == []


@lasting
def test_a_failed_put_leaves_the_old_object(fake: FakeGcs, storage: GCS) -> None:
    before = storage.stat("there")
    fake.script.always.update(create=RESET, chunk=RESET)
    for data in (b"newer", LARGE):
        with pytest.raises(StorageUnavailable):
            put(storage, "there", data)
        assert storage.stat("there") == before


# ---- secrets


@pytest.fixture
def heard() -> Iterator[list[str]]:
    """Everything that anybody logs, down to DEBUG."""
    sentences: list[str] = []
    handler = logging.Handler(logging.DEBUG)
    handler.emit = lambda record: sentences.append(handler.format(record))  # type: ignore[method-assign]
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield sentences
    root.removeHandler(handler)
    root.setLevel(level)


FAULTS_OF_SESSIONS = {"none": None, "503": status(503), "400": status(400), "reset": RESET, "silence": SILENCE}


@lasting
@pytest.mark.parametrize("fault", FAULTS_OF_SESSIONS.values(), ids=FAULTS_OF_SESSIONS)
def test_session_uris_are_not_shown(fake: FakeGcs, storage: GCS, heard: list[str], fault: Fault | None) -> None:
    """Neither by a log at DEBUG nor by a traceback with all its causes, however the storage fails."""
    start = storage.start_resumable("a", TERMS)
    told = [repr(start), repr(storage)]
    if fault:
        fake.script.always.update(status=fault, chunk=fault, cancel=fault)
    for call in (
        lambda: storage.resumable_progress("a", start.uri),
        lambda: storage.cancel_resumable("a", start.uri),
        lambda: put(storage, "b", LARGE),
    ):
        try:
            told.append(repr(call()))
        except StorageError as error:
            told += traceback.format_exception(error)
    assert heard
    for upload_id in fake.state.sessions:
        assert not [sentence for sentence in (*told, *heard) if upload_id in sentence]


@lasting
def test_session_uris_are_not_shown_when_nobody_answers(storage: GCS, heard: list[str]) -> None:
    """The errors of a connection that is refused quote the whole URL."""
    uri = "http://127.0.0.1:9/upload?uploadType=resumable&upload_id=hidden"
    told: list[str] = []
    for ask in (storage.resumable_progress, storage.cancel_resumable):
        with pytest.raises(StorageUnavailable) as caught:
            ask("a", uri)
        told += traceback.format_exception(caught.value)
    assert any("url" in sentence for sentence in told)
    assert not [sentence for sentence in (*told, *heard) if "upload_id=hidden" in sentence]


def test_signed_urls_and_keys_are_not_shown(fake: FakeGcs, storage: GCS, heard: list[str]) -> None:
    key = fake.credentials["private_key"]
    storage.stat("there")
    told = [repr(storage), repr(storage._bucket._connection.options), *heard]
    line = key.splitlines()[5]
    assert not [sentence for sentence in told if line in sentence]
    tokens = fake._tokens
    assert tokens
    assert not [sentence for sentence in told for token in tokens if token in sentence]


# ---- processes


def test_a_forked_process_shares_no_socket(fake: FakeGcs, storage: GCS) -> None:
    """Both go on at once, each over connections of its own."""
    storage.stat("there")
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            fresh = storage._bucket._connection._open is None
            same = content(storage, "there") == b"text"
            os.write(writing, b"good" if fresh and same else b"bad")
        finally:
            os._exit(0)
    os.close(writing)
    for _ in range(5):
        assert content(storage, "there") == b"text"
    with os.fdopen(reading, "rb") as answer:
        assert answer.read() == b"good"
    os.waitpid(child, 0)


def test_a_fork_does_not_wait_for_another_threads_lock(storage: GCS) -> None:
    with storage._bucket._connection._lock:
        child = os.fork()
        if not child:
            with storage._bucket._connection._lock:
                os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_closed_storage_has_no_connections(fake: FakeGcs, storage: GCS) -> None:
    storage.stat("there")
    client = storage._bucket._connection.authorized
    storage.close()
    assert all(not adapter.poolmanager.pools for adapter in client.adapters.values())


# ---- memory

MEASURE = r"""
import json, re, sys
from pathlib import Path
from flask_rindle.storage.gcs import GCS

class Zeros:
    def __init__(self, size):
        self.left = size
    def read(self, size=-1):
        piece = bytes(min(self.left, size))
        self.left -= len(piece)
        return piece

options, size, folder = json.loads(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
storage = GCS("media", **options)
assert storage.put("large", Zeros(size)).size_bytes == size
assert storage.save_to("large", folder / f"copy-{size}").size_bytes == size
storage.close()
print(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
"""


def test_memory_does_not_grow_with_the_object(fake: FakeGcs, tmp_path: Path) -> None:
    """The peak of put and save_to, in a process of their own. As the kernel counts since exec."""

    def peak(size: int) -> int:
        options = {"bucket": fake.bucket, "credentials": fake.credentials, "endpoint_url": fake.url}
        command = [sys.executable, "-c", MEASURE, json.dumps(options), str(size), str(tmp_path)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) * KB

    small, large = peak(10 * MB), peak(200 * MB)
    assert abs(large - small) < 6 * MB  # not even one piece more


def test_threads_and_faults(fake: FakeGcs, storage: GCS) -> None:
    """Trouble of one thread is not another's."""
    fake.script.add("create", *[RESET, None, status(503), LOST] * 4)
    fake.script.add("chunk", *[LOST, RESET] * 2)
    failures: list[BaseException] = []

    def work(key: str) -> None:
        try:
            for _ in range(3):
                storage.put(key, io.BytesIO(key.encode() * 100_000))
                assert content(storage, key) == key.encode() * 100_000
        except BaseException as error:  # noqa: BLE001 - to be seen by the test
            failures.append(error)

    threads = [threading.Thread(target=work, args=(key,)) for key in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_progress_is_asked_again(fake: FakeGcs, storage: GCS) -> None:
    start = storage.start_resumable("a", TERMS)
    fake.script.add("status", status(503), RESET)
    assert storage.resumable_progress("a", start.uri).state == ResumableState.IN_PROGRESS
    fake.script.add("cancel", status(503), LOST)
    storage.cancel_resumable("a", start.uri)
    assert fake.open_sessions == []
