"""Media types: one spelling for each, the extensions that fit it, and what a browser may show inline."""

from __future__ import annotations

import mimetypes
import re

from flask_rindle.types import Kind

OCTET_STREAM = "application/octet-stream"
_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}")  # RFC 6838, section 4.2

# First the extension that we write, then those that people use.
EXTENSIONS: dict[str, tuple[str, ...]] = {
    "image/jpeg": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "image/png": (".png", ".apng"),
    "image/webp": (".webp",),
    "image/avif": (".avif", ".avifs"),
    "image/gif": (".gif",),
    "image/heic": (".heic", ".heif", ".hif"),
    "image/tiff": (".tif", ".tiff"),
    "image/svg+xml": (".svg",),
    "video/mp4": (".mp4", ".m4v"),
    "video/quicktime": (".mov", ".qt"),
    "video/webm": (".webm",),
    "video/x-matroska": (".mkv",),
    "audio/mpeg": (".mp3",),
    "audio/mp4": (".m4a", ".mp4"),
    "audio/ogg": (".ogg", ".oga", ".opus"),
    "audio/wav": (".wav",),
    "audio/flac": (".flac",),
    "application/pdf": (".pdf",),
    "application/json": (".json",),
    "text/plain": (".txt", ".text", ".log", ".md", ".csv"),
}

_SAME = {
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/x-png": "image/png",
    "image/apng": "image/png",
    "image/vnd.mozilla.apng": "image/png",
    "image/heif": "image/heic",
    "image/svg": "image/svg+xml",
    "video/x-m4v": "video/mp4",
    "audio/mp3": "audio/mpeg",
    "audio/x-m4a": "audio/mp4",
    "audio/m4a": "audio/mp4",
    "audio/x-wav": "audio/wav",
    "audio/vnd.wave": "audio/wav",
    "audio/x-flac": "audio/flac",
}

# What no browser executes. Everything else leaves as an attachment, whatever its sender called it.
INLINE_TYPES = frozenset(
    {
        "image/jpeg",
        "image/png",
        "image/webp",
        "image/avif",
        "image/gif",
        "video/mp4",
        "video/quicktime",
        "video/webm",
        "audio/mpeg",
        "audio/mp4",
        "audio/ogg",
        "audio/wav",
        "audio/flac",
    }
)


def canonical_type(content_type: str | None) -> str:
    """The one spelling of a media type, without parameters; octet-stream when there is none."""
    bare = (content_type or "").partition(";")[0].strip().lower()
    return _SAME.get(bare, bare) if _TYPE.fullmatch(bare) else OCTET_STREAM


def kind_of(content_type: str) -> Kind:
    """The kind of asset that a media type makes."""
    family = content_type.partition("/")[0]
    return family if family in ("image", "video", "audio") else "other"  # type: ignore[return-value]


def extension_for(content_type: str) -> str:
    """The extension that we write for a type; empty when we know none."""
    known = EXTENSIONS.get(content_type)
    return known[0] if known else (mimetypes.guess_extension(content_type) or "")


def extension_fits(extension: str, content_type: str) -> bool:
    """Whether a file so named may hold this type; a name that tells nothing fits everything."""
    if not extension or content_type == OCTET_STREAM:
        return True
    if content_type in EXTENSIONS:
        return extension in EXTENSIONS[content_type]
    claimed = mimetypes.guess_type(f"x{extension}")[0]
    return claimed is None or canonical_type(claimed) == content_type


def may_show_inline(content_type: str) -> bool:
    """Whether a browser can be handed this type without a chance to execute it."""
    return content_type in INLINE_TYPES
