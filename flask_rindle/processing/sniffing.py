"""What a file is, told from its first bytes. Runs in the decoder child."""

from __future__ import annotations

import re
from typing import BinaryIO

import pylibmagic  # noqa: F401 - before magic: it says where libmagic and its database are

# isort: split
import magic

from flask_rindle.security.mime import OCTET_STREAM, canonical_type

HEAD_BYTES = 64 * 1024

_MAGIC = magic.Magic(mime=True)
_RENAMED = {
    "application/x-empty": OCTET_STREAM,
    "image/heic-sequence": "image/heic",
    "image/heif-sequence": "image/heic",
    "image/avif-sequence": "image/avif",
    "application/xml": "text/xml",
}
_PROLOGUE = re.compile(rb"(?:\xef\xbb\xbf)?(?:\s+|<!--.*?-->|<\?.*?\?>|<!doctype[^>\[]*(?:\[.*?\]\s*)?>)*", re.I | re.S)
_ROOT = re.compile(rb"<(?:[\w.-]+:)?([a-z][\w.-]*)", re.I)
_UNFINISHED = (b"<!--", b"<?", b"<!")


def sniff_type(source: BinaryIO) -> str:
    """The canonical media type of the bytes, whatever their sender calls them."""
    source.seek(0)
    head = source.read(HEAD_BYTES)
    source.seek(0)
    found = _MAGIC.from_buffer(head)
    content_type = canonical_type(_RENAMED.get(found, found))
    if content_type in ("image/heic", "image/avif"):
        return _still_type(head, content_type)
    return _markup_type(head, content_type) if content_type.startswith("text/") else content_type


def _still_type(head: bytes, content_type: str) -> str:
    """AVIF and HEIC share a container; libmagic looks at the first brand only, which may be the common `mif1`."""
    brands = head[8 : int.from_bytes(head[:4], "big")]
    if head[8:12] in (b"mif1", b"msf1") and (b"avif" in brands or b"avis" in brands):
        return "image/avif"
    return content_type


def _markup_type(head: bytes, content_type: str) -> str:
    """What a browser would execute is not plain text: libmagic misses markup behind comments, BOMs and namespaces."""
    prologue = _PROLOGUE.match(head)
    rest = head[prologue.end() :] if prologue else head
    root = _ROOT.match(rest)
    if root is None:
        return "text/html" if content_type == "text/plain" and rest.startswith(_UNFINISHED) else content_type
    name = root[1].lower()
    if name == b"svg":
        return "image/svg+xml"
    if content_type == "text/xml":
        return "application/xhtml+xml" if name == b"html" else content_type
    return "text/html"
