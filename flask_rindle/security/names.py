"""Storage keys and the names that clients give their files.

A key is always made here and never from what a client sent. A client's file name is display text.
"""

from __future__ import annotations

import secrets
import unicodedata
import uuid
from pathlib import PurePosixPath
from urllib.parse import quote

from flask_rindle.types import Disposition

INCOMING = "incoming/"
MAX_FILENAME_BYTES = 255
FALLBACK_FILENAME = "upload"
_WINDOWS_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_EDGES = "." + "".join(filter(str.isspace, map(chr, range(0x3001))))


def incoming_key(session_id: uuid.UUID) -> str:
    """Where an upload is staged: unguessable, and of no use to anyone who knows the asset."""
    return f"{INCOMING}{session_id}/{secrets.token_hex(16)}"


def sealed_key(profile: str, asset_id: uuid.UUID, extension: str) -> str:
    """Where an upload goes that nobody can write to once it is complete: it may stay there for good."""
    return f"{profile}/{asset_id}/original-{secrets.token_hex(16)}{extension}"


def is_staged(key: str) -> bool:
    """Whether the key is one of those that are never served."""
    return key.startswith(INCOMING)


def original_key(profile: str, asset_id: uuid.UUID, extension: str) -> str:
    """Where the verified original lives for good."""
    return f"{profile}/{asset_id}/original{extension}"


def variant_key(profile: str, asset_id: uuid.UUID, variant: str, digest: str, extension: str) -> str:
    """Where a variant lives: a new recipe gives a new key, so old URLs can be cached for ever."""
    return f"{profile}/{asset_id}/{variant}-{digest}{extension}"


def clean_filename(name: str | None) -> str:
    """A file name that is safe to show and to send back: no path, no control or direction marks.

    Letters of every script are kept; at most 255 bytes of UTF-8, the extension kept.
    """
    text = (name or "").replace("\\", "/").rsplit("/", 1)[-1]
    text = "".join(c for c in text if unicodedata.category(c) not in _UNSEEN)
    text = _trimmed(_shorten(_trimmed(unicodedata.normalize("NFC", text))))
    if not text or text.partition(".")[0].rstrip().lower() in _WINDOWS_DEVICES:
        return FALLBACK_FILENAME + file_extension(text)
    return text


def _trimmed(name: str) -> str:
    return name.strip(_EDGES)


def _shorten(name: str) -> str:
    ending = name[-len(file_extension(name)) :] if file_extension(name) else ""
    stem = name.removesuffix(ending).encode()[: MAX_FILENAME_BYTES - len(ending)].decode(errors="ignore")
    return stem + ending


def file_extension(name: str) -> str:
    """The lower-case extension with its dot, or an empty string."""
    suffix = PurePosixPath(name).suffix
    return suffix.lower() if 1 < len(suffix) <= 16 and suffix[1:].isascii() and suffix[1:].isalnum() else ""  # noqa: PLR2004


def content_disposition(disposition: Disposition, filename: str) -> str:
    """The header of RFC 6266, with an ASCII name for old readers and the real one beside it."""
    name = clean_filename(filename)
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    plain = "".join(c if c not in '"\\%/' else "_" for c in plain).strip() or FALLBACK_FILENAME
    return f"{disposition}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
