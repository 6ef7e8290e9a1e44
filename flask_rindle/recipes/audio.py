"""Audio recipes: compressed renditions for the browser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from flask_rindle.recipes.base import Plain, Recipe
from flask_rindle.types import Kind

_CONTAINERS = {"m4a_128k": ("m4a", "aac", "audio/mp4"), "mp3_128k": ("mp3", "mp3", "audio/mpeg")}


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioRecipe(Recipe):
    """A 128 kbit/s rendition of the first audio track. Raises ValueError for senseless options."""

    source_kinds: ClassVar[frozenset[Kind]] = frozenset({"audio", "video"})

    preset: Literal["m4a_128k", "mp3_128k"]
    channels: Literal[1, 2] | None = None
    normalize: bool = False
    two_pass: bool = False

    def __post_init__(self) -> None:
        if self.channels not in (None, 1, 2):
            msg = f"channels={self.channels!r}: write 1, 2, or leave it out to keep the source's"
            raise ValueError(msg)
        if self.two_pass and not self.normalize:
            msg = "two_pass=True measures loudness: write normalize=True beside it"
            raise ValueError(msg)

    @property
    def content_type(self) -> str:
        return _CONTAINERS[self.preset][2]

    def spec(self) -> Mapping[str, Plain]:
        container, codec, _ = _CONTAINERS[self.preset]
        spec: dict[str, Plain] = {
            "kind": "audio",
            "output_kind": "audio",
            "preset": self.preset,
            "container": container,
            "audio_codec": codec,
            "audio_bitrate_kbps": 128,
            "normalize": self.normalize,
            "two_pass": self.two_pass,
        }
        if self.channels is not None:
            spec["channels"] = self.channels
        return spec


def m4a_128k(*, channels: Literal[1, 2] | None = None, normalize: bool = False, two_pass: bool = False) -> AudioRecipe:
    """AAC in an M4A file; `normalize` sets the loudness to EBU R128."""
    return AudioRecipe(preset="m4a_128k", channels=channels, normalize=normalize, two_pass=two_pass)


def mp3_128k(*, channels: Literal[1, 2] | None = None, normalize: bool = False, two_pass: bool = False) -> AudioRecipe:
    """An MP3 file; `normalize` sets the loudness to EBU R128."""
    return AudioRecipe(preset="mp3_128k", channels=channels, normalize=normalize, two_pass=two_pass)
