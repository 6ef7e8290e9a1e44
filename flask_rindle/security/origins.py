"""Web origins, as browsers name pages (RFC 6454, section 6)."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_HOST = r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?|\[[0-9a-f:.]{2,45}\]"
_ORIGIN = re.compile(rf"https?://({_HOST})(:[1-9][0-9]{{0,4}})?")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_LAST_PORT = 65_535


def is_origin(text: object) -> bool:
    """Whether a browser would name a page so: in small letters, and without a port that goes without saying."""
    if not isinstance(text, str) or not _ORIGIN.fullmatch(text):
        return False
    try:
        parts = urlsplit(text)
        port = int(parts.netloc.rpartition(":")[2]) if re.search(r":\d+$", parts.netloc) else None
    except ValueError:
        return False
    return port is None or (port <= _LAST_PORT and port != _DEFAULT_PORTS[parts.scheme])


def check_origin(text: object) -> str:
    """The origin; a ValueError says what to write instead of what is none."""
    if isinstance(text, str) and is_origin(text):
        return text
    msg = f"{text!r} is no origin; write one such as https://app.example.com"
    raise ValueError(msg)
