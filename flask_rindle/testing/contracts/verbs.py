"""The promises of the five verbs."""

from __future__ import annotations

import gc
import io
import tempfile
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from flask_rindle.errors import InvalidKey, ObjectNotFound, StorageError
from flask_rindle.storage.base import CHUNK_BYTES, Capability, PresignsPut, Promotes, can, require
from flask_rindle.testing.contracts.checks import Dribble, SourceBroke, expect, expect_error, open_handles
from flask_rindle.testing.contracts.trial import HOSTILE_KEYS, TEXT, Trial, any_url, promise, put_terms
from flask_rindle.types import MB, ByteRange

ODD_KEYS = (
    "one two",
    "one+two",
    "one%20two",
    "one%2Ftwo",
    "question?mark",
    "hash#mark",
    "quote'\"s",
    "semi;colon:comma,",
    "grüße/日本語/🎞",
    "..dots",
    "-dash",
    "/".join(["long" * 25] * 4),
)


def verbs(trial: Trial, key: str, path: Path) -> Mapping[str, Callable[[], object]]:
    """A call of everything that takes a key, with this one."""
    storage = trial.storage
    calls: dict[str, Callable[[], object]] = {
        "put": lambda: storage.put(key, io.BytesIO(TEXT)),
        "read": lambda: storage.read(key),
        "stat": lambda: storage.stat(key),
        "delete": lambda: storage.delete(key),
        "save_to": lambda: storage.save_to(key, path),
    }
    if storage.capabilities & {Capability.SIGNED_URL, Capability.PUBLIC_URL}:
        calls["url"] = lambda: any_url(storage, key)
    if can(storage, PresignsPut):
        calls["presign_put"] = lambda: require(storage, PresignsPut).presign_put(key, put_terms())
    if can(storage, Promotes):
        there = trial.put("there", TEXT)
        promote = require(storage, Promotes).promote
        calls["promote from"] = lambda: promote(key, trial.key("elsewhere"), etag=there.etag)
        calls["promote to"] = lambda: promote(there.key, key, etag=there.etag)
    return calls


