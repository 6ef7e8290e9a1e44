"""What contract suites are made of, whatever the port."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

E = TypeVar("E", bound=Exception)


def expect(fact: object, otherwise: str) -> None:
    """AssertionError with the sentence, also under `python -O`."""
    if not fact:
        raise AssertionError(otherwise)


def expect_error(kind: type[E], call: Callable[[], object], doing: str) -> E:
    """The error of this kind that the call raises."""
    try:
        call()
    except kind as error:
        return error
    message = f"{doing} raised no {kind.__name__}"
    raise AssertionError(message)


class SourceBroke(Exception):
    """The sender hung up."""


class Dribble(io.RawIOBase):
    """A source that only reads, a little at a time, and may break after `breaks_after` bytes."""

    def __init__(self, data: bytes, breaks_after: int | None = None) -> None:
        self._data = io.BytesIO(data)
        self._breaks_after = breaks_after

    def read(self, size: int = -1) -> bytes:
        if self._breaks_after is not None and self._data.tell() >= self._breaks_after:
            raise SourceBroke
        return self._data.read(min(size, 40_000) if size >= 0 else 40_000)


def open_handles() -> int:
    """How many file descriptors this process has, where the system tells."""
    listing = Path("/dev/fd")
    return len(list(listing.iterdir())) if listing.is_dir() else 0


@contextmanager
def logged() -> Iterator[list[str]]:
    """Every sentence that is logged meanwhile, from INFO up."""
    heard: list[str] = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield heard
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
