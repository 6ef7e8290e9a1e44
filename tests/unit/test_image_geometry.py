"""Where the windows of fit, fill and crop lie, over all sizes. No pixel is drawn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_rindle.processing.geometry import window
from flask_rindle.recipes.image import ImageRecipe, crop, fill, fit

SIDES = st.integers(1, 12_000)
SIZES = st.tuples(SIDES, SIDES)
BOXES = st.tuples(st.integers(1, 4_000), st.integers(1, 4_000))


@given(SIZES, BOXES)
def test_fit_stays_in_the_box_and_is_never_larger_than_the_source(source, box):
    size = window(fit(*box), source).size
    for made, limit, have in zip(size, box, source, strict=True):
        assert 1 <= made <= min(limit, have)


@given(SIZES, BOXES, st.booleans())
def test_fit_keeps_the_aspect_to_within_a_pixel(source, box, upscale):
    made = window(fit(*box, upscale=upscale), source).size
    scale = min(box[0] / source[0], box[1] / source[1])
    scale = scale if upscale else min(scale, 1)
    assert all(abs(side - max(1, have * scale)) < 1 for side, have in zip(made, source, strict=True))


@given(SIZES, BOXES)
def test_fit_touches_the_box_when_it_may_upscale(source, box):
    made = window(fit(*box, upscale=True), source).size
    assert made[0] == box[0] or made[1] == box[1]


@given(SIZES, st.integers(1, 4_000))
def test_fit_with_one_side_open_bounds_only_the_other(source, side):
    assert window(fit(side), source).size[0] == min(side, source[0])
    assert window(fit(height=side), source).size[1] == min(side, source[1])


@given(SIZES, BOXES, st.sampled_from(["center", "top", "bottom", "left", "right"]), st.booleans())
def test_fill_lies_inside_the_source_and_is_not_distorted(source, box, gravity, upscale):
    shown = window(fill(*box, gravity=gravity, upscale=upscale), source)
    left, top, right, bottom = shown.box
    assert left >= 0
    assert top >= 0
    assert right <= source[0] + 1e-6
    assert bottom <= source[1] + 1e-6
    if source[0] >= box[0] and source[1] >= box[1]:
        across, down = shown.scale
        assert across == pytest.approx(down)


@given(SIZES, BOXES)
def test_fill_is_exactly_the_box_when_the_source_is_large_enough(source, box):
    size = window(fill(*box), source).size
    if source[0] >= box[0] and source[1] >= box[1]:
        assert size == box
    assert all(made <= min(limit, have) for made, limit, have in zip(size, box, source, strict=True))


@given(SIZES, BOXES)
def test_fill_of_a_small_source_has_the_shape_of_the_box_at_the_pictures_own_scale(source, box):
    shown = window(fill(*box), source)
    if source[0] < box[0] or source[1] < box[1]:
        assert shown.scale == (1, 1)
        assert shown.size[0] == source[0] or shown.size[1] == source[1]
        scale = min(source[0] / box[0], source[1] / box[1])
        assert all(abs(made - max(1, limit * scale)) < 1 for made, limit in zip(shown.size, box, strict=True))


@given(SIZES, BOXES)
def test_fill_is_always_the_box_when_it_may_upscale(source, box):
    assert window(fill(*box, upscale=True), source).size == box


@given(SIZES, BOXES)
def test_crop_cuts_whole_pixels_at_the_pictures_own_scale(source, box):
    shown = window(crop(*box), source)
    assert shown.scale == (1, 1)
    assert shown.size == (min(box[0], source[0]), min(box[1], source[1]))
    assert all(edge == int(edge) for edge in shown.box)


@pytest.mark.parametrize(
    ("gravity", "corner"),
    [("center", (40, 45)), ("top", (40, 0)), ("bottom", (40, 90)), ("left", (0, 45)), ("right", (80, 45))],
)
def test_gravity_says_which_part_stays(gravity, corner):
    assert window(crop(20, 10, gravity=gravity), (100, 100)).box[:2] == corner


@pytest.mark.parametrize(("gravity", "top"), [("top", 0), ("center", 25), ("bottom", 50)])
def test_gravity_of_fill_works_on_the_side_that_stands_over(gravity, top):
    assert window(fill(50, 25, gravity=gravity), (100, 100)).box == (0, top, 100, top + 50)


def test_crop_ignores_upscale():
    recipe = ImageRecipe(mode="crop", width=50, height=50, upscale=True)
    assert window(recipe, (10, 10)).size == (10, 10)
