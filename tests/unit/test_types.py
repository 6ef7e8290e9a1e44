"""Values that more than one floor speaks of."""

from __future__ import annotations

import uuid
from datetime import UTC, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_rindle.types import GB, KB, MB, ByteRange, Checksum, new_id, parse_id, utcnow


def test_units_are_powers_of_1024() -> None:
    assert (KB, MB, GB) == (2**10, 2**20, 2**30)


def test_now_is_aware_and_in_utc() -> None:
    assert utcnow().tzinfo is UTC
    assert utcnow() - utcnow() < timedelta(minutes=1)


def test_ids_are_uuid7_and_sort_by_their_time() -> None:
    ids = [new_id() for _ in range(200)]
    assert {made.version for made in ids} == {7}
    assert ids == sorted(ids)
    assert len(set(ids)) == 200


def test_an_id_is_read_from_what_it_is_and_from_its_spelling() -> None:
    made = new_id()
    assert parse_id(made) is made
    assert parse_id(str(made)) == parse_id(made.hex) == made


@pytest.mark.parametrize("value", ["", "x", None, 7, "../etc/passwd", b"\x00", object()])
def test_what_is_no_id_is_none(value: object) -> None:
    assert parse_id(value) is None


@given(st.text())
def test_no_text_makes_parse_id_raise(text: str) -> None:
    assert parse_id(text) is None or isinstance(parse_id(text), uuid.UUID)


@pytest.mark.parametrize(("start", "stop"), [(0, None), (0, 0), (3, 3), (3, 9)])
def test_byte_ranges_are_half_open(start: int, stop: int | None) -> None:
    assert (ByteRange(start, stop).start, ByteRange(start, stop).stop) == (start, stop)


@pytest.mark.parametrize(("start", "stop"), [(-1, None), (-2, -1), (3, 2)])
def test_a_byte_range_cannot_go_backwards(start: int, stop: int | None) -> None:
    with pytest.raises(ValueError, match="not a byte range"):
        ByteRange(start, stop)


DIGEST = "ab" * 32


@pytest.mark.parametrize("text", [f"sha256:{DIGEST}", f"  SHA256:{DIGEST.upper()}\n"])
def test_a_checksum_is_read_and_written(text: str) -> None:
    assert Checksum.parse(text) == Checksum("sha256", DIGEST)
    assert str(Checksum.parse(text)) == f"sha256:{DIGEST}"


@pytest.mark.parametrize("text", ["", DIGEST, f"md5:{DIGEST}", f"sha256:{DIGEST}0", f"sha256:{'g' * 64}", "sha256:"])
def test_what_is_no_checksum_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a checksum"):
        Checksum.parse(text)
