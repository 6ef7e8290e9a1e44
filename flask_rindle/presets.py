"""Profiles to start from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from flask_rindle.errors import InvalidProfile
from flask_rindle.profiles import Profile
from flask_rindle.recipes import video
from flask_rindle.recipes.base import Recipe


class WebVideo(Profile):
    """A video as browsers want it: `web_720p` and `poster`; `scrub_strip = True` adds the strip."""

    scrub_strip: ClassVar[bool] = False
    variants: ClassVar[Mapping[str, Recipe]] = {"web_720p": video.web_720p(), "poster": video.poster()}

    def __init_subclass__(cls, **options: Any) -> None:
        if cls.scrub_strip not in (True, False):
            raise InvalidProfile(cls.__name__, [f"scrub_strip={cls.scrub_strip!r}: write True or False"])
        if isinstance(cls.variants, Mapping):
            cls.variants = _with_strip(cls)
        super().__init_subclass__(**options)


def _with_strip(cls: type[WebVideo]) -> dict[str, Recipe]:
    chosen = dict(cls.variants)
    if "variants" not in vars(cls):
        chosen.pop("scrub_strip", None)  # a parent's
    if cls.scrub_strip:
        chosen["scrub_strip"] = video.thumbnail_strip()
    return chosen
