"""The ports of processing: who looks at a file, who makes variants of it, who scans it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flask_rindle.errors import RindleError
from flask_rindle.recipes.base import Recipe
from flask_rindle.types import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaFacts:
    """What the bytes are. Width and height are as displayed, upright, in pixels."""

    kind: Kind
    content_type: str
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    thumbhash: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One variant to make: its name, its recipe, and the new file that it goes to."""

    name: str
    recipe: Recipe
    target: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A variant that was made and checked."""

    name: str
    content_type: str
    size_bytes: int
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A variant that could not be made; its siblings are not concerned."""

    name: str
    error: RindleError


Stop = Callable[[], bool]


def never() -> bool:
    """The `Stop` of work that nobody calls off."""
    return False


class Probe(Protocol):
    """Looks at a file of any type, safely."""

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
        ...


class Processor(Protocol):
    """Makes variants of the source kinds and recipes that it accepts."""

    def accepts(self, recipe: Recipe) -> bool: ...

    def process(
        self, source: Path, content_type: str, orders: Sequence[Order], *, max_pixels: int | None = None, stop: Stop
    ) -> Sequence[Made | Failed]:
        """One answer an order, from one decode of the source.

        `stop()` becoming true ends the work: Cancelled. Raises what concerns the source as a
        whole: MediaUnsupported, MediaDamaged, TooManyPixels, SandboxFailed.
        """
        ...


@dataclass(frozen=True, slots=True)
class Clean:
    """The scanner found nothing."""


@dataclass(frozen=True, slots=True)
class Infected:
    """The scanner found something; `reason` is for operators."""

    reason: str


class Scanner(Protocol):
    """Looks for malware, or for whatever a profile does not want."""

    name: str

    def scan(self, source: Path) -> Clean | Infected: ...
