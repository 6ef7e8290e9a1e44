"""What every storage promises, each promise one function.

With pytest, four lines run them all against an adapter:

    class TestMyStorage(StorageContract):
        @pytest.fixture
        def storage(self):
            return MyStorage("media")

Without it, `lint_storage(storage)` gives a list of broken promises. Either works under keys of its own,
`rindle-contract/...`, and removes them, so a storage that is in use can be checked too.
"""

from __future__ import annotations

import gc
import io
import re
import tempfile
import uuid
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast
from unittest import SkipTest
from urllib.parse import quote

from flask_rindle.errors import CapabilityMissing, InvalidKey, ObjectChanged, ObjectNotFound, StorageError
from flask_rindle.storage.base import (
    CHUNK_BYTES,
    Ability,
    Capability,
    LinksThroughApp,
    LinkTerms,
    PresignedUpload,
    PresignsPut,
    Promotes,
    PutTerms,
    Storage,
    StoredObject,
    can,
    require,
)
from flask_rindle.testing.contracts.checks import Dribble, SourceBroke, expect, expect_error, logged, open_handles
from flask_rindle.types import MB, ByteRange, utcnow

HOSTILE_KEYS = (
    "",
    ".",
    "..",
    "../escape",
    "media/../../escape",
    "media/..",
    "./media",
    "/etc/passwd",
    "media//twice",
    "media/",
    "back\\slash",
    "nul\0byte",
    "new\nline",
    "x" * 1000,
)
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
TEXT = b"0123456789"


# ---- the pieces that checks are made of


class FakeLinks:
    """App links without an app, for storages that serve through one."""

    def file_url(self, storage: str, key: str, terms: LinkTerms) -> str:
        return f"https://app.test/{storage}/{quote(key)}?signature=for-{terms.disposition}"

    def put(self, storage: str, key: str, terms: PutTerms) -> PresignedUpload:
        url = f"https://app.test/{storage}/{quote(key)}?signature=to-put"
        return PresignedUpload(url=url, headers={}, expires_at=utcnow() + terms.expires_in)


