"""Waveform recipes: peaks as JSON, to draw a track from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from flask_rindle.recipes.base import Plain, Recipe
from flask_rindle.types import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveformRecipe(Recipe):
    """A thousand pairs of lowest and highest sample over the whole track."""

    source_kinds: ClassVar[frozenset[Kind]] = frozenset({"audio", "video"})

    @property
    def content_type(self) -> str:
        return "application/json"

    def spec(self) -> Mapping[str, Plain]:
        return {
            "kind": "waveform",
            "output_kind": "waveform",
            "preset": "overview",
            "format": "json",
            "length": 1000,
            "analysis_sample_rate": 8000,
        }


def overview() -> WaveformRecipe:
    """The whole track in a thousand peaks."""
    return WaveformRecipe()
