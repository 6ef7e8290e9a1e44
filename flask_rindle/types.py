"""Value objects and units that more than one floor speaks of."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import uuid6

from flask_rindle.errors import MalformedRequest

MAX_SECONDS = 315_360_000  # ten years
KB = 1024
MB = 1024 * KB
GB = 1024 * MB

Disposition = Literal["inline", "attachment"]
Kind = Literal["image", "video", "audio", "other"]
Clock = Callable[[], datetime]


def utcnow() -> datetime:
    """Now, in UTC and aware. Services take a `Clock` instead of calling this."""
    return datetime.now(UTC)


def new_id() -> uuid.UUID:
    """A UUIDv7 (RFC 9562): random, and sorted by the time that it was made."""
    return uuid6.uuid7()


def life(field: str, seconds: object) -> timedelta:
    """A time to live from what a caller gives in seconds. Raises MalformedRequest."""
    if type(seconds) is not int or not 0 < seconds <= MAX_SECONDS:
        raise MalformedRequest(field, f"must be a whole number of seconds from 1 to {MAX_SECONDS}")
    return timedelta(seconds=seconds)


def parse_id(value: object) -> uuid.UUID | None:
    """The UUID that `value` is or spells, or None."""
    if isinstance(value, uuid.UUID):
        return value
    try:
        return uuid.UUID(str(value))
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Half open: `stop` is not included; None means to the end. In bytes."""

    start: int
    stop: int | None = None

    def __post_init__(self) -> None:
        if self.start < 0 or (self.stop is not None and self.stop < self.start):
            msg = f"not a byte range: {self.start} to {self.stop}"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class Checksum:
    """What the sender says that the bytes hash to, written `sha256:<64 hex digits>`."""

    algorithm: Literal["sha256"]
    hex: str

    @classmethod
    def parse(cls, text: str) -> Checksum:
        """The checksum in `text`; ValueError when it is none."""
        match = re.fullmatch(r"sha256:([0-9a-f]{64})", text.strip().lower())
        if match is None:
            msg = f"not a checksum: {text[:80]!r}"
            raise ValueError(msg)
        return cls("sha256", match[1])

    @classmethod
    def of(cls, given: str | Checksum | None) -> Checksum | None:
        """What a caller gives as checksum, parsed. Raises MalformedRequest."""
        if not isinstance(given, str):
            return given
        try:
            return cls.parse(given)
        except ValueError as error:
            raise MalformedRequest("checksum", "must be written sha256:<64 hex digits>") from error

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"
