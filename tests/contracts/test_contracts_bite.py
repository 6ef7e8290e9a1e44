"""The storage contract finds storages that break a promise: Memory, sabotaged one method at a time."""

from __future__ import annotations

import io
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO
from unittest import SkipTest

import pytest

from flask_rindle.errors import (
    InvalidKey,
    ObjectChanged,
    ObjectNotFound,
    PartsRefused,
    StorageError,
    StorageUnavailable,
    UploadGone,
    UploadUnsupported,
)
from flask_rindle.storage.base import (
    Capability,
    LinkTerms,
    Part,
    PresignedUpload,
    PutTerms,
    Storage,
    StoredObject,
    UploadsResumably,
    UploadTerms,
    check_key,
)
from flask_rindle.storage.memory import Memory
from flask_rindle.testing.contracts import StorageContract, lint_storage
from flask_rindle.testing.contracts.trial import CHECKS
from flask_rindle.testing.storages import MemoryOfParts
from flask_rindle.types import ByteRange

SABOTAGES: list[tuple[str, type[Storage]]] = []


def breaks(*checks: str) -> Callable[[type[Storage]], type[Storage]]:
    """Enlist the class as breaking these promises."""

    def enlist(storage: type[Storage]) -> type[Storage]:
        SABOTAGES.extend((check, storage) for check in checks)
        return storage

    return enlist


@pytest.fixture
def make() -> Iterator[Callable[[type[Storage]], Storage]]:
    """Makes storages, and closes them."""
    with ExitStack() as stack:
        yield lambda kind: stack.enter_context(closing(kind("media")))


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(("check", "kind"), SABOTAGES, ids=lambda value: getattr(value, "__name__", value))
def test_sabotage_is_reported(make: Callable[[type[Storage]], Storage], check: str, kind: type[Storage]) -> None:
    """By the list and by the test that has the promise's name."""
    assert check in {problem.split(":")[0] for problem in lint_storage(make(kind))}
    with pytest.raises(Exception):  # noqa: B017, PT011 - what a broken adapter raises is open
        getattr(StorageContract(), f"test_{check}")(make(kind))


def test_every_check_can_fail() -> None:
    """Those of resumable uploads have a file of their own."""
    here = {check.name for check in CHECKS if check.needs is not UploadsResumably}
    assert here == {check for check, _ in SABOTAGES}


@pytest.mark.parametrize("kind", [Memory, MemoryOfParts])
def test_an_intact_storage_has_no_problems(kind: type[Storage]) -> None:
    assert lint_storage(kind("media")) == []


def test_five_verbs_are_enough() -> None:
    """An adapter without abilities passes, and is not asked about promotion."""
    assert lint_storage(FiveVerbs("media")) == []
    with pytest.raises(SkipTest):
        StorageContract().test_promoting_moves_the_object(FiveVerbs("media"))  # type: ignore[attr-defined]


def test_a_check_leaves_nothing_behind() -> None:
    storage = MemoryOfParts("media")
    lint_storage(storage)
    assert storage._objects == {}
    assert storage.uploads == {}


def test_a_report_does_not_quote_foreign_errors() -> None:
    """An SDK's text may hold a signed URL."""

    class Chatty(Memory):
        def stat(self, key: str) -> StoredObject:
            raise RuntimeError("GET https://bucket.test/?signature=abc")

    problems = lint_storage(Chatty("media"))
    assert "keeps_every_byte: RuntimeError came out" in problems
    assert not any("signature" in problem for problem in problems)


# ---- bytes


@breaks("keeps_every_byte")
class LosesAByte(Memory):
    def put(self, key: str, source: BinaryIO, *, content_type: str | None = None, public: bool = False) -> StoredObject:
        return super().put(key, io.BytesIO(source.read()[:-1]), content_type=content_type)


@breaks("keeps_every_byte")
class ReadsInOnePiece(Memory):
    def read(self, key: str, byte_range: ByteRange | None = None) -> Iterator[bytes]:
        return iter([b"".join(super().read(key, byte_range))])


@breaks("keeps_every_byte")
class MisstatesTheSize(Memory):
    def stat(self, key: str) -> StoredObject:
        return replace(super().stat(key), size_bytes=1)