@promise()
def keeps_every_byte(trial: Trial) -> None:
    """No byte, one, and several chunks come back as they were, in bounded pieces."""
    for name, data in (("empty", b""), ("one", b"\xff"), ("large", bytes(range(256)) * (6 * MB // 256))):
        stored = trial.put(name, data)
        expect(stored.key == trial.key(name), f"put of {len(data)} bytes answered with another key")
        expect(stored.size_bytes == len(data), f"put of {len(data)} bytes answered {stored.size_bytes}")
        expect(trial.storage.stat(stored.key) == stored, f"stat and put differ on {len(data)} bytes")
        chunks = list(trial.storage.read(stored.key))
        expect(b"".join(chunks) == data, f"{len(data)} bytes came back different")
        expect(all(len(chunk) <= CHUNK_BYTES for chunk in chunks), f"read gave a chunk over {CHUNK_BYTES} bytes")


@promise()
def takes_a_source_that_only_reads(trial: Trial) -> None:
    """A source gives as little as it likes at a time, and need not know its length or seek."""
    data = TEXT * 10_000
    stored = trial.storage.put(trial.key("dribble"), cast("BinaryIO", Dribble(data)))
    expect(trial.bytes_at(stored.key) == data, "a source that gives little at a time was not stored whole")


@promise()
def keeps_the_content_type_or_says_none(trial: Trial) -> None:
    """The type that was given, or None; never a guess."""
    key = trial.key("typed.txt")
    put = trial.storage.put(key, io.BytesIO(TEXT), content_type="image/webp")
    for verb, stored in (("put", put), ("stat", trial.storage.stat(key))):
        expect(stored.content_type in ("image/webp", None), f"{verb} answered a type that nobody gave")


@promise()
def public_is_a_matter_of_caches(trial: Trial) -> None:
    """It changes neither the bytes nor what stat tells."""
    for name, public in (("private", False), ("public", True)):
        stored = trial.storage.put(trial.key(name), io.BytesIO(TEXT), content_type="image/webp", public=public)
        expect(stored == trial.storage.stat(stored.key), f"stat and put differ where public={public}")
        expect(trial.bytes_at(stored.key) == TEXT, f"public={public} changed the bytes")


@promise()
def overwriting_replaces_whole(trial: Trial) -> None:
    """The shorter object has nothing left of the longer."""
    long = trial.put("twice", TEXT * 100)
    short = trial.put("twice", b"short")
    expect(trial.bytes_at(long.key) == b"short", "an overwritten object kept some of its old bytes")
    expect(trial.storage.stat(long.key) == short, "stat does not tell of the last put")


@promise()
def overwriting_changes_the_etag(trial: Trial) -> None:
    """Other bytes, other etag, also when there are as many of them."""
    etags = [trial.put("again", bytes([65 + number]) * 10).etag for number in range(20)]
    expect(len(set(etags)) == len(etags), "an etag did not change when other bytes were written")
    expect(all(etags), "an etag is empty")


@promise()
def failed_overwriting_leaves_the_old_object(trial: Trial) -> None:
    """A source that breaks has changed nothing, and its own error comes out."""
    old = trial.put("kept", TEXT)
    broken = cast("BinaryIO", Dribble(bytes(3 * MB), breaks_after=2 * MB))
    expect_error(SourceBroke, lambda: trial.storage.put(old.key, broken), "put from a source that broke")
    expect(trial.bytes_at(old.key) == TEXT, "a failed put damaged the object that was there")
    expect(trial.storage.stat(old.key) == old, "a failed put changed what stat says")


@promise()
def failed_put_leaves_nothing(trial: Trial) -> None:
    """Under a new key, a put that failed was never there."""
    key = trial.key("new")
    broken = cast("BinaryIO", Dribble(bytes(3 * MB), breaks_after=2 * MB))
    expect_error(SourceBroke, lambda: trial.storage.put(key, broken), "put from a source that broke")
    expect_error(ObjectNotFound, lambda: trial.storage.stat(key), "stat after a failed put")


@promise()
def ranges_are_half_open(trial: Trial) -> None:
    """Start is in, stop is out; past the end there is nothing."""
    data = TEXT * (CHUNK_BYTES // 10) + TEXT
    key = trial.put("ranged", data).key
    ends = ((0, 0), (0, 1), (3, 7), (5, 5), (7, None), (0, None), (CHUNK_BYTES - 2, CHUNK_BYTES + 2))
    past = ((len(data) - 1, len(data) + 9), (len(data), None), (len(data) + 5, len(data) + 9), (10**30, None))
    for start, stop in ends + past:
        got = trial.bytes_at(key, ByteRange(start, stop))
        expect(got == data[start:stop], f"range {start} to {stop} gave {len(got)} bytes, or others")


@promise()
def missing_object_is_not_found_at_the_call(trial: Trial) -> None:
    """Nobody has to begin reading to learn that there is nothing."""
    key = trial.key("missing")
    storage = trial.storage
    expect_error(ObjectNotFound, lambda: storage.read(key), "read of a missing object")
    expect_error(ObjectNotFound, lambda: storage.read(key, ByteRange(2, 2)), "read of a missing object's range")
    expect_error(ObjectNotFound, lambda: storage.stat(key), "stat of a missing object")


@promise()
def saves_a_copy_and_tells_its_version(trial: Trial) -> None:
    """The file has the bytes, and what happens to it is not the object's business."""
    stored = trial.put("saved", TEXT)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "copy")
        expect(trial.storage.save_to(stored.key, path) == stored, "save_to told of another version")
        expect(path.read_bytes() == TEXT, "save_to wrote other bytes")
        with path.open("ab") as copy:
            copy.write(b"and more")
    expect(trial.bytes_at(stored.key) == TEXT, "writing to the saved file changed the object")


@promise()
def failed_save_leaves_no_file(trial: Trial) -> None:
    """A missing object makes no empty file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "copy")
        expect_error(ObjectNotFound, lambda: trial.storage.save_to(trial.key("missing"), path), "save_to")
        expect(not path.exists(), "save_to left a file behind when there was no object")


@promise()
def deletes(trial: Trial) -> None:
    """After delete there is nothing under the key, and its neighbour stands."""
    key, neighbour = trial.put("near/gone", TEXT).key, trial.put("near/gone-not", TEXT).key
    trial.storage.delete(key)
    expect_error(ObjectNotFound, lambda: trial.storage.stat(key), "stat after delete")
    expect(trial.bytes_at(neighbour) == TEXT, "delete took a neighbour along")


@promise()
def deleting_nothing_is_quiet(trial: Trial) -> None:
    """A second delete, and one of a key that never was, are no errors."""
    key = trial.put("gone", TEXT).key
    for name in ("gone", "gone", "never/was"):
        trial.storage.delete(trial.key(name))
    expect_error(ObjectNotFound, lambda: trial.storage.stat(key), "stat after delete")


@promise()
def refuses_hostile_keys(trial: Trial) -> None:
    """Every verb answers InvalidKey to a key that could leave the storage or confuse it."""
    for key in HOSTILE_KEYS:
        with tempfile.TemporaryDirectory() as folder:
            for verb, call in verbs(trial, key, Path(folder, "copy")).items():
                expect_error(InvalidKey, call, f"{verb} of the key {key[:20]!r}")


@promise()
def takes_odd_keys(trial: Trial) -> None:
    """Spaces, percent signs and all writing are just characters, and each key is one object."""
    keys = [trial.key(name) for name in ODD_KEYS]
    for key, name in zip(keys, ODD_KEYS, strict=True):
        trial.storage.put(key, io.BytesIO(name.encode()))
    for key, name in zip(keys, ODD_KEYS, strict=True):
        expect(trial.bytes_at(key) == name.encode(), f"the key {name!r} gave another's bytes")
        expect(trial.storage.stat(key).key == key, f"the key {name!r} came back different")
        any_url(trial.storage, key)
    for key, name in zip(keys, ODD_KEYS, strict=True):
        trial.storage.delete(key)
        expect_error(ObjectNotFound, partial(trial.storage.stat, key), f"stat after delete of {name!r}")


@promise()
def abandoned_reads_let_go(trial: Trial) -> None:
    """An iterator that is dropped, begun or not, keeps no file or connection open."""
    key = trial.put("held", bytes(3 * CHUNK_BYTES)).key
    gc.collect()
    before = open_handles()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        for _ in range(16):  # a pool of connections may keep some, and not one for each
            trial.storage.read(key)
            next(trial.storage.read(key))
        gc.collect()
    expect(open_handles() - before < 16, "abandoned reads keep their handles open")
    expect(not [w for w in caught if w.category is ResourceWarning], "abandoned reads leave closing to the collector")


@promise()
def serves_two_threads(trial: Trial) -> None:
    """Two threads on one key: each read is of one version, whole."""
    key = trial.put("shared", b"A" * 200_000).key

    def work(letter: bytes) -> bool:
        whole = True
        for _ in range(20):
            trial.storage.put(key, io.BytesIO(letter * 200_000))
            seen = trial.bytes_at(key)
            whole = whole and seen in (b"A" * 200_000, b"B" * 200_000)
        return whole

    with ThreadPoolExecutor(2) as threads:
        expect(all(threads.map(work, (b"A", b"B"))), "a read beside a put gave a mixture of versions")


@promise()
def errors_carry_their_facts(trial: Trial) -> None:
    """Which storage and which key are attributes, for logs and for the caller."""
    key = trial.key("missing")
    missing = expect_error(StorageError, lambda: trial.storage.stat(key), "stat of a missing object")
    expect((missing.storage, missing.key) == (trial.storage.name, key), "ObjectNotFound names another object")
    refused = expect_error(StorageError, lambda: trial.storage.stat("../escape"), "stat of a hostile key")
    expect((refused.storage, refused.key) == (trial.storage.name, "../escape"), "InvalidKey names another object")
