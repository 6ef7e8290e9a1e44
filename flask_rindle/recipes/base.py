"""What every recipe has: the kinds it is made from, the type it makes, a canonical form, a digest."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from flask_rindle.types import Kind

Plain = str | int | float | bool


class Recipe(ABC):
    """A frozen description of one derivative. Equal specs have equal digests, for ever."""

    source_kinds: ClassVar[frozenset[Kind]]

    @property
    @abstractmethod
    def content_type(self) -> str:
        """The media type of what is made."""

    @abstractmethod
    def spec(self) -> Mapping[str, Plain]:
        """The canonical form. Options that came after the first release are left out at their default."""

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form, as 64 hex digits."""
        pairs = [[key, value] for key, value in sorted(self.spec().items())]
        text = json.dumps(pairs, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()
