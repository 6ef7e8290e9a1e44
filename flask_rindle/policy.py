"""The gate: what every upload must pass, whatever road it took.

`check_declared` when a session opens, `check_stored` when the bytes are said to be there,
`check_content` on the bytes themselves, before an asset can become `available`. All three raise
a `RejectedUpload` and return nothing.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from flask_rindle.errors import (
    ChecksumMismatch,
    EmptyUpload,
    ExtensionMismatch,
    ExtensionRefused,
    RindleError,
    ScannerUnavailable,
    ScanRefused,
    SizeMismatch,
    TooLarge,
    TooManyPixels,
    TypeRefused,
)
from flask_rindle.processing.base import Infected, MediaFacts
from flask_rindle.profiles import Profile
from flask_rindle.security.mime import OCTET_STREAM, extension_fits
from flask_rindle.security.names import file_extension
from flask_rindle.types import Checksum


def check_declared(profile: type[Profile], *, filename: str, content_type: str, byte_size: int | None) -> None:
    """What the sender says about the file, before a byte is taken."""
    if byte_size is not None:
        _check_size(profile, byte_size)
    if content_type != OCTET_STREAM:
        _check_type(profile, content_type)
    _check_extension(profile, filename)


def check_stored(profile: type[Profile], *, declared_bytes: int | None, stored_bytes: int) -> None:
    """What the storage says has arrived."""
    _check_size(profile, stored_bytes)
    if declared_bytes is not None and declared_bytes != stored_bytes:
        raise SizeMismatch(declared_bytes, stored_bytes)


def check_content(
    profile: type[Profile], *, path: Path, filename: str, facts: MediaFacts, checksum: Checksum | None
) -> None:
    """What the bytes are: type, name, pixels, checksum, and what the scanners say."""
    _check_type(profile, facts.content_type)
    _check_extension(profile, filename)
    extension = file_extension(filename)
    if not extension_fits(extension, facts.content_type):
        raise ExtensionMismatch(extension, facts.content_type)
    _check_pixels(profile, facts)
    _check_checksum(path, checksum)
    _scan(profile, path)


def _check_size(profile: type[Profile], byte_size: int) -> None:
    if byte_size < 1:
        raise EmptyUpload
    if profile.max_bytes is not None and byte_size > profile.max_bytes:
        raise TooLarge(profile.max_bytes, byte_size)


def _check_type(profile: type[Profile], content_type: str) -> None:
    if profile.allow_mime is not None and content_type not in profile.allow_mime:
        raise TypeRefused(content_type, profile.allow_mime)


def _check_extension(profile: type[Profile], filename: str) -> None:
    extension = file_extension(filename)
    if profile.allow_extensions is not None and extension not in profile.allow_extensions:
        raise ExtensionRefused(extension, profile.allow_extensions)


def _check_pixels(profile: type[Profile], facts: MediaFacts) -> None:
    if profile.max_pixels is None or facts.width is None or facts.height is None:
        return
    if facts.width * facts.height > profile.max_pixels:
        raise TooManyPixels(profile.max_pixels, facts.width, facts.height)


def _check_checksum(path: Path, checksum: Checksum | None) -> None:
    if checksum is None:
        return
    with path.open("rb") as source:
        found = hashlib.file_digest(source, checksum.algorithm).hexdigest()
    if found != checksum.hex:
        raise ChecksumMismatch(checksum.algorithm)


def _scan(profile: type[Profile], path: Path) -> None:
    for scanner in profile.scanners:
        try:
            verdict = scanner.scan(path)
        except RindleError:
            raise
        except Exception as error:
            raise ScannerUnavailable(scanner.name) from error
        if isinstance(verdict, Infected):
            raise ScanRefused(scanner.name, verdict.reason)
