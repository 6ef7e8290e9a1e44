"""The contract finds storages that break a promise about resumable uploads: memory, sabotaged one method at a time."""

from __future__ import annotations

import http.server
import io
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from flask_rindle.errors import ObjectNotFound, StorageError, UploadGone
from flask_rindle.storage.base import (
    ResumableProgress,
    ResumableStart,
    ResumableState,
    Storage,
    UploadsResumably,
    UploadTerms,
)
from flask_rindle.testing.contracts import StorageContract, lint_storage
from flask_rindle.testing.contracts.resumable import Refused, put
from flask_rindle.testing.contracts.trial import CHECKS
from flask_rindle.testing.storages import ResumableMemory
from flask_rindle.types import KB

SABOTAGES: list[tuple[str, type[Storage]]] = []
logger = logging.getLogger(__name__)


def breaks(*checks: str) -> Callable[[type[Storage]], type[Storage]]:
    """Enlist the class as breaking these promises."""

    def enlist(storage: type[Storage]) -> type[Storage]:
        SABOTAGES.extend((check, storage) for check in checks)
        return storage

    return enlist


@pytest.mark.parametrize(("check", "kind"), SABOTAGES, ids=lambda value: getattr(value, "__name__", value))
def test_sabotage_is_reported(check: str, kind: type[Storage]) -> None:
    """By the list and by the test that has the promise's name."""
    assert check in {problem.split(":")[0] for problem in lint_storage(kind("media"))}
    with pytest.raises(Exception):  # noqa: B017, PT011 - what a broken adapter raises is open
        getattr(StorageContract(), f"test_{check}")(kind("media"))


def test_every_check_can_fail() -> None:
    about = {check.name for check in CHECKS if check.needs is UploadsResumably}
    assert about == {check for check, _ in SABOTAGES}


def test_an_intact_storage_has_no_problems() -> None:
    assert lint_storage(ResumableMemory("media")) == []


def test_a_check_leaves_nothing_behind() -> None:
    storage = ResumableMemory("media")
    lint_storage(storage)
    assert storage._objects == {}
    assert storage.uploads == {}


# ---- sending over HTTP


