"""What a sender says about a file, before a byte of it has come."""

from __future__ import annotations

from dataclasses import dataclass
from types import NoneType

from flask_rindle.errors import MalformedRequest
from flask_rindle.security.mime import canonical_type
from flask_rindle.security.names import clean_filename
from flask_rindle.types import Checksum

# What a signed 64-bit column holds.
MAX_BYTES = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """What a sender says about a file, cleaned."""

    filename: str
    content_type: str
    byte_size: int | None
    checksum: Checksum | None

    @classmethod
    def of(
        cls, filename: str | None, content_type: str | None, byte_size: int | None, checksum: str | Checksum | None
    ) -> Announcement:
        """From raw values; MalformedRequest names the field that is wrong."""
        if byte_size is not None and (type(byte_size) is not int or not 0 <= byte_size <= MAX_BYTES):
            raise MalformedRequest("byte_size", "must be a whole number of bytes")
        for field, value in (("filename", filename), ("content_type", content_type), ("checksum", checksum)):
            if not isinstance(value, (str, Checksum, NoneType)):
                raise MalformedRequest(field, "must be text")
        return cls(
            filename=clean_filename(filename),
            content_type=canonical_type(content_type),
            byte_size=byte_size,
            checksum=Checksum.of(checksum),
        )
