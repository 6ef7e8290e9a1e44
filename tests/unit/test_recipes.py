"""Recipes: their digests never drift, and what makes no sense is refused where it is written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_rindle import audio, image, video, waveform
from flask_rindle.recipes.base import Plain, Recipe
from flask_rindle.recipes.image import MAX_SIDE_PIXELS, ImageRecipe

# Digests are parts of keys: a change here loses every variant that was ever made.
GOLDEN = [
    (image.fit(64, 64), "3a9ab2f60b2d26217471f22cc329252acba546c6341111a3ef89a8d9978d30a7"),
    (video.web_720p(), "7adba05438de4278fad4a4e708b2bfe66b1f35cbf1e80469258fcc886d5725b8"),
    (video.web_480p(), "5cac44eb847743c6619b17308e22b9cde160198eef08910604d3f2df130bfc43"),
    (audio.m4a_128k(), "c3c6fdc6f3880830a1ae59dedfc7f639e1e7d87959ad09e6bd10aa8e9fa37cd7"),
    (audio.mp3_128k(), "7e3a652625c9a19c14320b29a5e37f19bf87d680ce9a6bb8e8b75393110ee06a"),
    (waveform.overview(), "e90e9ae2ae6459537c222ce9188798d31fcb22e033f7ac9c45147beb02439a75"),
    (video.poster(), "db97d75dfcc0b3e2a4f935bb1b027b54d3b4d5ed4d0942be7e4ebd47411a2e50"),
    (video.thumbnail_strip(), "082cf9d7376b081b215a957df6e6e1ec233fc17d7f83f0ac97781d1b8d45d87c"),
]
CANONICAL = [
    (image.fit(64, 64), '[["format","jpeg"],["height",64],["mode","fit"],["width",64]]'),
    (image.fit(height=9, format="png"), '[["format","png"],["height",9],["mode","fit"]]'),
    (
        image.fill(4, 5, format="avif", quality=7, upscale=True, gravity="top"),
        '[["format","avif"],["gravity","top"],["height",5],["mode","fill"],["quality",7],["upscale",true],["width",4]]',
    ),
    (image.crop(4, 5, format="webp"), '[["format","webp"],["height",5],["mode","crop"],["width",4]]'),
    (
        audio.mp3_128k(channels=1, normalize=True, two_pass=True),
        '[["audio_bitrate_kbps",128],["audio_codec","mp3"],["channels",1],["container","mp3"],["kind","audio"],'
        '["normalize",true],["output_kind","audio"],["preset","mp3_128k"],["two_pass",true]]',
    ),
]


@pytest.mark.parametrize(("recipe", "digest"), GOLDEN, ids=[str(recipe)[:60] for recipe, _ in GOLDEN])
def test_digests_are_the_published_ones(recipe: Recipe, digest: str) -> None:
    assert recipe.digest == digest


@pytest.mark.parametrize(("recipe", "text"), CANONICAL, ids=[str(recipe)[:60] for recipe, _ in CANONICAL])
def test_the_digest_is_of_the_canonical_form(recipe: Recipe, text: str) -> None:
    assert recipe.digest == hashlib.sha256(text.encode()).hexdigest()


def test_what_gives_another_picture_gives_another_digest() -> None:
    recipes = [
        image.fit(64, 64),
        image.fit(64),
        image.fit(height=64),
        image.fit(64, 64, format="webp"),
        image.fit(64, 64, quality=80),
        image.fit(64, 64, upscale=True),
        image.fill(64, 64),
        image.fill(64, 64, gravity="left"),
        image.crop(64, 64),
        video.web_720p(faststart=False),
        *(recipe for recipe, _ in GOLDEN[1:]),
        audio.m4a_128k(channels=2),
        audio.m4a_128k(normalize=True),
        audio.m4a_128k(normalize=True, two_pass=True),
    ]
    assert all(a.digest != b.digest for a, b in combinations(recipes, 2))


def test_the_default_written_out_is_the_default() -> None:
    assert image.fill(6, 7, format="jpeg", quality=None, upscale=False, gravity="center") == image.fill(6, 7)
    assert image.fit(width=6, height=7).digest == image.fit(6, 7).digest


class Reversed(ImageRecipe):
    def spec(self) -> dict[str, Plain]:
        return dict(reversed(list(super().spec().items())))


@given(width=st.integers(1, MAX_SIDE_PIXELS), height=st.integers(1, MAX_SIDE_PIXELS))
def test_the_order_of_a_spec_does_not_matter(width: int, height: int) -> None:
    assert Reversed(mode="fit", width=width, height=height).digest == image.fit(width, height).digest


def test_recipes_are_values() -> None:
    recipe = image.fit(6, 7)
    assert len({recipe, image.fit(6, 7)}) == 1
    with pytest.raises(FrozenInstanceError):
        recipe.width = 8  # type: ignore[misc]


@pytest.mark.parametrize(
    ("recipe", "content_type", "kinds"),
    [
        (image.fit(6), "image/jpeg", {"image"}),
        (image.fit(6, format="avif"), "image/avif", {"image"}),
        (video.web_480p(), "video/mp4", {"video"}),
        (video.poster(), "image/jpeg", {"video"}),
        (audio.m4a_128k(), "audio/mp4", {"audio", "video"}),
        (audio.mp3_128k(), "audio/mpeg", {"audio", "video"}),
        (waveform.overview(), "application/json", {"audio", "video"}),
    ],
    ids=str,
)
def test_a_recipe_knows_what_it_makes_and_of_what(recipe: Recipe, content_type: str, kinds: set[str]) -> None:
    assert (recipe.content_type, recipe.source_kinds) == (content_type, kinds)


@pytest.mark.parametrize(
    ("make", "options", "says"),
    [
        (image.fit, {}, "fit needs a width, a height, or both"),
        (image.fill, {"width": 3, "height": None}, "fill needs a width and a height"),
        (image.crop, {"width": None, "height": 3}, "crop needs a width and a height"),
        (image.fit, {"width": 0}, "width=0"),
        (image.fit, {"width": -5}, "width=-5"),
        (image.fit, {"width": 1.5}, "width=1.5"),
        (image.fit, {"width": "64"}, "width='64'"),
        (image.fit, {"width": True}, "width=True"),
        (image.fit, {"height": MAX_SIDE_PIXELS + 1}, f"from 1 to {MAX_SIDE_PIXELS}"),
        (image.fit, {"width": 3, "format": "gif"}, "jpeg, png, webp, avif"),
        (image.fit, {"width": 3, "format": "JPEG"}, "jpeg, png, webp, avif"),
        (image.fit, {"width": 3, "quality": 0}, "quality=0"),
        (image.fit, {"width": 3, "quality": 101}, "quality=101"),
        (image.fit, {"width": 3, "quality": True}, "quality=True"),
        (image.fit, {"width": 3, "upscale": "no"}, "upscale='no'"),
        (image.fill, {"width": 3, "height": 3, "gravity": "north"}, "center, top, bottom, left, right"),
        (ImageRecipe, {"mode": "stretch", "width": 3}, "fit, fill, crop"),
        (audio.m4a_128k, {"channels": 6}, "channels=6"),
        (audio.mp3_128k, {"two_pass": True}, "normalize=True"),
    ],
)
def test_senseless_options_are_refused_with_what_to_write(
    make: Callable[..., Recipe], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        make(**options)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (image.fit, {"widht": 3}),
        (image.fit, {"width": 3, "gravity": "top"}),
        (image.crop, {"width": 3, "height": 3, "upscale": True}),
        (video.web_720p, {"codec": "av1"}),
        (video.poster, {"width": 3}),
        (audio.m4a_128k, {"bitrate_kbps": 320}),
        (waveform.overview, {"peaks": 3}),
    ],
)
def test_unknown_options_are_refused(make: Callable[..., Recipe], options: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        make(**options)


@pytest.mark.parametrize("side", [1, MAX_SIDE_PIXELS])
def test_the_limits_themselves_are_fine(side: int) -> None:
    assert image.fill(side, side, quality=1) != image.fill(side, side, quality=100)
