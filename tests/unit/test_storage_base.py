"""The storage port: what `require`, `check_key` and the default `save_to` promise."""

from __future__ import annotations

import io
import os
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flask_rindle.errors import CapabilityMissing, InvalidKey, ObjectNotFound, StorageUnavailable, UploadUnsupported
from flask_rindle.storage.base import (
    MAX_KEY_CHARACTERS,
    Capability,
    PresignedUpload,
    PresignsPut,
    Promotes,
    Storage,
    can,
    check_key,
    require,
)
from flask_rindle.storage.memory import Memory
from flask_rindle.testing.faults import faulty


class Undeclared(Memory):
    """Implements promotion and does not declare it."""

    capabilities = Memory.capabilities - {Capability.PROMOTE}


def test_require_gives_the_storage_itself() -> None:
    storage = Memory("media")
    assert require(storage, Promotes) is storage
    assert can(storage, Promotes)


def test_an_ability_that_is_not_declared_is_missing() -> None:
    """Declared and typed: one of the two is not enough."""
    assert not can(Undeclared("media"), Promotes)
    with pytest.raises(CapabilityMissing) as caught:
        require(Undeclared("media"), Promotes)
    assert caught.value.capability == "promote"
    assert "media" in caught.value.owner


def test_an_ability_that_is_not_implemented_is_missing() -> None:
    class Boaster(Storage):
        capabilities = frozenset({Capability.PRESIGNED_PUT})
        put = read = stat = delete = url = None  # type: ignore[assignment]

    assert not can(Boaster("media"), PresignsPut)
    with pytest.raises(CapabilityMissing):
        require(Boaster("media"), PresignsPut)


def test_require_raises_the_error_that_the_caller_names() -> None:
    with pytest.raises(UploadUnsupported):
        require(Undeclared("media"), Promotes, UploadUnsupported)


@pytest.mark.parametrize("verb", ["put", "read", "stat", "delete", "url"])
def test_a_storage_without_a_verb_cannot_be_made(verb: str) -> None:
    whole = {name: lambda self: None for name in ("put", "read", "stat", "delete", "url")}
    type("Whole", (Storage,), dict(whole))("media")
    whole.pop(verb)
    with pytest.raises(TypeError):
        type("Partial", (Storage,), whole)("media")


def test_a_repr_has_class_and_name() -> None:
    assert repr(Memory("media")) == "<Memory 'media'>"


def test_a_presigned_upload_hides_its_url() -> None:
    upload = PresignedUpload(url="https://a.test/?sig=abc", headers={}, expires_at=datetime(2030, 1, 1, tzinfo=UTC))
    assert "sig=abc" not in repr(upload)


@pytest.mark.parametrize("key", ["a", "a/b.webp", "a/..b/c..", "a b+c%2F#?", "日本/🎞", "x" * 255 + "/" + "y" * 255])
def test_a_legal_key_comes_back_as_it_is(key: str) -> None:
    assert check_key("media", key) == key


@pytest.mark.parametrize(
    "key",
    ["", ".", "..", "/a", "a/", "a//b", "a/../b", "a/./b", "a\\b", "a\0b", "a\nb", "a\x7fb", "a\u2028b", "a\u202eb"],
)
def test_a_hostile_key_is_refused_by_name(key: str) -> None:
    with pytest.raises(InvalidKey) as caught:
        check_key("media", key)
    assert caught.value.storage == "media"
    assert caught.value.key == key


def test_a_key_that_is_too_long_is_refused_and_cut_short() -> None:
    with pytest.raises(InvalidKey) as caught:
        check_key("media", "x" * (MAX_KEY_CHARACTERS + 1))
    assert caught.value.key == "x" * 80


def test_half_a_character_is_no_key() -> None:
    """A lone surrogate has no bytes to be a file name or a URL with."""
    with pytest.raises(InvalidKey):
        check_key("media", "a\ud800")


TRICKY = st.text(st.sampled_from("./\\~%:ab\0\n\r\t \u2024\uff0e\u202e"), max_size=20)


def accepts(key: str) -> bool:
    try:
        check_key("media", key)
    except InvalidKey:
        return False
    return True


@given(TRICKY | st.text(max_size=600))
@example("../a")
@example("a/../../b")
@example("/a")
@example(".")
def test_no_accepted_key_can_leave_a_root(key: str) -> None:
    """As a path it stays strictly inside, says itself, and is one printable line."""
    if not accepts(key):
        return
    root = PurePosixPath("/srv/media")
    path = PurePosixPath(os.path.normpath(root / key))
    assert root in path.parents
    assert str(path.relative_to(root)) == key
    assert len(key.splitlines()) == 1
    assert "\0" not in key


@given(st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=20), min_size=1, max_size=8))
def test_words_between_slashes_are_a_key(words: list[str]) -> None:
    """The property above would hold if every key were refused."""
    assert accepts("/".join(words))


class Plain(Memory):
    """Memory, with what every storage inherits."""

    save_to = Storage.save_to


def test_save_to_copies_the_bytes(tmp_path: Path) -> None:
    storage = Plain("media")
    stored = storage.put("a", io.BytesIO(b"text"))
    assert storage.save_to("a", tmp_path / "copy") == stored
    assert (tmp_path / "copy").read_bytes() == b"text"


def test_save_to_leaves_no_file_when_there_is_no_object(tmp_path: Path) -> None:
    with pytest.raises(ObjectNotFound):
        Plain("media").save_to("a", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_save_to_leaves_no_file_when_the_reading_fails(tmp_path: Path) -> None:
    storage = Plain("media")
    storage.put("a", io.BytesIO(b"text"))
    faulty(storage, {"read": [StorageUnavailable("media", "a")]})
    with pytest.raises(StorageUnavailable):
        storage.save_to("a", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