@breaks("takes_a_source_that_only_reads")
class ReadsTheSourceOnce(Memory):
    def put(self, key: str, source: BinaryIO, *, content_type: str | None = None, public: bool = False) -> StoredObject:
        return super().put(key, io.BytesIO(source.read(1 << 30)), content_type=content_type)


@breaks("keeps_the_content_type_or_says_none")
class GuessesTheType(Memory):
    def stat(self, key: str) -> StoredObject:
        return replace(super().stat(key), content_type="text/plain")


@breaks("public_is_a_matter_of_caches")
class MarksPublicObjects(Memory):
    def put(self, key: str, source: BinaryIO, *, content_type: str | None = None, public: bool = False) -> StoredObject:
        stored = super().put(key, source, content_type=content_type)
        return replace(stored, content_type="public") if public else stored


@breaks("overwriting_replaces_whole")
class OverwritesInPlace(Memory):
    def put(self, key: str, source: BinaryIO, *, content_type: str | None = None, public: bool = False) -> StoredObject:
        old = self._objects.get(key)
        data = source.read()
        tail = old.data[len(data) :] if old else b""
        return super().put(key, io.BytesIO(data + tail), content_type=content_type)


@breaks("overwriting_replaces_whole")
class KeepsTheFirst(Memory):
    def put(self, key: str, source: BinaryIO, *, content_type: str | None = None, public: bool = False) -> StoredObject:
        old = self._objects.get(key)
        return old.stored if old else super().put(key, source, content_type=content_type)


@breaks("overwriting_changes_the_etag", "promoting_a_rewritten_object_is_refused")
class ConstantEtag(Memory):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._versions = iter(lambda: 1, 2)  # type: ignore[assignment]


@breaks("overwriting_changes_the_etag")
class EtagFromTheSize(Memory):
    def put(self, key: str, source: BinaryIO, *, content_type: str | None = None, public: bool = False) -> StoredObject:
        stored = super().put(key, source, content_type=content_type)
        held = self._objects[key]
        self._objects[key] = replace(held, stored=replace(stored, etag=str(stored.size_bytes)))
        return self._objects[key].stored


# ---- failures


@breaks("failed_overwriting_leaves_the_old_object", "failed_put_leaves_nothing")
class KeepsHalfAPut(Memory):
    def put(self, key: str, source: BinaryIO, *, content_type: str | None = None, public: bool = False) -> StoredObject:
        arrived = b""
        try:
            while chunk := source.read(1000):
                arrived += chunk
        finally:
            stored = super().put(key, io.BytesIO(arrived), content_type=content_type)
        return stored


@breaks("failed_overwriting_leaves_the_old_object")
class ClearsBeforeItWrites(Memory):
    def put(self, key: str, source: BinaryIO, *, content_type: str | None = None, public: bool = False) -> StoredObject:
        self.delete(key)
        return super().put(key, source, content_type=content_type)


@breaks("failed_overwriting_leaves_the_old_object", "failed_put_leaves_nothing")
class HidesTheSourcesError(Memory):
    def put(self, key: str, source: BinaryIO, *, content_type: str | None = None, public: bool = False) -> StoredObject:
        try:
            return super().put(key, source, content_type=content_type)
        except InvalidKey:
            raise
        except Exception as error:
            raise StorageUnavailable(self.name, key) from error


@breaks("missing_object_is_not_found_at_the_call", "deletes", "promoting_moves_the_object")
class LeaksKeyError(Memory):
    def stat(self, key: str) -> StoredObject:
        self._check(key)
        return self._objects[key].stored


@breaks("missing_object_is_not_found_at_the_call")
class ReadsLazily(Memory):
    def read(self, key: str, byte_range: ByteRange | None = None) -> Iterator[bytes]:
        self._check(key)
        yield from super().read(key, byte_range)


@breaks("errors_carry_their_facts")
class MisnamesTheObject(Memory):
    def stat(self, key: str) -> StoredObject:
        try:
            return super().stat(key)
        except ObjectNotFound as error:
            raise ObjectNotFound("storage", "key") from error


@breaks("errors_carry_their_facts")
class MisnamesTheHostileKey(Memory):
    def _check(self, key: str) -> str:
        return check_key("storage", key)


