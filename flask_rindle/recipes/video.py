"""Video recipes: web renditions, and the pictures taken out of a video."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from flask_rindle.recipes.base import Plain, Recipe
from flask_rindle.types import Kind

_BOXES = {"web_720p": (1280, 720), "web_480p": (854, 480)}
_VIDEO: frozenset[Kind] = frozenset({"video"})


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoRecipe(Recipe):
    """An MP4 with H.264 and AAC that every browser plays."""

    source_kinds: ClassVar[frozenset[Kind]] = _VIDEO

    preset: Literal["web_720p", "web_480p"]
    faststart: bool = True

    @property
    def content_type(self) -> str:
        return "video/mp4"

    def spec(self) -> Mapping[str, Plain]:
        width, height = _BOXES[self.preset]
        return {
            "kind": "video",
            "output_kind": "video",
            "preset": self.preset,
            "container": "mp4",
            "video_codec": "h264",
            "audio_codec": "aac",
            "width": width,
            "height": height,
            "crf": 23,
            "audio_bitrate_kbps": 128,
            "faststart": self.faststart,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFrameRecipe(Recipe):
    """A picture taken out of a video: a poster, or a strip of thumbnails."""

    source_kinds: ClassVar[frozenset[Kind]] = _VIDEO

    preset: Literal["video_poster_scene", "video_thumbnail_strip"]

    @property
    def content_type(self) -> str:
        return "image/jpeg"

    def spec(self) -> Mapping[str, Plain]:
        return {"preset": self.preset}


def web_720p(*, faststart: bool = True) -> VideoRecipe:
    """An MP4 of at most 1280 × 720 pixels."""
    return VideoRecipe(preset="web_720p", faststart=faststart)


def web_480p(*, faststart: bool = True) -> VideoRecipe:
    """An MP4 of at most 854 × 480 pixels."""
    return VideoRecipe(preset="web_480p", faststart=faststart)


def poster() -> VideoFrameRecipe:
    """One picture that stands for the video."""
    return VideoFrameRecipe(preset="video_poster_scene")


def thumbnail_strip() -> VideoFrameRecipe:
    """Small frames side by side, for scrubbing."""
    return VideoFrameRecipe(preset="video_thumbnail_strip")
