"""Image recipes: `fit` inside a box, `fill` a box, `crop` a box out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from flask_rindle.recipes.base import Plain, Recipe
from flask_rindle.types import Kind

Mode = Literal["fit", "fill", "crop"]
Format = Literal["jpeg", "png", "webp", "avif"]
Gravity = Literal["center", "top", "bottom", "left", "right"]

DEFAULT_QUALITY = 80
MAX_SIDE_PIXELS = 16_383  # what WebP can hold


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecipe(Recipe):
    """One picture made from another. Raises ValueError for options that make no sense."""

    source_kinds: ClassVar[frozenset[Kind]] = frozenset({"image"})

    mode: Mode
    width: int | None = None
    height: int | None = None
    format: Format = "jpeg"
    quality: int | None = None
    upscale: bool = False
    gravity: Gravity = "center"

    def __post_init__(self) -> None:
        for name, choices in (("mode", Mode), ("format", Format), ("gravity", Gravity)):
            if getattr(self, name) not in get_args(choices):
                msg = f"{name}={getattr(self, name)!r}: write one of {', '.join(get_args(choices))}"
                raise ValueError(msg)
        self._check_box()
        if self.quality is not None and (type(self.quality) is not int or not 1 <= self.quality <= 100):  # noqa: PLR2004
            msg = f"quality={self.quality!r}: write a whole number from 1 to 100"
            raise ValueError(msg)
        if self.upscale not in (True, False):
            msg = f"upscale={self.upscale!r}: write True or False"
            raise ValueError(msg)

    def _check_box(self) -> None:
        for name in ("width", "height"):
            side = getattr(self, name)
            if side is not None and (type(side) is not int or not 1 <= side <= MAX_SIDE_PIXELS):
                msg = f"{name}={side!r}: write a whole number of pixels from 1 to {MAX_SIDE_PIXELS}"
                raise ValueError(msg)
        given = [side for side in (self.width, self.height) if side is not None]
        if self.mode == "fit" and not given:
            msg = "fit needs a width, a height, or both"
            raise ValueError(msg)
        if self.mode != "fit" and len(given) != 2:  # noqa: PLR2004 - both sides
            msg = f"{self.mode} needs a width and a height"
            raise ValueError(msg)

    @property
    def content_type(self) -> str:
        return f"image/{self.format}"

    def spec(self) -> Mapping[str, Plain]:
        spec: dict[str, Plain] = {"mode": self.mode, "format": self.format}
        optional = {"width": self.width, "height": self.height, "quality": self.quality}
        spec.update({key: value for key, value in optional.items() if value is not None})
        if self.upscale:
            spec["upscale"] = True
        if self.gravity != "center":
            spec["gravity"] = self.gravity
        return spec


def fit(
    width: int | None = None,
    height: int | None = None,
    *,
    format: Format = "jpeg",  # noqa: A002 - the word that people type
    quality: int | None = None,
    upscale: bool = False,
) -> ImageRecipe:
    """The whole picture inside the box, its aspect ratio kept; either side may be left open."""
    return ImageRecipe(mode="fit", width=width, height=height, format=format, quality=quality, upscale=upscale)


def fill(
    width: int,
    height: int,
    *,
    format: Format = "jpeg",  # noqa: A002
    quality: int | None = None,
    upscale: bool = False,
    gravity: Gravity = "center",
) -> ImageRecipe:
    """The box covered by the picture, what stands over cut off on the side away from `gravity`.

    A picture smaller than the box gives the box's shape at the picture's own scale, unless
    `upscale` is true.
    """
    return ImageRecipe(
        mode="fill", width=width, height=height, format=format, quality=quality, upscale=upscale, gravity=gravity
    )


def crop(
    width: int,
    height: int,
    *,
    format: Format = "jpeg",  # noqa: A002
    quality: int | None = None,
    gravity: Gravity = "center",
) -> ImageRecipe:
    """A window of at most this size cut out of the picture at its own scale, at `gravity`."""
    return ImageRecipe(mode="crop", width=width, height=height, format=format, quality=quality, gravity=gravity)
