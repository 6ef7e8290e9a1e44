"""Texts that rows keep and nobody may read there."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_rindle.errors import InvalidToken, MissingExtra
from flask_rindle.security.vault import Vault

URI = "https://storage.test/upload?upload_id=secret"


@given(st.text())
def test_what_is_sealed_comes_back_and_cannot_be_read(text: str) -> None:
    vault = Vault(["old", "new"])
    sealed = vault.seal(text)
    assert vault.open(sealed) == text
    assert len(text) < 4 or text not in sealed


def test_a_key_that_was_replaced_still_opens() -> None:
    sealed = Vault(["old"]).seal(URI)
    assert Vault(["old", "new"]).open(sealed) == URI
    with pytest.raises(InvalidToken):
        Vault(["new"]).open(sealed)
    with pytest.raises(InvalidToken):
        Vault(["old"]).open(Vault(["old", "new"]).seal(URI))


def test_an_altered_text_is_refused() -> None:
    vault = Vault(["key"])
    sealed = vault.seal(URI)
    for altered in (sealed[:-4], sealed[:20] + ("A" if sealed[20] != "A" else "B") + sealed[21:], "", "nonsense", "ü"):
        with pytest.raises(InvalidToken):
            vault.open(altered)


def test_a_key_of_bytes_will_do() -> None:
    vault = Vault([b"\xff key"])  # type: ignore[list-item]
    assert vault.open(vault.seal(URI)) == URI


def test_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    with pytest.raises(MissingExtra, match=r"flask-rindle\[gcs\]"):
        Vault(["key"]).seal(URI)
