"""Profiles to start from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from flask_rindle.profiles import Profile
from flask_rindle.recipes import video
from flask_rindle.recipes.base import Recipe


class WebVideo(Profile):
    """A video as browsers want it: `web_720p` and `poster`; `scrub_strip = True` adds the strip."""

    scrub_strip: ClassVar[bool] = False
    variants: ClassVar[Mapping[str, Recipe]] = {"web_720p": video.web_720p(), "poster": video.poster()}

    def __init_subclass__(cls, **options: Any) -> None:
        cls.variants = dict(WebVideo.variants)
        if cls.scrub_strip:
            cls.variants["scrub_strip"] = video.thumbnail_strip()
        super().__init_subclass__(**options)