# ---- ranges, copies, deletes


@breaks("ranges_are_half_open")
class IgnoresTheRange(Memory):
    def read(self, key: str, byte_range: ByteRange | None = None) -> Iterator[bytes]:
        return super().read(key)


@breaks("ranges_are_half_open")
class IncludesTheStop(Memory):
    def read(self, key: str, byte_range: ByteRange | None = None) -> Iterator[bytes]:
        if byte_range is not None and byte_range.stop is not None:
            byte_range = replace(byte_range, stop=byte_range.stop + 1)
        return super().read(key, byte_range)


@breaks("ranges_are_half_open")
class ComplainsPastTheEnd(Memory):
    def read(self, key: str, byte_range: ByteRange | None = None) -> Iterator[bytes]:
        if byte_range is not None and byte_range.start >= self.stat(key).size_bytes:
            raise StorageError(self.name, key, "range not satisfiable")
        return super().read(key, byte_range)


@breaks("failed_save_leaves_no_file")
class LeavesAnEmptyFile(Memory):
    def save_to(self, key: str, path: Path) -> StoredObject:
        self._check(key)
        path.touch()
        stored = self.stat(key)
        path.unlink()
        return super().save_to(stored.key, path)


@breaks("saves_a_copy_and_tells_its_version")
class LinksInsteadOfCopying(Memory):
    """What is written to the file afterwards shows in the object."""

    saved: tuple[str, Path] | None = None

    def save_to(self, key: str, path: Path) -> StoredObject:
        stored = super().save_to(key, path)
        self.saved = (key, path)
        return stored

    def read(self, key: str, byte_range: ByteRange | None = None) -> Iterator[bytes]:
        if self.saved and self.saved[0] == key:
            return iter([b"whatever stands in the file"])
        return super().read(key, byte_range)


@breaks("saves_a_copy_and_tells_its_version")
class MissesTheVersion(Memory):
    def save_to(self, key: str, path: Path) -> StoredObject:
        return replace(super().save_to(key, path), etag="unknown")


@breaks("deletes", "deleting_nothing_is_quiet", "takes_odd_keys")
class DeletesNothing(Memory):
    def delete(self, key: str) -> None:
        self._check(key)


@breaks("deletes")
class DeletesByPrefix(Memory):
    def delete(self, key: str) -> None:
        self._check(key)
        for other in [other for other in self._objects if other.startswith(key)]:
            del self._objects[other]


@breaks("deleting_nothing_is_quiet")
class ComplainsOnTheSecondDelete(Memory):
    def delete(self, key: str) -> None:
        self.stat(key)
        super().delete(key)


# ---- keys


@breaks("refuses_hostile_keys")
class TakesAnyKey(Memory):
    def _check(self, key: str) -> str:
        return key


@breaks("refuses_hostile_keys")
class SignsAnyKey(Memory):
    def url(self, key: str, terms: LinkTerms) -> str:
        return self.links.file_url(self.name, key, terms)


@breaks("refuses_hostile_keys")
class PresignsAnyKey(Memory):
    def presign_put(self, key: str, terms: PutTerms) -> PresignedUpload:
        return self.links.put(self.name, key, terms)


@breaks("refuses_hostile_keys")
class PromotesToAnyKey(Memory):
    def promote(self, source_key: str, target_key: str, *, etag: str, **more: Any) -> StoredObject:
        with suppress(InvalidKey):
            return super().promote(source_key, target_key, etag=etag, **more)
        return self.stat(source_key)


@breaks("takes_odd_keys")
class DecodesKeys(Memory):
    def _check(self, key: str) -> str:
        if "%" in key:
            raise InvalidKey(self.name, key)
        return super()._check(key)


@breaks("takes_odd_keys")
class ConfusesPlusAndSpace(Memory):
    def put(self, key: str, source: BinaryIO, *, content_type: str | None = None, public: bool = False) -> StoredObject:
        return super().put(key.replace("+", " "), source, content_type=content_type)


# ---- handles and threads


