"""Presets are profiles to start from: what their user writes counts."""

from __future__ import annotations

import pytest

from flask_rindle import image, presets, video
from flask_rindle.errors import InvalidProfile


class Lesson(presets.WebVideo):
    max_bytes = 7


class Scrubbed(presets.WebVideo):
    scrub_strip = True


def test_web_video_has_a_rendition_and_a_poster() -> None:
    assert Lesson.variants == {"web_720p": video.web_720p(), "poster": video.poster()}
    assert (Lesson.name, Lesson.max_bytes) == ("lesson", 7)


def test_the_strip_is_there_when_it_is_asked_for() -> None:
    assert Scrubbed.variants == {**Lesson.variants, "scrub_strip": video.thumbnail_strip()}


def test_the_strip_can_be_had_by_a_child_and_left_out_again() -> None:
    class More(Lesson):
        scrub_strip = True

    class Less(Scrubbed):
        scrub_strip = False

    class Same(Scrubbed):
        max_bytes = 8

    assert set(More.variants) == set(Same.variants) == {"web_720p", "poster", "scrub_strip"}
    assert set(Less.variants) == {"web_720p", "poster"}


def test_variants_of_ones_own_take_the_place_of_the_presets() -> None:
    class Small(presets.WebVideo):
        variants = {"web_480p": video.web_480p()}  # noqa: RUF012

    class SmallScrubbed(Small):
        scrub_strip = True

    assert Small.variants == {"web_480p": video.web_480p()}
    assert set(SmallScrubbed.variants) == {"web_480p", "scrub_strip"}


def test_variants_may_be_added_to_the_presets() -> None:
    class Both(presets.WebVideo):
        variants = {**presets.WebVideo.variants, "web_480p": video.web_480p()}  # noqa: RUF012

    assert set(Both.variants) == {"web_720p", "poster", "web_480p"}


def test_mistakes_are_found_as_in_every_profile() -> None:
    with pytest.raises(InvalidProfile, match="write scrub_strip"):
        type("Wrong", (presets.WebVideo,), {"scrub_stripe": True})
    with pytest.raises(InvalidProfile, match="variants="):
        type("Wrong", (presets.WebVideo,), {"variants": [image.fit(6)], "scrub_strip": True})
    with pytest.raises(InvalidProfile, match="scrub_strip"):
        type("Wrong", (presets.WebVideo,), {"scrub_strip": "yes"})
