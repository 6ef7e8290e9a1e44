"""How uploads are cut into parts, and what a client may say of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_rindle import GB, MB
from flask_rindle.errors import MalformedRequest, TooLarge
from flask_rindle.storage.base import PartLimits
from flask_rindle.uploads.multipart import Layout, choose_part_bytes, parse_parts

TB = 1024 * GB


@given(st.integers(1, 5 * TB), st.sampled_from([PartLimits(), PartLimits(smallest_bytes=16 * MB, most=1000)]))
def test_any_size_is_cut_within_the_limits(size_bytes: int, limits: PartLimits) -> None:
    try:
        part_bytes = choose_part_bytes(size_bytes, limits)
    except TooLarge:
        assert size_bytes > limits.largest_bytes * limits.most * 0.99
        return
    layout = Layout(size_bytes, part_bytes)
    assert limits.smallest_bytes <= part_bytes <= limits.largest_bytes
    assert 1 <= layout.count <= limits.most
    last = layout.size_of(layout.count)
    assert 0 < last <= part_bytes
    # All others are equal, as some storages want it; together they are the whole.
    assert (layout.count - 1) * part_bytes + last == size_bytes
    assert layout.size_of(layout.count - 1) in (part_bytes, 0)
    assert layout.size_of(0) == layout.size_of(-1) == layout.size_of(layout.count + 1) == 0


def test_there_is_no_ceiling_of_48_gib() -> None:
    assert choose_part_bytes(49 * GB, PartLimits()) * 10_000 >= 49 * GB
    assert choose_part_bytes(5 * TB, PartLimits()) == 525 * MB
    assert choose_part_bytes(100 * MB, PartLimits()) == 8 * MB


def test_more_than_the_storage_takes_is_too_large() -> None:
    for limits, most in ((PartLimits(), 5 * TB), (PartLimits(largest_bytes=8 * MB, most=100), 800 * MB)):
        with pytest.raises(TooLarge) as caught:
            choose_part_bytes(most + 1, limits)
        assert caught.value.limit_bytes == most


@pytest.mark.parametrize(
    "raw",
    [
        [{"number": 2, "etag": '"b"'}, {"number": 1, "etag": "a"}],
        [{"part_number": 1, "etag": "a"}, {"part_number": 2, "etag": "b"}],
        ((1, '"a"'), (2, "b")),
        iter([[1, "a"], [2, "b"]]),
    ],
)
def test_parts_are_named_in_any_order_and_notation(raw: Any) -> None:
    assert [(part.number, part.etag) for part in parse_parts(raw)] == [(1, "a"), (2, "b")]


@pytest.mark.parametrize(
    "raw",
    [
        None,
        7,
        "1:a",
        b"1",
        {"number": 1, "etag": "a"},
        [None],
        [{"number": 1}],
        [{"etag": "a"}],
        [{"number": "1", "etag": "a"}],
        [{"number": True, "etag": "a"}],
        [{"number": 0, "etag": "a"}],
        [{"number": -1, "etag": "a"}],
        [{"number": 1.0, "etag": "a"}],
        [{"number": 1, "etag": ""}],
        [{"number": 1, "etag": '""'}],
        [{"number": 1, "etag": None}],
        [(1, "a", 2)],
        [(1, "a"), (1, "b")],
    ],
)
def test_what_names_no_parts_is_malformed(raw: Any) -> None:
    with pytest.raises(MalformedRequest) as caught:
        parse_parts(raw)
    assert caught.value.field == "parts"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_nothing_that_json_can_say_is_a_crash(raw: Any) -> None:
    try:
        parts = parse_parts(raw)
    except MalformedRequest:
        return
    assert all(part.number > 0 and part.etag for part in parts)
