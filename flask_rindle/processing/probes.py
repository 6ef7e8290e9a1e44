"""What a file is, asked of the decoder child."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from flask_rindle.errors import SandboxFailed
from flask_rindle.processing.base import MediaFacts, Stop, never
from flask_rindle.processing.sandbox import Sandbox
from flask_rindle.security.mime import kind_of

_MAX_TEXT = 200


class FileProbe:
    """Tells the type of any file, and decodes it once when it is a picture that Pillow opens.

    A type without a decoder here has no size: whether it is taken is the profile's decision.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def probe(
        self,
        source: Path,
        *,
        allow_mime: Collection[str] | None = None,
        max_pixels: int | None = None,
        stop: Stop = never,
    ) -> MediaFacts:
        """The facts; of a type that is not allowed only the type, because nothing opens it.

        `stop()` becoming true ends the work: Cancelled. Raises MediaDamaged, TooManyPixels,
        SandboxFailed.
        """
        request = {"max_pixels": max_pixels, "allow_mime": None if allow_mime is None else sorted(allow_mime)}
        return self._sandbox.run("probe", request, _facts, source=source, stop=stop)


def _facts(answer: object) -> MediaFacts:
    content_type = _text(answer, "content_type") if isinstance(answer, dict) else None
    if not isinstance(answer, dict) or content_type is None:
        raise SandboxFailed("answer")
    return MediaFacts(
        kind=kind_of(content_type),
        content_type=content_type,
        width=_number(answer, "width"),
        height=_number(answer, "height"),
        frames=_number(answer, "frames"),
        thumbhash=_text(answer, "thumbhash"),
    )


def _number(answer: dict[str, Any], name: str) -> int | None:
    value = answer.get(name)
    if value is None or (type(value) is int and value > 0):
        return value
    raise SandboxFailed("answer")


def _text(answer: dict[str, Any], name: str) -> str | None:
    value = answer.get(name)
    if value is None or (isinstance(value, str) and 0 < len(value) <= _MAX_TEXT):
        return value
    raise SandboxFailed("answer")
