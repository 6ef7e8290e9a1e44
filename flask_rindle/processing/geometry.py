"""Which part of a picture a recipe shows, and at which size. Numbers only; no pixel is touched here."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import floor

from flask_rindle.recipes.image import Gravity, ImageRecipe

Size = tuple[int, int]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Window:
    """`box` (left, top, right, bottom) of the upright source, shown at `size`."""

    box: Box
    size: Size

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the result for each pixel of the source, across and down."""
        left, top, right, bottom = self.box
        return self.size[0] / (right - left), self.size[1] / (bottom - top)


def window(recipe: ImageRecipe, source: Size) -> Window:
    """What `recipe` shows of an upright picture of this size."""
    if recipe.mode == "fit":
        return _fit(recipe, source)
    box = (recipe.width or 1, recipe.height or 1)
    if recipe.mode == "crop":
        return _cut((min(box[0], source[0]), min(box[1], source[1])), source, recipe.gravity)
    return _fill(box, source, recipe)


def _fit(recipe: ImageRecipe, source: Size) -> Window:
    sides = zip((recipe.width, recipe.height), source, strict=True)
    scale = min(Fraction(wanted, side) for wanted, side in sides if wanted is not None)
    if not recipe.upscale:
        scale = min(scale, Fraction(1))
    return Window((0, 0, *source), (_pixels(source[0] * scale), _pixels(source[1] * scale)))


def _fill(box: Size, source: Size, recipe: ImageRecipe) -> Window:
    scale = max(Fraction(box[0], source[0]), Fraction(box[1], source[1]))
    shown = (box[0] / scale, box[1] / scale)
    if scale > 1 and not recipe.upscale:
        return _cut((_pixels(shown[0]), _pixels(shown[1])), source, recipe.gravity)
    left, top = _corner(shown, source, recipe.gravity)
    return Window((float(left), float(top), float(left + shown[0]), float(top + shown[1])), box)


def _cut(size: Size, source: Size, gravity: Gravity) -> Window:
    """A window at the picture's own scale, on whole pixels."""
    left, top = map(floor, _corner((Fraction(size[0]), Fraction(size[1])), source, gravity))
    return Window((left, top, left + size[0], top + size[1]), size)


def _corner(shown: tuple[Fraction, Fraction], source: Size, gravity: Gravity) -> tuple[Fraction, Fraction]:
    across = {"left": Fraction(0), "right": Fraction(1)}.get(gravity, Fraction(1, 2))
    down = {"top": Fraction(0), "bottom": Fraction(1)}.get(gravity, Fraction(1, 2))
    return (source[0] - shown[0]) * across, (source[1] - shown[1]) * down


def _pixels(length: Fraction) -> int:
    return max(1, round(length))
