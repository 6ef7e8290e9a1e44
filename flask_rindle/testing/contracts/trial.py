"""What promises about storages are made of: a storage on trial, keys to try, and the list of checks."""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import quote

from flask_rindle.storage.base import (
    Ability,
    Capability,
    LinksThroughApp,
    LinkTerms,
    PresignedUpload,
    PutTerms,
    Storage,
    StoredObject,
    can,
)
from flask_rindle.types import ByteRange, utcnow

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
TEXT = b"0123456789"


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
        self._last: list[Callable[[], object]] = []
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

    def finally_do(self, call: Callable[[], object]) -> None:
        """Have it done when the trial is over, whatever becomes of it."""
        self._last.append(call)

    def clear(self) -> None:
        for call in self._last:
            with suppress(Exception):
                call()
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
