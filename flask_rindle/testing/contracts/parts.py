"""The promises of a storage that takes uploads in parts."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial

from flask_rindle.errors import InvalidKey, ObjectNotFound, PartsRefused, UploadGone
from flask_rindle.storage.base import Part, PresignedUpload, StoredObject, UploadsParts, UploadTerms, require
from flask_rindle.testing.contracts.checks import expect, expect_error, logged
from flask_rindle.testing.contracts.trial import HOSTILE_KEYS, TEXT, Trial, promise

TERMS = UploadTerms(content_type="image/webp", size_bytes=None)
SOON = timedelta(minutes=5)


@dataclass(frozen=True)
class Sending:
    """One upload that has begun."""

    trial: Trial
    key: str
    upload_id: str

    @property
    def storage(self) -> UploadsParts:
        return require(self.trial.storage, UploadsParts)

    def send(self, number: int, data: bytes) -> Part:
        return self.storage.put_part(self.key, self.upload_id, number, io.BytesIO(data), size_bytes=len(data))

    def presign(self, number: int = 1) -> PresignedUpload:
        return self.storage.presign_part(self.key, self.upload_id, number, size_bytes=10, expires_in=SOON)

    def parts(self) -> list[Part]:
        return self.storage.list_parts(self.key, self.upload_id)

    def complete(self, parts: Sequence[Part]) -> StoredObject:
        return self.storage.complete_parts(self.key, self.upload_id, parts)

    def abort(self) -> None:
        self.storage.abort_parts(self.key, self.upload_id)

    def everything_but_abort(self, parts: Sequence[Part]) -> dict[str, Callable[[], object]]:
        """A call of everything that needs an upload which is not over."""
        return {
            "put_part": lambda: self.send(1, TEXT),
            "list_parts": self.parts,
            "complete_parts": lambda: self.complete(parts),
        }


def begin(trial: Trial, name: str, terms: UploadTerms = TERMS) -> Sending:
    """An upload that is aborted when the trial is over."""
    storage, key = require(trial.storage, UploadsParts), trial.key(name)
    upload_id = storage.start_parts(key, terms)
    trial.finally_do(partial(storage.abort_parts, key, upload_id))
    return Sending(trial, key, upload_id)


def large(trial: Trial, letter: bytes) -> bytes:
    """Bytes that are enough for a part which is not the last."""
    size: int = require(trial.storage, UploadsParts).part_limits.smallest_bytes
    return letter * size


@promise(UploadsParts)
def parts_come_in_any_order(trial: Trial) -> None:
    """What counts is their numbers, which may have gaps; the answer and the type are what stat tells."""
    sending, a, b = begin(trial, "shuffled"), large(trial, b"A"), large(trial, b"B")
    sent = [sending.send(number, data) for number, data in ((7, TEXT), (1, a), (3, b))]
    whole = sending.complete(sorted(sent, key=lambda part: part.number))
    expect(trial.bytes_at(sending.key) == a + b + TEXT, "parts that came out of order make up another object")
    expect(whole == trial.storage.stat(sending.key), "complete_parts and stat differ")
    expect(whole.content_type in (TERMS.content_type, None), "the type is not the one that the upload began with")


@promise(UploadsParts)
def a_part_can_be_sent_again(trial: Trial) -> None:
    """The last one of a number counts, and the others are gone."""
    sending = begin(trial, "again")
    first = sending.send(1, b"before")
    second = sending.send(1, TEXT)
    expect(sending.parts() == [second], "a part that was sent again is not the one that the storage has")
    expect_error(PartsRefused, lambda: sending.complete([first]), "completing with a part that was replaced")
    sending.complete([second])
    expect(trial.bytes_at(sending.key) == TEXT, "a part that was sent again did not replace the first")


@promise(UploadsParts)
def listing_parts_tells_the_truth(trial: Trial) -> None:
    """Sorted by number, with the size and the etag that sending them was answered with."""
    sending = begin(trial, "listed")
    expect(sending.parts() == [], "an upload that has just begun has parts")
    sent = [sending.send(number, TEXT * number) for number in (10, 2, 1)]
    expect([part.size_bytes for part in sent] == [100, 20, 10], "put_part misstates the size")
    expect(all(part.etag for part in sent), "put_part gave an empty etag")
    expect(
        sending.parts() == sorted(sent, key=lambda part: part.number), "list_parts tells of other parts, or unsorted"
    )


@promise(UploadsParts)
def parts_cannot_be_seen_before_completion(trial: Trial) -> None:
    """Nobody can read half an object, and what stood there before stands until the end."""
    sending = begin(trial, "hidden")
    part = sending.send(1, TEXT)
    expect_error(ObjectNotFound, lambda: trial.storage.stat(sending.key), "stat before completion")
    old = trial.put("hidden", b"the old object")
    expect(trial.storage.stat(old.key) == old, "an upload that is not complete changed the object")
    sending.complete([part])
    expect(trial.bytes_at(old.key) == TEXT, "completing did not replace the object")


@promise(UploadsParts)
def abandoned_upload_leaves_nothing_to_read(trial: Trial) -> None:
    """A client that goes away has made no object."""
    sending = begin(trial, "abandoned")
    sending.send(1, large(trial, b"A"))
    expect_error(ObjectNotFound, lambda: trial.storage.stat(sending.key), "stat of an abandoned upload")
    expect_error(ObjectNotFound, lambda: trial.storage.read(sending.key), "read of an abandoned upload")


@promise(UploadsParts)
def completing_twice_gives_the_same_answer(trial: Trial) -> None:
    """A caller who lost the reply asks again."""
    sending = begin(trial, "twice")
    parts = [sending.send(1, large(trial, b"A")), sending.send(2, TEXT)]
    first = sending.complete(parts)
    expect(sending.complete(parts) == first, "a repeated complete_parts gave another answer")
    expect(trial.storage.stat(sending.key) == first, "a repeated complete_parts changed the object")


@promise(UploadsParts)
def refuses_parts_that_it_does_not_have(trial: Trial) -> None:
    """Missing, altered, doubled, out of order, or none: PartsRefused, nothing to see, and the upload goes on."""
    sending = begin(trial, "refused")
    one, two = sending.send(1, large(trial, b"A")), sending.send(2, TEXT)
    altered = replace(two, etag=one.etag)
    attempts = {
        "a part that is missing": [one, two, replace(two, number=3)],
        "a part with another etag": [one, altered],
        "a part that is named twice": [one, one, two],
        "parts out of order": [two, one],
        "no parts": [],
    }
    for what, parts in attempts.items():
        expect_error(PartsRefused, partial(sending.complete, parts), f"completing with {what}")
        expect_error(ObjectNotFound, lambda: trial.storage.stat(sending.key), f"stat after completing with {what}")
    sending.complete([one, two])
    expect(trial.bytes_at(sending.key) == large(trial, b"A") + TEXT, "an upload that was refused did not go on")


@promise(UploadsParts)
def refuses_small_parts(trial: Trial) -> None:
    """Only the last part may be smaller than the smallest."""
    sending = begin(trial, "small")
    parts = [sending.send(1, TEXT), sending.send(2, TEXT)]
    expect_error(PartsRefused, lambda: sending.complete(parts), "completing with a part that is too small")
    expect_error(ObjectNotFound, lambda: trial.storage.stat(sending.key), "stat after a refused completion")


@promise(UploadsParts)
def aborting_ends_the_upload(trial: Trial) -> None:
    """Twice is quiet; everything else is UploadGone from then on, and an older object stands."""
    old = trial.put("aborted", b"an older object")
    sending = begin(trial, "aborted")
    part = sending.send(1, TEXT)
    for _ in range(2):
        sending.abort()
    for verb, call in sending.everything_but_abort([part]).items():
        expect_error(UploadGone, call, f"{verb} after abort_parts")
    expect(trial.storage.stat(old.key) == old, "aborting an upload changed the object that was there")


@promise(UploadsParts)
def aborting_too_late_leaves_the_object(trial: Trial) -> None:
    """After completion there is nothing to abort."""
    sending = begin(trial, "late")
    whole = sending.complete([sending.send(1, TEXT)])
    sending.abort()
    sending.storage.abort_parts(sending.key, None)
    expect(trial.storage.stat(sending.key) == whole, "abort_parts changed the object that was complete")


@promise(UploadsParts)
def aborting_without_an_id_ends_all_under_the_key(trial: Trial) -> None:
    """For a caller who lost the answer to start_parts; the neighbour's go on."""
    one, two, neighbour = begin(trial, "orphan"), begin(trial, "orphan"), begin(trial, "orphan-not")
    part = neighbour.send(1, TEXT)
    for _ in range(2):
        one.storage.abort_parts(one.key, None)
    for sending in (one, two):
        expect_error(UploadGone, sending.parts, "list_parts after every upload was aborted")
    expect(neighbour.parts() == [part], "aborting all uploads of a key took the neighbour's along")


