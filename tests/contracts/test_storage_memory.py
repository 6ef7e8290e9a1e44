"""Memory keeps the contract; and storages fail by script."""

from __future__ import annotations

import io
import threading

import pytest

from flask_rindle.errors import ObjectNotFound, StorageUnavailable
from flask_rindle.storage.base import PresignsPut, Promotes, can
from flask_rindle.storage.memory import Memory
from flask_rindle.testing.contracts import StorageContract
from flask_rindle.testing.faults import ReplyLost, faulty


@pytest.fixture
def storage() -> Memory:
    return Memory("media")


class TestMemory(StorageContract):
    """The contract."""


def test_the_content_type_is_kept(storage: Memory) -> None:
    storage.put("a", io.BytesIO(b"x"), content_type="image/webp")
    assert storage.stat("a").content_type == "image/webp"


def test_rewriting_the_same_bytes_changes_the_etag(storage: Memory) -> None:
    assert storage.put("a", io.BytesIO(b"x")).etag != storage.put("a", io.BytesIO(b"x")).etag


def test_a_read_is_of_the_version_at_the_call(storage: Memory) -> None:
    storage.put("a", io.BytesIO(b"old"))
    chunks = storage.read("a")
    storage.put("a", io.BytesIO(b"new"))
    assert b"".join(chunks) == b"old"


def test_a_slow_source_does_not_hold_up_others(storage: Memory) -> None:
    """The source is read before the lock is taken."""

    class UsesTheStorage(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            storage.delete("other")
            return super().read(size)

    putting = threading.Thread(target=storage.put, args=("a", UsesTheStorage(b"x")), daemon=True)
    putting.start()
    putting.join(timeout=5)
    assert not putting.is_alive()
    assert storage.stat("a").size_bytes == 1


def test_a_scripted_fault_comes_instead_of_the_call(storage: Memory) -> None:
    fault = StorageUnavailable("media", "a")
    faulty(storage, {"put": [fault]})
    with pytest.raises(StorageUnavailable) as caught:
        storage.put("a", io.BytesIO(b"x"))
    assert caught.value is fault
    with pytest.raises(ObjectNotFound):
        storage.stat("a")


def test_a_lost_reply_comes_after_the_work(storage: Memory) -> None:
    faulty(storage, {"put": [ReplyLost(StorageUnavailable("media", "a"))]})
    with pytest.raises(StorageUnavailable):
        storage.put("a", io.BytesIO(b"x"))
    assert storage.stat("a").size_bytes == 1


def test_faults_come_in_order_and_then_end(storage: Memory) -> None:
    """None lets a call pass; after the script the storage works."""
    faulty(storage, {"delete": [None, StorageUnavailable("media", "a")]})
    storage.delete("a")
    with pytest.raises(StorageUnavailable):
        storage.delete("a")
    storage.delete("a")


def test_a_faulty_storage_is_what_it_was(storage: Memory) -> None:
    """The same object with the same abilities, so an engine that holds it meets the faults."""
    wrapped = faulty(storage, {"promote": [StorageUnavailable("media", "a")]})
    assert wrapped is storage
    assert can(wrapped, Promotes)
    assert can(wrapped, PresignsPut)


def test_a_script_for_an_unknown_verb_is_refused(storage: Memory) -> None:
    with pytest.raises(AttributeError):
        faulty(storage, {"putt": [None]})
