"""What parent and child say to each other: one JSON line each way, open files beside the question."""

from __future__ import annotations

import json
from typing import Any

from flask_rindle.errors import (
    MediaDamaged,
    MediaUnsupported,
    OutputWrong,
    RindleError,
    SandboxFailed,
    TooManyPixels,
)

MAX_LINE_BYTES = 64 * 1024
MAX_FILES = 200

_MAX_TEXT = 200
_CLASSES: dict[str, type[RindleError]] = {
    cls.code: cls for cls in (MediaDamaged, MediaUnsupported, OutputWrong, SandboxFailed, TooManyPixels)
}


def pack(message: object) -> bytes:
    """The message as one line. ValueError when it is too long to be sent."""
    line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
    if len(line) > MAX_LINE_BYTES:
        msg = f"{len(line)} bytes do not fit into one message of {MAX_LINE_BYTES}"
        raise ValueError(msg)
    return line


def describe(error: RindleError) -> dict[str, object]:
    """An error as JSON-ready facts; `revive` undoes it."""
    return {"code": error.code, **vars(error)}


def revive(facts: Any) -> RindleError:
    """The error that `facts` describe. What makes no sense is SandboxFailed("answer"): the child is not trusted."""
    try:
        arguments = {name: _plain(value) for name, value in facts.items() if name != "code"}
        return _CLASSES[facts["code"]](**arguments)
    except (AttributeError, KeyError, TypeError, ValueError):
        return SandboxFailed("answer")


def _plain(value: object) -> str | int:
    if isinstance(value, str):
        return value[:_MAX_TEXT]
    if type(value) is not int:
        msg = f"not a fact: {value!r:.40}"
        raise TypeError(msg)
    return value
