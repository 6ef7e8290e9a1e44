"""The promises of a storage that takes resumable uploads.

The checks do what a client does: they PUT bytes with a Content-Range at the URI. A storage in memory, whose URIs lead
nowhere, takes them by a method of its own instead, `send(uri, data, last=...)`, which raises UploadGone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from http.client import HTTPConnection, HTTPSConnection
from typing import Protocol, runtime_checkable
from urllib.parse import urlsplit

from flask_rindle.errors import InvalidKey, ObjectNotFound, UploadGone
from flask_rindle.storage.base import (
    ResumableProgress,
    ResumableStart,
    ResumableState,
    UploadsResumably,
    UploadTerms,
    require,
)
from flask_rindle.testing.contracts.checks import expect, expect_error, logged
from flask_rindle.testing.contracts.trial import HOSTILE_KEYS, TEXT, Trial, promise
from flask_rindle.types import utcnow

CONTENT_TYPE = "image/webp"
TERMS = UploadTerms(content_type=CONTENT_TYPE, size_bytes=None)
TIMEOUT_SECONDS = 60
RESUME_INCOMPLETE = 308
TAKEN = (200, 201, RESUME_INCOMPLETE)


class Refused(Exception):
    """The storage did not take the bytes."""


@runtime_checkable
class TakesBytes(Protocol):
    """A storage whose URIs lead nowhere."""

    def send(self, uri: str, data: bytes, *, last: bool = False) -> None:
        """Take what a client sends."""


@dataclass(frozen=True)
class Sending:
    """One upload that has begun."""

    trial: Trial
    key: str
    start: ResumableStart

    @property
    def storage(self) -> UploadsResumably:
        return require(self.trial.storage, UploadsResumably)

    def send(self, data: bytes, *, at: int = 0, last: bool = False) -> None:
        """Send bytes that follow `at` others. Raises Refused."""
        storage: object = self.trial.storage
        if not isinstance(storage, TakesBytes):
            put(self.start.uri, data, at=at, last=last)
            return
        try:
            storage.send(self.start.uri, data, last=last)
        except UploadGone as error:
            raise Refused from error

    def progress(self) -> ResumableProgress:
        return self.storage.resumable_progress(self.key, self.start.uri)

    def cancel(self) -> None:
        self.storage.cancel_resumable(self.key, self.start.uri)

    def expect_progress(self, committed_bytes: int, state: ResumableState, when: str) -> None:
        progress = self.progress()
        expect(progress.state == state, f"{when}, the upload is {progress.state} and not {state}")
        if state != ResumableState.EXPIRED:
            said = progress.committed_bytes
            expect(said == committed_bytes, f"{when}, {said} bytes are committed and not {committed_bytes}")


def put(uri: str, data: bytes, *, at: int, last: bool) -> None:
    """PUT bytes at a session URI. Raises Refused."""
    parts = urlsplit(uri)
    connection = (HTTPSConnection if parts.scheme == "https" else HTTPConnection)(parts.netloc, timeout=TIMEOUT_SECONDS)
    total = str(at + len(data)) if last else "*"
    sent = f"{at}-{at + len(data) - 1}" if data else "*"
    try:
        headers = {"Content-Range": f"bytes {sent}/{total}"}
        connection.request("PUT", f"{parts.path}?{parts.query}", data, headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status not in TAKEN:
            raise Refused
    finally:
        connection.close()


def begin(trial: Trial, name: str, terms: UploadTerms = TERMS) -> Sending:
    """An upload that is cancelled when the trial is over."""
    storage, key = require(trial.storage, UploadsResumably), trial.key(name)
    start = storage.start_resumable(key, terms)
    trial.finally_do(partial(storage.cancel_resumable, key, start.uri))
    return Sending(trial, key, start)


def chunk(trial: Trial, letter: bytes = b"A") -> bytes:
    """Bytes that a request which is not the last can have."""
    count: int = require(trial.storage, UploadsResumably).chunk_bytes
    return letter * count


@promise(UploadsResumably)
def resumable_upload_cannot_be_seen_before_its_end(trial: Trial) -> None:
    """Neither when it has begun nor when it is half done."""
    sending = begin(trial, "hidden")
    expect_error(ObjectNotFound, lambda: trial.storage.stat(sending.key), "stat of an upload that has begun")
    sending.send(chunk(trial))
    expect_error(ObjectNotFound, lambda: trial.storage.stat(sending.key), "stat of an upload that is half done")
    expect_error(ObjectNotFound, lambda: trial.storage.read(sending.key), "read of an upload that is half done")


@promise(UploadsResumably)
def resumable_progress_tells_committed_bytes(trial: Trial) -> None:
    """None at the beginning, then as many as were sent."""
    sending, piece = begin(trial, "told"), chunk(trial)
    sending.expect_progress(0, ResumableState.IN_PROGRESS, "before the first byte")
    for number in (1, 2):
        sending.send(piece, at=(number - 1) * len(piece))
        sending.expect_progress(number * len(piece), ResumableState.IN_PROGRESS, f"after {number} requests")


@promise(UploadsResumably)
def resumable_upload_goes_on_from_what_is_committed(trial: Trial) -> None:
    """A client that lost its connection asks, sends the rest, and the object is what it sent in all."""
    sending, data = begin(trial, "resumed"), chunk(trial, b"A") + chunk(trial, b"B") + TEXT
    sending.send(data[: len(chunk(trial))])
    there = sending.progress().committed_bytes
    sending.send(data[there:], at=there, last=True)
    expect(trial.bytes_at(sending.key) == data, "an upload that was resumed makes up another object")
    stored = trial.storage.stat(sending.key)
    expect(stored.size_bytes == len(data), "stat misstates the size of an upload that was resumed")
    expect(stored.content_type in (CONTENT_TYPE, None), "the type is not the one that the upload began with")


@promise(UploadsResumably)
def resumable_upload_takes_any_size(trial: Trial) -> None:
    """One request is enough for few bytes, whether or not somebody knew how many."""
    for size in (None, len(TEXT)):
        sending = begin(trial, f"few-{size}", replace(TERMS, size_bytes=size))
        sending.send(TEXT, last=True)
        expect(trial.bytes_at(sending.key) == TEXT, f"an upload whose size was announced as {size} was not stored")


@promise(UploadsResumably)
def complete_resumable_upload_says_so(trial: Trial) -> None:
    """COMPLETE and the size, as often as somebody asks."""
    sending, data = begin(trial, "whole"), chunk(trial) + TEXT
    sending.send(data, last=True)
    for _ in range(2):
        sending.expect_progress(len(data), ResumableState.COMPLETE, "after the last byte")


@promise(UploadsResumably)
def cancelling_ends_a_resumable_upload(trial: Trial) -> None:
    """Twice is quiet; it is EXPIRED, takes no more bytes, and has left nothing."""
    sending = begin(trial, "cancelled")
    sending.send(chunk(trial))
    for _ in range(2):
        sending.cancel()
    sending.expect_progress(0, ResumableState.EXPIRED, "after cancel_resumable")
    expect_error(Refused, lambda: sending.send(TEXT, at=len(chunk(trial)), last=True), "sending to a cancelled upload")
    expect_error(ObjectNotFound, lambda: trial.storage.stat(sending.key), "stat of a cancelled upload")


@promise(UploadsResumably)
def cancelling_a_resumable_upload_too_late_leaves_the_object(trial: Trial) -> None:
    """After the last byte there is nothing to cancel."""
    sending = begin(trial, "late")
    sending.send(TEXT, last=True)
    whole = trial.storage.stat(sending.key)
    for _ in range(2):
        sending.cancel()
    expect(trial.storage.stat(sending.key) == whole, "cancel_resumable changed the object that was complete")


@promise(UploadsResumably)
def resumable_uploads_keep_apart(trial: Trial) -> None:
    """Two at once do not mix, and cancelling one leaves the other."""
    one, other, third = begin(trial, "one"), begin(trial, "other"), begin(trial, "third")
    one.send(chunk(trial, b"A"))
    other.send(chunk(trial, b"B"))
    third.cancel()
    for sending, letter in ((one, b"A"), (other, b"B")):
        sending.send(TEXT, at=len(chunk(trial)), last=True)
        expect(trial.bytes_at(sending.key) == chunk(trial, letter) + TEXT, "two uploads at once were mixed")


@promise(UploadsResumably)
def resumable_upload_hides_its_uri(trial: Trial) -> None:
    """Whoever has the URI can send: neither a repr nor the log has it, nor the id in it."""
    with logged() as heard:
        sending = begin(trial, "secret")
        sending.progress()
        sending.cancel()
    start = sending.start
    shown = [repr(start), repr(trial.storage), repr(sending.progress()), *heard]
    for secret in (start.uri, start.upload_id):
        expect(secret, "the URI of a resumable upload, or its id, is empty")
        expect(not any(secret in sentence for sentence in shown), "a repr or the log shows the URI of an upload")
    expect(start.expires_at.tzinfo is not None and start.expires_at > utcnow(), "expires_at has passed, or has no zone")


@promise(UploadsResumably)
def resumable_uploads_refuse_hostile_keys(trial: Trial) -> None:
    """Every verb answers InvalidKey."""
    fine = begin(trial, "fine")
    for key in HOSTILE_KEYS:
        hostile = replace(fine, key=key)
        calls: dict[str, Callable[[], object]] = {
            "start_resumable": partial(fine.storage.start_resumable, key, TERMS),
            "resumable_progress": hostile.progress,
            "cancel_resumable": hostile.cancel,
        }
        for verb, call in calls.items():
            expect_error(InvalidKey, call, f"{verb} of the key {key[:20]!r}")