@promise(UploadsParts)
def an_upload_belongs_to_its_key(trial: Trial) -> None:
    """The id is of no use under another key."""
    sending = begin(trial, "mine")
    part = sending.send(1, TEXT)
    stranger = replace(sending, key=trial.key("another's"))
    for verb, call in stranger.everything_but_abort([part]).items():
        expect_error(UploadGone, call, f"{verb} under another key")
    stranger.abort()
    expect(sending.parts() == [part], "an upload was changed under another key")


@promise(UploadsParts)
def parts_refuse_hostile_keys(trial: Trial) -> None:
    """Every verb answers InvalidKey."""
    sending = begin(trial, "fine")
    for key in HOSTILE_KEYS:
        hostile = replace(sending, key=key)
        calls: dict[str, Callable[[], object]] = {
            **hostile.everything_but_abort([Part(number=1, size_bytes=10, etag="any")]),
            "start_parts": partial(sending.storage.start_parts, key, TERMS),
            "presign_part": hostile.presign,
            "abort_parts": hostile.abort,
            "abort_parts without an id": partial(sending.storage.abort_parts, key, None),
        }
        for verb, call in calls.items():
            expect_error(InvalidKey, call, f"{verb} of the key {key[:20]!r}")


@promise(UploadsParts)
def presigned_part_hides_its_url(trial: Trial) -> None:
    """The URL is a bearer secret: neither a repr nor the log has it."""
    sending = begin(trial, "secret")
    with logged() as heard:
        upload = sending.presign()
    expect(upload.url, "the URL of a part is empty")
    expect(upload.url not in repr(upload) + repr(trial.storage), "a repr shows the URL of a part")
    expect(not any(upload.url in sentence for sentence in heard), "the log shows the URL of a part")
    expect(upload.expires_at.tzinfo is not None, "expires_at has no time zone")