class Trial:
    """One storage, and fresh keys in it that `clear` removes."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._folder = f"rindle-contract/{uuid.uuid4().hex}"
        self._keys: list[str] = []
        if isinstance(storage, LinksThroughApp) and not hasattr(storage, "links"):
            storage.links = FakeLinks()

    def key(self, name: str) -> str:
        key = f"{self._folder}/{name}"
        self._keys.append(key)
        return key

    def put(self, name: str, data: bytes) -> StoredObject:
        return self.storage.put(self.key(name), io.BytesIO(data))

    def bytes_at(self, key: str, byte_range: ByteRange | None = None) -> bytes:
        return b"".join(self.storage.read(key, byte_range))

    def clear(self) -> None:
        for key in self._keys:
            with suppress(Exception):  # a delete that fails is for the checks to find
                self.storage.delete(key)


@dataclass(frozen=True)
class Check:
    """One promise; `needs` is the ability that it is about."""

    body: Callable[[Trial], None]
    needs: type[Ability] | None = None

    @property
    def name(self) -> str:
        return self.body.__name__

    def applies_to(self, storage: Storage) -> bool:
        return self.needs is None or can(storage, self.needs)

    def run(self, storage: Storage) -> None:
        """Nothing, or the first thing that the storage does against the promise."""
        trial = Trial(storage)
        try:
            self.body(trial)
        finally:
            trial.clear()


CHECKS: list[Check] = []


def promise(needs: type[Ability] | None = None) -> Callable[[Callable[[Trial], None]], Callable[[Trial], None]]:
    """Put the function on the list of checks."""

    def enlist(body: Callable[[Trial], None]) -> Callable[[Trial], None]:
        CHECKS.append(Check(body, needs))
        return body

    return enlist


def link_terms(expires_in: timedelta | None) -> LinkTerms:
    return LinkTerms(expires_in=expires_in, content_type="text/plain", disposition="inline", filename="a.txt")


def put_terms() -> PutTerms:
    return PutTerms(expires_in=timedelta(minutes=5), content_type="text/plain", size_bytes=10)


def any_url(storage: Storage, key: str) -> str | None:
    """A URL of a sort that the storage declares, or None."""
    if Capability.SIGNED_URL in storage.capabilities:
        return storage.url(key, link_terms(timedelta(minutes=5)))
    if Capability.PUBLIC_URL in storage.capabilities:
        return storage.url(key, link_terms(None))
    return None


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


# ---- the five verbs


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


# ---- capabilities, URLs, secrets


@promise()
def declares_what_it_implements(trial: Trial) -> None:
    """Each ability is declared and implemented, or neither."""
    for ability in Ability.__subclasses__():
        declared = ability.capability in trial.storage.capabilities
        implemented = isinstance(trial.storage, ability)
        expect(implemented or not declared, f"{ability.capability} is declared and {ability.__name__} not implemented")
        expect(declared or not implemented, f"{ability.__name__} is implemented and {ability.capability} not declared")


@promise()
def makes_the_urls_that_it_declares(trial: Trial) -> None:
    """Signed or public as declared, whether or not there is an object; others are refused, not downgraded."""
    key = trial.key("not there")
    for capability, expires_in in ((Capability.SIGNED_URL, timedelta(minutes=5)), (Capability.PUBLIC_URL, None)):
        if capability in trial.storage.capabilities:
            expect(trial.storage.url(key, link_terms(expires_in)), f"the {capability} is empty")
        else:
            ask = partial(trial.storage.url, key, link_terms(expires_in))
            expect_error(CapabilityMissing, ask, f"asking for a {capability}, which is not declared,")


@promise()
def shows_no_secrets(trial: Trial) -> None:
    """Neither its repr nor its log has a URL that it made or a credential that it holds."""
    key = trial.key("secret")
    with logged() as heard:
        secrets = [any_url(trial.storage, key)]
        if can(trial.storage, PresignsPut):
            secrets.append(require(trial.storage, PresignsPut).presign_put(key, put_terms()).url)
    named = re.compile("secret|token|password|credential|access_?key|private_?key", re.IGNORECASE)
    secrets += [value for name, value in vars(trial.storage).items() if named.search(name) and isinstance(value, str)]
    for secret in filter(None, secrets):
        expect(secret not in repr(trial.storage), "repr shows a URL or a credential")
        expect(not any(secret in sentence for sentence in heard), "the log shows a URL or a credential")


@promise(PresignsPut)
def presigned_upload_hides_its_url(trial: Trial) -> None:
    """The URL is a bearer secret; what stands beside it may be shown."""
    upload = require(trial.storage, PresignsPut).presign_put(trial.key("incoming"), put_terms())
    expect(upload.url, "the presigned URL is empty")
    expect(upload.url not in repr(upload), "the repr of a presigned upload shows its URL")
    expect(upload.expires_at.tzinfo is not None, "expires_at has no time zone")


# ---- promotion


@promise(Promotes)
def promoting_moves_the_object(trial: Trial) -> None:
    """The same bytes and type under the new key, and nothing under the old."""
    source, target = trial.key("incoming"), trial.key("final/deep")
    before = trial.storage.put(source, io.BytesIO(TEXT), content_type="image/webp")
    after = require(trial.storage, Promotes).promote(source, target, etag=before.etag)
    expect(after == trial.storage.stat(target), "promote and stat differ on the target")
    expect((after.key, after.content_type) == (target, before.content_type), "promote lost the key or the type")
    expect(trial.bytes_at(target) == TEXT, "promote changed the bytes")
    expect_error(ObjectNotFound, lambda: trial.storage.stat(source), "stat of the source after promote")


@promise(Promotes)
def promoting_twice_gives_the_same_answer(trial: Trial) -> None:
    """A caller who lost the reply asks again."""
    source, target = trial.put("incoming", TEXT), trial.key("final")
    promote = require(trial.storage, Promotes).promote
    first = promote(source.key, target, etag=source.etag)
    expect(promote(source.key, target, etag=source.etag) == first, "a repeated promote gave another answer")
    expect(trial.bytes_at(target) == TEXT, "a repeated promote damaged the target")


@promise(Promotes)
def promoting_a_rewritten_object_is_refused(trial: Trial) -> None:
    """Bytes that nobody verified do not come to stand at the target."""
    verified, target = trial.put("incoming", TEXT), trial.key("final")
    trial.put("incoming", b"other text")
    attempt = partial(require(trial.storage, Promotes).promote, verified.key, target, etag=verified.etag)
    for _ in range(2):
        expect_error(StorageError, attempt, "promote of a rewritten object")
        expect_error(ObjectNotFound, lambda: trial.storage.stat(target), "stat of the target of a refused promote")


@promise(Promotes)
def promoting_a_rewritten_object_says_so(trial: Trial) -> None:
    """ObjectChanged is what sends an upload into quarantine."""
    verified, target = trial.put("incoming", TEXT), trial.key("final")
    trial.put("incoming", b"other text")
    attempt = partial(require(trial.storage, Promotes).promote, verified.key, target, etag=verified.etag)
    changed = expect_error(ObjectChanged, attempt, "promote of a rewritten object")
    expect(changed.storage == trial.storage.name, "ObjectChanged names another storage")


@promise(Promotes)
def promoting_nothing_is_not_found(trial: Trial) -> None:
    """No source and no target: somebody has removed it."""
    source, target = trial.key("missing"), trial.key("final")
    attempt = partial(require(trial.storage, Promotes).promote, source, target, etag="any")
    expect_error(ObjectNotFound, attempt, "promote of a missing object")


@promise(Promotes)
def late_write_leaves_the_promoted_object(trial: Trial) -> None:
    """A URL that can still write reaches the source only, also when promote is asked again."""
    source, target = trial.put("incoming", TEXT), trial.key("final")
    promote = require(trial.storage, Promotes).promote
    first = promote(source.key, target, etag=source.etag)
    trial.put("incoming", b"other text")
    expect(trial.bytes_at(target) == TEXT, "a late write to the source changed the promoted object")
    expect(promote(source.key, target, etag=source.etag) == first, "promote after a late write gave another answer")
    expect(trial.bytes_at(target) == TEXT, "promote after a late write replaced the promoted object")


# ---- the two ways to run them


def lint_storage(storage: Storage) -> list[str]:
    """One sentence for each promise that the storage breaks."""
    problems = (problem(check, storage) for check in CHECKS if check.applies_to(storage))
    return [sentence for sentence in problems if sentence]


def problem(check: Check, storage: Storage) -> str | None:
    try:
        check.run(storage)
    except AssertionError as error:
        return f"{check.name}: {error}"
    except Exception as error:  # noqa: BLE001 - adapters may raise anything; that is what is looked for
        return f"{check.name}: {type(error).__name__} came out"  # its text might hold a signed URL
    return None


class StorageContract:
    """Tests of every promise; a subclass gives them a `storage` fixture with a fresh adapter."""


def as_test(check: Check) -> Callable[[StorageContract, Storage], None]:
    def test(_: StorageContract, storage: Storage) -> None:
        if not check.applies_to(storage):
            message = f"{storage!r} does not declare it"
            raise SkipTest(message)
        check.run(storage)

    test.__doc__ = check.body.__doc__
    return test


for each in CHECKS:
    setattr(StorageContract, f"test_{each.name}", as_test(each))
