"""Signed tokens, one salt per purpose, so that a link to look can never be used to upload."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

from itsdangerous import BadData, URLSafeSerializer

from flask_rindle.errors import ExpiredToken, InvalidToken
from flask_rindle.types import Clock

_EXPIRES = "exp"


class Purpose(StrEnum):
    """What a token is for; each value is the salt of its own signing key."""

    TICKET = "rindle.ticket"
    VIEW = "rindle.view"
    EVENTS = "rindle.events"
    FILE = "rindle.file"
    PUT = "rindle.put"
    NOTICE = "rindle.notice"


class Tokens:
    """Signs and opens payloads. Signed is not secret: put nothing in that its holder may not read.

    Equal payloads give equal tokens, so that links stay cacheable while their expiry is the same.
    """

    def __init__(self, secret_keys: Sequence[str], clock: Clock) -> None:
        """`secret_keys`: oldest first; the last one signs, all of them open."""
        self._serializers = {
            purpose: URLSafeSerializer(list(secret_keys), salt=purpose.value, signer_kwargs={"key_derivation": "hmac"})
            for purpose in Purpose
        }
        self._clock = clock

    def sign(self, purpose: Purpose, payload: Mapping[str, Any], *, expires_at: datetime | None) -> str:
        """A URL-safe token; `expires_at=None` makes one that lasts as long as the secret key."""
        body = dict(payload)
        if expires_at is not None:
            body[_EXPIRES] = int(expires_at.timestamp())
        return str(self._serializers[purpose].dumps(body))

    def open(self, purpose: Purpose, token: str, *, late: bool = False) -> dict[str, Any]:
        """The payload; InvalidToken or ExpiredToken when it must not be believed. `late`: however old it is."""
        try:
            body = self._serializers[purpose].loads(token)
        except BadData as error:
            raise InvalidToken(purpose.name.lower()) from error
        if not isinstance(body, dict):
            raise InvalidToken(purpose.name.lower())
        expires = body.get(_EXPIRES)
        if not late and expires is not None and self._clock().timestamp() >= expires:
            raise ExpiredToken(purpose.name.lower())
        return body
