"""Tokens: good for one purpose, until their time, and not to be altered."""

from __future__ import annotations

from datetime import timedelta
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_rindle.errors import ExpiredToken, InvalidToken
from flask_rindle.security.tokens import Purpose, Tokens
from flask_rindle.testing.clock import FrozenClock

CLOCK = FrozenClock()
TOKENS = Tokens(["old key", "new key"], CLOCK)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
PAYLOADS = st.dictionaries(st.text().filter(lambda key: key != "exp"), JSON)


@given(payload=PAYLOADS, purpose=st.sampled_from(Purpose))
def test_what_was_signed_is_opened(payload: dict[str, object], purpose: Purpose) -> None:
    assert TOKENS.open(purpose, TOKENS.sign(purpose, payload, expires_at=None)) == payload


@pytest.mark.parametrize(("made_for", "used_for"), list(permutations(Purpose, 2)))
def test_a_token_is_good_for_no_other_purpose(made_for: Purpose, used_for: Purpose) -> None:
    with pytest.raises(InvalidToken) as caught:
        TOKENS.open(used_for, TOKENS.sign(made_for, {"id": 1}, expires_at=None))
    assert caught.value.purpose == used_for.name.lower()


@given(data=st.data())
def test_an_altered_token_never_says_something_else(data: st.DataObject) -> None:
    """The last character of a signature has spare bits; whatever they are, the payload is the signed one."""
    payload = {"profile": "avatar", "max_files": 1}
    token = TOKENS.sign(Purpose.TICKET, payload, expires_at=None)
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters(codec="utf-8").filter(lambda char: char != token[at]))
    try:
        assert TOKENS.open(Purpose.TICKET, token[:at] + other + token[at + 1 :]) == payload
        assert at == len(token) - 1
    except InvalidToken:
        pass


@given(st.text())
def test_nonsense_is_invalid_and_no_crash(text: str) -> None:
    with pytest.raises(InvalidToken):
        TOKENS.open(Purpose.VIEW, text)


@pytest.mark.parametrize("cut", [0, 1, 10, -1])
def test_a_token_that_is_cut_short_is_invalid(cut: int) -> None:
    with pytest.raises(InvalidToken):
        TOKENS.open(Purpose.VIEW, TOKENS.sign(Purpose.VIEW, {"id": 1}, expires_at=None)[:cut])


def test_a_token_ends_at_its_time_to_the_second() -> None:
    clock = FrozenClock()
    tokens = Tokens(["key"], clock)
    token = tokens.sign(Purpose.FILE, {"key": "a"}, expires_at=clock() + timedelta(minutes=15))
    clock.tick(minutes=14, seconds=59)
    assert tokens.open(Purpose.FILE, token)["key"] == "a"
    clock.tick(seconds=1)
    with pytest.raises(ExpiredToken) as caught:
        tokens.open(Purpose.FILE, token)
    assert caught.value.purpose == "file"


def test_a_token_without_a_time_lasts() -> None:
    clock = FrozenClock()
    tokens = Tokens(["key"], clock)
    token = tokens.sign(Purpose.FILE, {"key": "a"}, expires_at=None)
    clock.tick(days=36_500)
    assert tokens.open(Purpose.FILE, token) == {"key": "a"}


def test_equal_payloads_give_equal_tokens() -> None:
    """So that links can be cached."""
    end = CLOCK() + timedelta(minutes=5)
    assert len({TOKENS.sign(Purpose.FILE, {"key": "a"}, expires_at=end) for _ in range(3)}) == 1


def test_keys_can_be_changed_without_breaking_links() -> None:
    before, during, after = (Tokens(keys, CLOCK) for keys in (["old"], ["old", "new"], ["new"]))
    old = before.sign(Purpose.VIEW, {"id": 1}, expires_at=None)
    assert during.open(Purpose.VIEW, old) == {"id": 1}
    new = during.sign(Purpose.VIEW, {"id": 2}, expires_at=None)
    assert after.open(Purpose.VIEW, new) == {"id": 2}, "the new key signs"
    with pytest.raises(InvalidToken):
        after.open(Purpose.VIEW, old)


def test_a_signed_list_is_no_payload() -> None:
    token = TOKENS._serializers[Purpose.VIEW].dumps([1, 2])
    with pytest.raises(InvalidToken):
        TOKENS.open(Purpose.VIEW, token)


def test_a_token_fits_into_a_url() -> None:
    token = TOKENS.sign(Purpose.FILE, {"key": "ä/ö ?&#%", "n": "x" * 2000}, expires_at=None)
    assert all(char.isascii() and (char.isalnum() or char in "-_.") for char in token)
