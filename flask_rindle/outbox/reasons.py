"""How an error is written down in a row."""

from __future__ import annotations

from flask_rindle.errors import RindleError

MAX_ERROR_CHARACTERS = 2000


def error_code(error: Exception) -> str:
    """The stable code of an error of ours, the class name of anybody else's."""
    return error.code if isinstance(error, RindleError) else type(error).__name__[:64]


def error_text(error: Exception) -> str:
    """What an error says, as any database can hold it."""
    return str(error)[:MAX_ERROR_CHARACTERS].replace("\0", "").encode(errors="replace").decode()


def is_bug(code: str) -> bool:
    """Whether a code is that of a mistake in somebody's code, and not of the world around it."""
    # Codes of ours are in lower case, names of classes are not.
    return not code.islower()
