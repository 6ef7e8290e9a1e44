"""Texts that rows keep and that nobody may read there."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from flask_rindle.errors import InvalidToken, MissingExtra

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

_PURPOSE = b"rindle.session_uri"
_KEY_BYTES = 32


class Vault:
    """Encrypts with keys that are derived from the app's secret keys."""

    def __init__(self, secret_keys: Sequence[str]) -> None:
        """`secret_keys`: oldest first; the last one seals, all of them open."""
        self._secret_keys = tuple(secret_keys)

    def seal(self, text: str) -> str:
        """The text, encrypted and signed; never twice the same. Raises MissingExtra."""
        return self._fernet.encrypt(text.encode()).decode()

    def open(self, sealed: str) -> str:
        """What was sealed. Raises InvalidToken when it was altered, or sealed with a key that is gone."""
        from cryptography.fernet import InvalidToken as Unreadable

        try:
            return self._fernet.decrypt(sealed.encode()).decode()
        except Unreadable as error:
            raise InvalidToken("session_uri") from error

    @cached_property
    def _fernet(self) -> MultiFernet:
        try:
            from cryptography.fernet import Fernet, MultiFernet
        except ImportError as error:
            raise MissingExtra("resumable uploads", "gcs") from error
        return MultiFernet([Fernet(_derived(key)) for key in reversed(self._secret_keys)])


def _derived(secret_key: str | bytes) -> bytes:
    """A key of its own for this purpose (RFC 5869)."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    secret = secret_key.encode() if isinstance(secret_key, str) else secret_key
    return base64.urlsafe_b64encode(HKDF(SHA256(), _KEY_BYTES, salt=None, info=_PURPOSE).derive(secret))
