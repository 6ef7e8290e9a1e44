"""The processor of pictures: hands the source and the new files to the decoder child."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from flask_rindle.errors import MediaUnsupported, SandboxFailed
from flask_rindle.processing.base import Failed, Made, Order, Stop
from flask_rindle.processing.sandbox import Sandbox
from flask_rindle.processing.wire import revive
from flask_rindle.recipes.base import Recipe
from flask_rindle.recipes.image import ImageRecipe


class ImageProcessor:
    """Makes pictures out of pictures, all orders from one decode, in the decoder child."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def accepts(self, recipe: Recipe) -> bool:
        return isinstance(recipe, ImageRecipe)

    def process(
        self, source: Path, content_type: str, orders: Sequence[Order], *, max_pixels: int | None = None, stop: Stop
    ) -> Sequence[Made | Failed]:
        """One answer an order. A target that failed is gone; of animations the first frame is taken."""
        if not orders:
            return []
        request = {
            "content_type": content_type,
            "max_pixels": max_pixels,
            "recipes": [_spelled(order.recipe) for order in orders],
        }
        return self._sandbox.run(
            "render",
            request,
            partial(_outcomes, orders),
            source=source,
            targets=[order.target for order in orders],
            stop=stop,
        )


def _spelled(recipe: Recipe) -> dict[str, object]:
    if not isinstance(recipe, ImageRecipe):
        raise MediaUnsupported(recipe.content_type)
    return asdict(recipe)


def _outcomes(orders: Sequence[Order], answers: object) -> list[Made | Failed]:
    if not isinstance(answers, list) or len(answers) != len(orders):
        raise SandboxFailed("answer")
    return [_outcome(order, answer) for order, answer in zip(orders, answers, strict=True)]


def _outcome(order: Order, answer: Any) -> Made | Failed:
    match answer:
        case {"made": {"width": int(width), "height": int(height)}}:
            return Made(
                name=order.name,
                content_type=order.recipe.content_type,
                size_bytes=order.target.stat().st_size,
                width=width,
                height=height,
            )
        case {"error": facts}:
            order.target.unlink(missing_ok=True)
            return Failed(name=order.name, error=revive(facts))
    raise SandboxFailed("answer")