class Listener(http.server.BaseHTTPRequestHandler):
    """Notes what comes, and answers with the status of the server."""

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heard.append((self.path, self.headers["Content-Range"], data))  # type: ignore[attr-defined]
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def listener() -> Iterator[http.server.HTTPServer]:
    with http.server.HTTPServer(("127.0.0.1", 0), Listener) as server:
        server.heard, server.status = [], 308  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("data", "at", "last", "content_range"),
    [
        (b"0123", 0, False, "bytes 0-3/*"),
        (b"0123", 4, False, "bytes 4-7/*"),
        (b"0123", 4, True, "bytes 4-7/8"),
        (b"", 8, True, "bytes */8"),
    ],
)
def test_bytes_are_put_with_their_place(
    listener: http.server.HTTPServer, data: bytes, at: int, last: bool, content_range: str
) -> None:
    put(f"http://127.0.0.1:{listener.server_port}/u?upload_id=1", data, at=at, last=last)
    assert listener.heard == [("/u?upload_id=1", content_range, data)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("status", [400, 404, 410, 499, 503])
def test_a_refusal_is_told(listener: http.server.HTTPServer, status: int) -> None:
    listener.status = status  # type: ignore[attr-defined]
    with pytest.raises(Refused):
        put(f"http://127.0.0.1:{listener.server_port}/u?upload_id=1", b"x", at=0, last=True)


# ---- sabotage


@breaks("resumable_upload_cannot_be_seen_before_its_end")
class MakesTheObjectAtOnce(ResumableMemory):
    def start_resumable(self, key: str, terms: UploadTerms, *, origin: str | None = None) -> ResumableStart:
        start = super().start_resumable(key, terms, origin=origin)
        self.put(key, io.BytesIO(b""))
        return start


@breaks("resumable_upload_cannot_be_seen_before_its_end", "cancelling_ends_a_resumable_upload")
class ShowsHalfAnObject(ResumableMemory):
    def send(self, uri: str, data: bytes, *, last: bool = False) -> None:
        key = self.uploads[uri].key if uri in self.uploads else ""
        super().send(uri, data, last=last)
        if not last:
            self.put(key, io.BytesIO(data))


@breaks("resumable_progress_tells_committed_bytes")
class BeginsWithAByte(ResumableMemory):
    """As one emulator does: `Range: bytes=0-0` when there is nothing."""

    def resumable_progress(self, key: str, uri: str) -> ResumableProgress:
        progress = super().resumable_progress(key, uri)
        return replace(progress, committed_bytes=max(1, progress.committed_bytes))


@breaks("resumable_progress_tells_committed_bytes")
class TellsTheLastByteAndNotTheCount(ResumableMemory):
    def resumable_progress(self, key: str, uri: str) -> ResumableProgress:
        progress = super().resumable_progress(key, uri)
        return replace(progress, committed_bytes=max(0, progress.committed_bytes - 1))


@breaks("resumable_upload_goes_on_from_what_is_committed")
class BeginsAgainOnEachRequest(ResumableMemory):
    def send(self, uri: str, data: bytes, *, last: bool = False) -> None:
        if uri in self.uploads:
            self.uploads[uri].data.clear()
        super().send(uri, data, last=last)


@breaks("resumable_upload_goes_on_from_what_is_committed")
class LosesTheType(ResumableMemory):
    def start_resumable(self, key: str, terms: UploadTerms, *, origin: str | None = None) -> ResumableStart:
        return super().start_resumable(key, replace(terms, content_type="text/plain"), origin=origin)


@breaks("resumable_upload_takes_any_size")
class NeedsTheSize(ResumableMemory):
    def start_resumable(self, key: str, terms: UploadTerms, *, origin: str | None = None) -> ResumableStart:
        self._check(key)
        if terms.size_bytes is None:
            raise StorageError(self.name, key)
        return super().start_resumable(key, terms, origin=origin)


@breaks("resumable_upload_takes_any_size")
class TakesWholeChunksOnly(ResumableMemory):
    def send(self, uri: str, data: bytes, *, last: bool = False) -> None:
        super().send(uri, data[: len(data) // (256 * KB) * 256 * KB], last=last)


@breaks("complete_resumable_upload_says_so")
class ForgetsWhatIsComplete(ResumableMemory):
    """As one emulator does: 404 to whoever asks after the end."""

    def resumable_progress(self, key: str, uri: str) -> ResumableProgress:
        progress = super().resumable_progress(key, uri)
        return progress if uri in self.uploads else replace(progress, state=ResumableState.EXPIRED)


@breaks("complete_resumable_upload_says_so")
class ForgetsTheSize(ResumableMemory):
    def resumable_progress(self, key: str, uri: str) -> ResumableProgress:
        progress = super().resumable_progress(key, uri)
        return progress if uri in self.uploads else replace(progress, committed_bytes=0)


@breaks("cancelling_ends_a_resumable_upload")
class CancelsNothing(ResumableMemory):
    def cancel_resumable(self, key: str, uri: str) -> None:
        self._check(key)


@breaks("cancelling_ends_a_resumable_upload", "cancelling_a_resumable_upload_too_late_leaves_the_object")
class ComplainsOnTheSecondCancel(ResumableMemory):
    def cancel_resumable(self, key: str, uri: str) -> None:
        self._check(key)
        if self.uploads.pop(uri, None) is None:
            raise UploadGone(self.name, key)


@breaks("cancelling_ends_a_resumable_upload")
class TakesBytesAfterACancel(ResumableMemory):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.cancelled: set[str] = set()

    def cancel_resumable(self, key: str, uri: str) -> None:
        self._check(key)
        self.cancelled.add(uri)

    def resumable_progress(self, key: str, uri: str) -> ResumableProgress:
        progress = super().resumable_progress(key, uri)
        return replace(progress, state=ResumableState.EXPIRED) if uri in self.cancelled else progress


@breaks("cancelling_a_resumable_upload_too_late_leaves_the_object")
class CancelsTheObjectToo(ResumableMemory):
    def cancel_resumable(self, key: str, uri: str) -> None:
        super().cancel_resumable(key, uri)
        self.delete(key)


@breaks("resumable_uploads_keep_apart")
class HasOneUpload(ResumableMemory):
    """All bytes go to the upload that began last."""

    def send(self, uri: str, data: bytes, *, last: bool = False) -> None:
        if uri not in self.uploads:
            raise UploadGone(self.name, uri)
        *_, latest = self.uploads
        self.uploads[latest].data += data
        super().send(uri, b"", last=last)


@breaks("resumable_uploads_keep_apart")
class CancelsEverything(ResumableMemory):
    def cancel_resumable(self, key: str, uri: str) -> None:
        super().cancel_resumable(key, uri)
        self.uploads.clear()


@breaks("resumable_upload_hides_its_uri")
class LogsTheUri(ResumableMemory):
    def start_resumable(self, key: str, terms: UploadTerms, *, origin: str | None = None) -> ResumableStart:
        start = super().start_resumable(key, terms, origin=origin)
        logger.info("upload to %s", start.uri)
        return start


@breaks("resumable_upload_hides_its_uri")
class LogsTheIdWhenAsked(ResumableMemory):
    def resumable_progress(self, key: str, uri: str) -> ResumableProgress:
        logger.info("asked about %s", uri.partition("upload_id=")[2])
        return super().resumable_progress(key, uri)


@breaks("resumable_upload_hides_its_uri")
class ShowsTheUploads(ResumableMemory):
    def cancel_resumable(self, key: str, uri: str) -> None:
        self._check(key)
        self.seen = uri

    def __repr__(self) -> str:
        return f"<{getattr(self, 'seen', '')}>"


@breaks("resumable_upload_hides_its_uri")
class HasExpiredAlready(ResumableMemory):
    def start_resumable(self, key: str, terms: UploadTerms, *, origin: str | None = None) -> ResumableStart:
        start = super().start_resumable(key, terms, origin=origin)
        return replace(start, expires_at=start.expires_at - timedelta(days=8))


@breaks("resumable_uploads_refuse_hostile_keys")
class StartsAnywhere(ResumableMemory):
    def start_resumable(self, key: str, terms: UploadTerms, *, origin: str | None = None) -> ResumableStart:
        return super().start_resumable("anything" if ".." in key else key, terms, origin=origin)


@breaks("resumable_uploads_refuse_hostile_keys")
class TellsOfAnyKey(ResumableMemory):
    def resumable_progress(self, key: str, uri: str) -> ResumableProgress:
        return super().resumable_progress("anything", uri)


@breaks("resumable_uploads_refuse_hostile_keys")
class CancelsAnyKey(ResumableMemory):
    def cancel_resumable(self, key: str, uri: str) -> None:
        self.uploads.pop(uri, None)


@breaks("resumable_upload_cannot_be_seen_before_its_end")
class LeaksKeyErrorMeanwhile(ResumableMemory):
    def stat(self, key: str):  # type: ignore[no-untyped-def]
        try:
            return super().stat(key)
        except ObjectNotFound:
            if any(upload.key == key for upload in self.uploads.values()):
                raise KeyError(key) from None
            raise