@breaks("abandoned_reads_let_go")
class KeepsHandlesOpen(Memory):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._handles: list[int] = []

    def read(self, key: str, byte_range: ByteRange | None = None) -> Iterator[bytes]:
        chunks = super().read(key, byte_range)
        self._handles.append(os.open(os.devnull, os.O_RDONLY))
        return chunks

    def close(self) -> None:
        for handle in self._handles:
            os.close(handle)


@breaks("abandoned_reads_let_go")
class LeavesClosingToTheCollector(Memory):
    def read(self, key: str, byte_range: ByteRange | None = None) -> Iterator[bytes]:
        chunks = super().read(key, byte_range)
        handle = Path(os.devnull).open("rb")  # noqa: SIM115 - the sabotage

        def read() -> Iterator[bytes]:  # a generator that never began does not reach its `with`
            with handle:
                yield from chunks

        return read()


@breaks("serves_two_threads")
class BelongsToItsThread(Memory):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._thread = threading.get_ident()

    def put(self, key: str, source: BinaryIO, *, content_type: str | None = None, public: bool = False) -> StoredObject:
        assert threading.get_ident() == self._thread
        return super().put(key, source, content_type=content_type)


@breaks("serves_two_threads")
class MixesTwoWriters(Memory):
    """The second half comes from whichever thread wrote last before."""

    last = b""

    def put(self, key: str, source: BinaryIO, *, content_type: str | None = None, public: bool = False) -> StoredObject:
        data = source.read()
        mixed = data if len(self.last) != len(data) else data[: len(data) // 2] + self.last[len(data) // 2 :]
        if threading.current_thread() is not threading.main_thread():
            self.last = b"A" * len(data) if data.startswith(b"B") else b"B" * len(data)
        return super().put(key, io.BytesIO(mixed), content_type=content_type)


# ---- capabilities, URLs, secrets


class FiveVerbs(Storage):
    """A storage with no ability."""

    capabilities = frozenset({Capability.SIGNED_URL})

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._inner = Memory(name)

    def put(self, key: str, source: BinaryIO, *, content_type: str | None = None, public: bool = False) -> StoredObject:
        return self._inner.put(key, source, content_type=content_type)

    def read(self, key: str, byte_range: ByteRange | None = None) -> Iterator[bytes]:
        return self._inner.read(key, byte_range)

    def stat(self, key: str) -> StoredObject:
        return self._inner.stat(key)

    def delete(self, key: str) -> None:
        self._inner.delete(key)

    def url(self, key: str, terms: LinkTerms) -> str:
        check_key(self.name, key)
        if terms.expires_in is None:
            raise UploadUnsupported(self.name, Capability.PUBLIC_URL)
        return f"https://cdn.test/{key}?signature=abc"


@breaks("declares_what_it_implements")
class OverDeclares(FiveVerbs):
    capabilities = FiveVerbs.capabilities | {Capability.PROMOTE}


@breaks("declares_what_it_implements")
class UnderDeclares(Memory):
    capabilities = Memory.capabilities - {Capability.PRESIGNED_PUT}


@breaks("makes_the_urls_that_it_declares")
class GivesPublicUrlsUndeclared(Memory):
    capabilities = Memory.capabilities - {Capability.PUBLIC_URL}


@breaks("makes_the_urls_that_it_declares")
class DeclaresPublicUrlsOnly(FiveVerbs):
    capabilities = frozenset({Capability.SIGNED_URL, Capability.PUBLIC_URL})


@breaks("makes_the_urls_that_it_declares")
class LooksBeforeItLinks(Memory):
    def url(self, key: str, terms: LinkTerms) -> str:
        self.stat(key)
        return super().url(key, terms)


@breaks("shows_no_secrets")
class ShowsItsLastUrl(Memory):
    last = ""

    def url(self, key: str, terms: LinkTerms) -> str:
        self.last = super().url(key, terms)
        return self.last

    def __repr__(self) -> str:
        return f"<ShowsItsLastUrl {self.last}>"


@breaks("shows_no_secrets")
class LogsItsUrls(Memory):
    def presign_put(self, key: str, terms: PutTerms) -> PresignedUpload:
        upload = super().presign_put(key, terms)
        logging.getLogger("adapter").info("made %s", upload.url)
        return upload


@breaks("shows_no_secrets")
class ShowsItsCredential(Memory):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.secret_key = "wJalrXUtnFEMI"

    def __repr__(self) -> str:
        return f"<ShowsItsCredential {vars(self)}>"


@dataclass(frozen=True)
class LoudUpload:
    url: str
    expires_at: Any
    method: str = "PUT"


@breaks("presigned_upload_hides_its_url")
class ShowsPresignedUrls(Memory):
    def presign_put(self, key: str, terms: PutTerms) -> Any:
        upload = super().presign_put(key, terms)
        return LoudUpload(upload.url, upload.expires_at)


@breaks("presigned_upload_hides_its_url")
class ForgetsTheTimeZone(Memory):
    def presign_put(self, key: str, terms: PutTerms) -> PresignedUpload:
        upload = super().presign_put(key, terms)
        return replace(upload, expires_at=upload.expires_at.replace(tzinfo=None))


# ---- promotion


@breaks("promoting_a_rewritten_object_is_refused", "promoting_a_rewritten_object_says_so")
class PromotesWhateverIsThere(Memory):
    def promote(self, source_key: str, target_key: str, *, etag: str, **more: Any) -> StoredObject:
        found = self._objects.get(source_key)
        return super().promote(source_key, target_key, etag=found.stored.etag if found else etag, **more)


@breaks("promoting_a_rewritten_object_is_refused")
class RefusesTooLate(Memory):
    """Raises the right error, with the refused bytes at the target."""

    def promote(self, source_key: str, target_key: str, *, etag: str, **more: Any) -> StoredObject:
        try:
            return super().promote(source_key, target_key, etag=etag, **more)
        except ObjectChanged:
            self._move(source_key, target_key)
            raise


@breaks("promoting_a_rewritten_object_says_so")
class CallsAChangeMissing(Memory):
    def promote(self, source_key: str, target_key: str, *, etag: str, **more: Any) -> StoredObject:
        try:
            return super().promote(source_key, target_key, etag=etag, **more)
        except ObjectChanged as error:
            raise ObjectNotFound(self.name, source_key) from error


@breaks("promoting_moves_the_object")
class CopiesInsteadOfMoving(Memory):
    def promote(self, source_key: str, target_key: str, *, etag: str, **more: Any) -> StoredObject:
        held = self._objects.get(source_key)
        promoted = super().promote(source_key, target_key, etag=etag, **more)
        if held:
            self._objects[source_key] = held
        return promoted


@breaks("promoting_moves_the_object")
class LosesTheTypeOnPromote(Memory):
    def promote(self, source_key: str, target_key: str, *, etag: str, **more: Any) -> StoredObject:
        super().promote(source_key, target_key, etag=etag, **more)
        held = self._objects[target_key]
        self._objects[target_key] = replace(held, stored=replace(held.stored, content_type=None))
        return self._objects[target_key].stored


@breaks("promoting_tells_what_the_bytes_turned_out_to_be")
class KeepsTheDeclaredType(Memory):
    def promote(self, source_key: str, target_key: str, *, etag: str, **more: Any) -> StoredObject:
        return super().promote(source_key, target_key, etag=etag)


@breaks("promoting_tells_what_the_bytes_turned_out_to_be")
class TellsTheTypeOnlyOnce(Memory):
    def promote(
        self, source_key: str, target_key: str, *, etag: str, content_type: str | None = None, public: bool = False
    ) -> StoredObject:
        return replace(super().promote(source_key, target_key, etag=etag), content_type=content_type)


@breaks("promoting_twice_gives_the_same_answer", "late_write_leaves_the_promoted_object")
class PromotesOnce(Memory):
    def promote(self, source_key: str, target_key: str, *, etag: str, **more: Any) -> StoredObject:
        check_key(self.name, target_key)
        if self.stat(source_key).etag != etag:
            raise ObjectChanged(self.name, source_key)
        return super().promote(source_key, target_key, etag=etag, **more)


@breaks("promoting_nothing_is_not_found")
class CallsNothingAChange(Memory):
    def promote(self, source_key: str, target_key: str, *, etag: str, **more: Any) -> StoredObject:
        try:
            return super().promote(source_key, target_key, etag=etag, **more)
        except ObjectNotFound as error:
            raise ObjectChanged(self.name, source_key) from error


@breaks("late_write_leaves_the_promoted_object")
class ClearsTheTargetOnAChange(Memory):
    """Moves first, compares after: the late bytes have replaced the good ones by then."""

    def promote(self, source_key: str, target_key: str, *, etag: str, **more: Any) -> StoredObject:
        self._check(source_key)
        self._check(target_key)
        if source_key in self._objects:
            self._move(source_key, target_key)
        if target_key not in self._objects:
            raise ObjectNotFound(self.name, source_key)
        if self._objects[target_key].stored.etag != etag:
            del self._objects[target_key]
            raise ObjectChanged(self.name, source_key)
        return self._objects[target_key].stored


# ---- parts


@breaks("parts_come_in_any_order")
class JoinsInOrderOfArrival(MemoryOfParts):
    def complete_parts(self, key: str, upload_id: str, parts: Sequence[Part]) -> StoredObject:
        upload = self.uploads.get(upload_id)
        arrived = [data for _, data in upload.data.values()] if upload else []
        stored = super().complete_parts(key, upload_id, parts)
        return self.put(key, io.BytesIO(b"".join(arrived)), content_type=stored.content_type) if arrived else stored


@breaks("parts_come_in_any_order")
class ForgetsTheTypeOfParts(MemoryOfParts):
    def complete_parts(self, key: str, upload_id: str, parts: Sequence[Part]) -> StoredObject:
        return replace(super().complete_parts(key, upload_id, parts), content_type="application/octet-stream")


@breaks("a_part_can_be_sent_again")
class KeepsTheFirstPart(MemoryOfParts):
    def put_part(self, key: str, upload_id: str, number: int, source: BinaryIO, *, size_bytes: int) -> Part:
        upload = self.uploads.get(upload_id)
        if upload and number in upload.data:
            return upload.data[number][0]
        return super().put_part(key, upload_id, number, source, size_bytes=size_bytes)


@breaks("a_part_can_be_sent_again", "refuses_parts_that_it_does_not_have")
class BelievesEtags(MemoryOfParts):
    """Joins the parts by their numbers, whatever the caller calls them."""

    def complete_parts(self, key: str, upload_id: str, parts: Sequence[Part]) -> StoredObject:
        upload = self.uploads.get(upload_id)
        held = upload.data if upload else {}
        return super().complete_parts(key, upload_id, [held.get(each.number, (each,))[0] for each in parts])


@breaks("listing_parts_tells_the_truth")
class ListsInOrderOfArrival(MemoryOfParts):
    def list_parts(self, key: str, upload_id: str) -> list[Part]:
        super().list_parts(key, upload_id)
        return [part for part, _ in self.uploads[upload_id].data.values()]


@breaks("listing_parts_tells_the_truth")
class ListsOnePage(MemoryOfParts):
    def list_parts(self, key: str, upload_id: str) -> list[Part]:
        return super().list_parts(key, upload_id)[:2]


@breaks("listing_parts_tells_the_truth")
class MisstatesTheSizeOfParts(MemoryOfParts):
    def list_parts(self, key: str, upload_id: str) -> list[Part]:
        return [replace(part, size_bytes=1) for part in super().list_parts(key, upload_id)]


@breaks("parts_cannot_be_seen_before_completion", "abandoned_upload_leaves_nothing_to_read")
class ShowsHalfAnObject(MemoryOfParts):
    def put_part(self, key: str, upload_id: str, number: int, source: BinaryIO, *, size_bytes: int) -> Part:
        data = source.read()
        part = super().put_part(key, upload_id, number, io.BytesIO(data), size_bytes=size_bytes)
        self.put(key, io.BytesIO(data))
        return part


@breaks("completing_twice_gives_the_same_answer")
class CompletesOnce(MemoryOfParts):
    def complete_parts(self, key: str, upload_id: str, parts: Sequence[Part]) -> StoredObject:
        if upload_id not in self.uploads:
            check_key(self.name, key)
            raise UploadGone(self.name, key)
        return super().complete_parts(key, upload_id, parts)


@breaks("refuses_parts_that_it_does_not_have")
class SortsParts(MemoryOfParts):
    def complete_parts(self, key: str, upload_id: str, parts: Sequence[Part]) -> StoredObject:
        return super().complete_parts(key, upload_id, sorted(parts, key=lambda part: part.number))


@breaks("refuses_parts_that_it_does_not_have")
class JoinsWhatItHas(MemoryOfParts):
    def complete_parts(self, key: str, upload_id: str, parts: Sequence[Part]) -> StoredObject:
        upload = self.uploads.get(upload_id)
        known = [part for part in parts if part.number in upload.data] if upload else parts
        return super().complete_parts(key, upload_id, known)


@breaks("refuses_parts_that_it_does_not_have")
class EndsARefusedUpload(MemoryOfParts):
    def complete_parts(self, key: str, upload_id: str, parts: Sequence[Part]) -> StoredObject:
        try:
            return super().complete_parts(key, upload_id, parts)
        except PartsRefused:
            self.uploads.pop(upload_id)
            raise


@breaks("refuses_small_parts")
class TakesSmallParts(MemoryOfParts):
    def complete_parts(self, key: str, upload_id: str, parts: Sequence[Part]) -> StoredObject:
        self.part_limits = replace(self.part_limits, smallest_bytes=1)
        try:
            return super().complete_parts(key, upload_id, parts)
        finally:
            del self.part_limits


@breaks("aborting_ends_the_upload", "aborting_without_an_id_ends_all_under_the_key")
class AbortsNothing(MemoryOfParts):
    def abort_parts(self, key: str, upload_id: str | None) -> None:
        self._check(key)


@breaks("aborting_ends_the_upload")
class ComplainsOnTheSecondAbort(MemoryOfParts):
    def abort_parts(self, key: str, upload_id: str | None) -> None:
        self._check(key)
        if upload_id is not None and upload_id not in self.uploads:
            raise UploadGone(self.name, key)
        super().abort_parts(key, upload_id)


@breaks("aborting_ends_the_upload")
class TakesTheOldObjectForTheNew(MemoryOfParts):
    """After an abort it answers with whatever stands at the key."""

    def complete_parts(self, key: str, upload_id: str, parts: Sequence[Part]) -> StoredObject:
        return super().complete_parts(key, upload_id, parts) if upload_id in self.uploads else self.stat(key)


@breaks("aborting_too_late_leaves_the_object")
class AbortsWhatIsComplete(MemoryOfParts):
    def abort_parts(self, key: str, upload_id: str | None) -> None:
        super().abort_parts(key, upload_id)
        self.delete(key)


@breaks("aborting_without_an_id_ends_all_under_the_key")
class AbortsByPrefix(MemoryOfParts):
    def abort_parts(self, key: str, upload_id: str | None) -> None:
        super().abort_parts(key, upload_id)
        if upload_id is None:
            self.uploads = {id: each for id, each in self.uploads.items() if not each.key.startswith(key)}  # noqa: A001


@breaks("an_upload_belongs_to_its_key")
class IgnoresTheKeyOfAnUpload(MemoryOfParts):
    def list_parts(self, key: str, upload_id: str) -> list[Part]:
        upload = self.uploads.get(upload_id)
        return super().list_parts(upload.key if upload else key, upload_id)


@breaks("parts_refuse_hostile_keys")
class StartsUnderAnyKey(MemoryOfParts):
    def start_parts(self, key: str, terms: UploadTerms) -> str:
        return super().start_parts("fine", terms)


@breaks("parts_refuse_hostile_keys")
class AbortsUnderAnyKey(MemoryOfParts):
    def abort_parts(self, key: str, upload_id: str | None) -> None:
        with suppress(InvalidKey):
            super().abort_parts(key, upload_id)


@breaks("presigned_part_hides_its_url")
class ShowsTheUrlOfParts(MemoryOfParts):
    def presign_part(self, *args: Any, **options: Any) -> Any:
        upload = super().presign_part(*args, **options)
        return LoudUpload(upload.url, upload.expires_at)


@breaks("presigned_part_hides_its_url")
class LogsTheUrlOfParts(MemoryOfParts):
    def presign_part(self, *args: Any, **options: Any) -> PresignedUpload:
        upload = super().presign_part(*args, **options)
        logging.getLogger("adapter").info("made %s", upload.url)
        return upload
