"""Colours, orientation, sizes and bytes of what the picture work makes, in this process: the tests drew the sources."""

from __future__ import annotations

import io

import pytest
from PIL import Image, ImageChops, ImageCms, ImageStat
from PIL.PngImagePlugin import PngInfo

from flask_rindle.errors import MediaDamaged, MediaUnsupported, TooManyPixels
from flask_rindle.processing import image
from flask_rindle.recipes.image import crop, fill, fit

FORMATS = ["jpeg", "png", "webp", "avif"]
TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def four_corners(size=(60, 40)):
    """Red, green, blue and white quarters: no two ways of turning it look alike."""
    picture = Image.new("RGB", size, "white")
    half = (size[0] // 2, size[1] // 2)
    picture.paste("red", (0, 0, *half))
    picture.paste((0, 255, 0), (half[0], 0, size[0], half[1]))
    picture.paste("blue", (0, half[1], half[0], size[1]))
    return picture


def gradient(size):
    grey = Image.linear_gradient("L").resize(size)
    return Image.merge("RGB", [grey, grey.transpose(Image.Transpose.FLIP_TOP_BOTTOM), Image.new("L", size, 90)])


def saved(picture, format, **options):  # noqa: A002
    target = io.BytesIO()
    picture.save(target, format, **options)
    return target


def oriented(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def render(source, *recipes, content_type="image/png", max_pixels=None):
    targets = [io.BytesIO() for _ in recipes]
    answers = image.render(source, content_type, max_pixels, recipes, targets)
    assert all("made" in answer for answer in answers), answers
    return [Image.open(target) for target in targets]


def render_one(source, recipe, content_type="image/png"):
    return render(source, recipe, content_type=content_type)[0]


def difference(one, other):
    """The largest difference of any channel of any pixel."""
    assert one.size == other.size
    extremes = ImageChops.difference(one.convert("RGBA"), other.convert("RGBA")).getextrema()
    return max(high for _, high in extremes)


# -- orientation


@pytest.mark.parametrize("orientation", TURNS)
def test_every_orientation_comes_out_upright_pixel_for_pixel(orientation):
    upright = four_corners()
    stored = upright if TURNS[orientation] is None else upright.transpose(TURNS[orientation])
    source = saved(stored, "PNG", exif=oriented(orientation))
    assert difference(render_one(source, fit(60, 60, format="png")), upright) == 0


@pytest.mark.parametrize("orientation", [6, 8, 5])
def test_a_sideways_jpeg_is_shrunk_while_decoding_and_still_sharp_enough(orientation):
    upright = four_corners((600, 800))
    source = saved(upright.transpose(TURNS[orientation]), "JPEG", quality=95, exif=oriented(orientation))
    made = render_one(source, fit(height=160, format="png"), "image/jpeg")
    assert made.size == (120, 160)
    for x, y in ((30, 40), (90, 40), (30, 120), (90, 120), (56, 75), (64, 85)):
        assert (
            max(abs(a - b) for a, b in zip(made.getpixel((x, y)), upright.getpixel((x * 5, y * 5)), strict=True)) < 12
        )


def test_a_jpeg_is_decoded_no_larger_than_needed():
    opened = image._open(saved(gradient((1600, 1200)), "JPEG"), "image/jpeg", None)
    assert image._decode(opened, 6, 0.2).size == (300, 400)


@pytest.mark.parametrize("format", ["WEBP", "AVIF"])
def test_orientation_of_webp_and_avif_counts_too(format):  # noqa: A002
    options = {"lossless": True} if format == "WEBP" else {"quality": 100, "subsampling": "4:4:4"}
    upright = four_corners()
    source = saved(upright.transpose(TURNS[6]), format, exif=oriented(6), **options)
    made = render_one(source, fit(60, 60, format="png"), f"image/{format.lower()}")
    assert difference(made, upright) < 12


def test_a_nonsense_orientation_and_broken_exif_are_ignored():
    for exif in (oriented(77), b"Exif\x00\x00broken"):
        source = saved(four_corners(), "PNG", exif=exif)
        assert difference(render_one(source, fit(60, format="png")), four_corners()) == 0


# -- sizes


@pytest.mark.parametrize(
    ("recipe", "size"),
    [
        (fit(100, 100), (100, 75)),
        (fit(height=30), (40, 30)),
        (fit(4000, 4000), (400, 300)),
        (fit(800, upscale=True), (800, 600)),
        (fill(100, 100), (100, 100)),
        (fill(1000, 1000), (300, 300)),
        (fill(1000, 500, upscale=True), (1000, 500)),
        (crop(50, 1000), (50, 300)),
    ],
)
@pytest.mark.parametrize("source_format", ["JPEG", "PNG"])
def test_sizes_follow_the_recipe_whatever_shortcut_the_decoder_takes(recipe, size, source_format):
    source = saved(gradient((400, 300)), source_format)
    assert render_one(source, recipe, f"image/{source_format.lower()}").size == size


def test_crop_of_a_jpeg_cuts_at_full_scale_even_beside_a_thumbnail():
    picture = gradient((1600, 1200))
    source = saved(picture, "JPEG", quality=100, subsampling=0)
    thumb, cut = render(source, fit(40), crop(60, 50, gravity="top", format="png"), content_type="image/jpeg")
    assert thumb.size == (40, 30)
    assert difference(cut, picture.crop((770, 0, 830, 50))) < 8


def test_a_crop_is_the_very_same_pixels():
    picture = four_corners()
    picture.putalpha(Image.linear_gradient("L").resize((60, 40)))
    made = render_one(saved(picture, "PNG"), crop(20, 20, gravity="right", format="png"))
    assert made.tobytes() == picture.crop((40, 10, 60, 30)).tobytes()


def test_gravity_decides_what_fill_keeps():
    source = saved(four_corners((40, 80)), "PNG")
    top, bottom = render(
        source, fill(20, 20, gravity="top", format="png"), fill(20, 20, gravity="bottom", format="png")
    )
    assert top.getpixel((2, 2)) == (255, 0, 0)
    assert bottom.getpixel((2, 17)) == (0, 0, 255)


def test_a_picture_one_pixel_high_stays_one():
    made = render_one(saved(Image.new("RGB", (5000, 1), "red"), "PNG"), fit(50, 50, format="png"))
    assert made.size == (50, 1)


def test_answers_come_in_the_order_of_the_recipes_not_of_the_work():
    made = render(saved(gradient((400, 300)), "PNG"), fit(20), fit(200), fill(50, 50), fit(100))
    assert [picture.width for picture in made] == [20, 200, 50, 100]


def test_the_cascade_looks_like_a_single_resize():
    picture = gradient((1600, 1200))
    *_, small = render(saved(picture, "PNG"), *(fit(side, format="png") for side in (1280, 640, 320, 80)))
    assert difference(small, picture.resize((80, 60), Image.Resampling.LANCZOS)) <= 3


# -- colours


@pytest.mark.parametrize("format", ["png", "webp", "avif"])
def test_transparency_is_kept_where_the_format_can(format):  # noqa: A002
    picture = Image.new("RGBA", (40, 40), (255, 0, 0, 255))
    picture.paste((0, 0, 0, 0), (20, 0, 40, 40))
    made = render_one(saved(picture, "PNG"), fit(40, format=format)).convert("RGBA")
    assert made.getpixel((35, 20))[3] < 8
    assert made.getpixel((5, 20))[3] > 247


def test_transparency_becomes_white_in_a_jpeg():
    picture = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    made = render_one(saved(picture, "PNG"), fit(40))
    assert made.mode == "RGB"
    assert min(made.getpixel((20, 20))) > 250


def test_half_transparent_black_is_grey_in_a_jpeg():
    made = render_one(saved(Image.new("RGBA", (16, 16), (0, 0, 0, 128)), "PNG"), fit(16))
    assert all(abs(value - 127) < 4 for value in made.getpixel((8, 8)))


def test_transparent_pixels_do_not_bleed_into_the_edge():
    picture = Image.new("RGBA", (64, 64), (0, 255, 0, 0))
    picture.paste((255, 0, 0, 255), (0, 0, 32, 64))
    made = render_one(saved(picture, "PNG"), fit(16, format="png"))
    visible = [pixel for pixel in (made.getpixel((x, 8)) for x in range(16)) if pixel[3] > 16]
    assert all(green < 16 for _, green, _, _ in visible)


def test_a_palette_with_a_transparent_colour():
    picture = Image.new("P", (20, 20), 1)
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    picture.paste(2, (10, 0, 20, 20))
    made = render_one(saved(picture, "PNG", transparency=2), fit(20, format="png"))
    assert made.mode == "RGBA"
    assert made.getpixel((2, 2)) == (255, 0, 0, 255)
    assert made.getpixel((15, 2))[3] == 0


def test_grey_with_alpha_keeps_both():
    made = render_one(saved(Image.new("LA", (10, 10), (80, 40)), "PNG"), fit(10, format="png"))
    assert made.getpixel((5, 5)) == (80, 80, 80, 40)


def test_sixteen_bit_grey_is_scaled_down_not_clipped():
    made = render_one(saved(Image.new("I;16", (10, 10), 32768), "PNG"), fit(10, format="png"))
    assert made.getpixel((5, 5)) == 128


def test_black_and_white_is_scaled_smoothly():
    picture = Image.new("1", (32, 32), 0)
    picture.paste(1, (0, 0, 15, 32))
    made = render_one(saved(picture, "PNG"), fit(8, format="png"))
    assert len(set(made.tobytes())) > 2


def test_cmyk_becomes_rgb():
    source = saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100)
    red, green, blue = render_one(source, fit(16, format="png"), "image/jpeg").getpixel((8, 8))
    assert red > 200
    assert max(green, blue) < 60


def swapping_profile():
    """A valid profile whose red primary is sRGB's green and the other way round: no conversion is easy to see."""
    raw = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for offset in range(132, 132 + 12 * int.from_bytes(raw[128:132], "big"), 12):
        name = bytes(raw[offset : offset + 4])
        swapped = {b"rXYZ": b"gXYZ", b"gXYZ": b"rXYZ"}.get(name, name)
        raw[offset : offset + 4] = swapped
    return bytes(raw).replace(b"s\x00R\x00G\x00B", b"w\x00i\x00d\x00e")


@pytest.mark.parametrize("source_format", ["PNG", "JPEG", "WEBP", "AVIF"])
def test_an_embedded_profile_changes_the_colours_and_is_gone(source_format):
    source = saved(Image.new("RGB", (16, 16), "red"), source_format, quality=95, icc_profile=swapping_profile())
    made = render_one(source, fit(16, format="png"), f"image/{source_format.lower()}")
    red, green, _ = made.getpixel((8, 8))
    assert green > 240
    assert red < 60
    assert "icc_profile" not in made.info


def test_a_profile_keeps_transparency():
    source = saved(Image.new("RGBA", (16, 16), (255, 0, 0, 77)), "PNG", icc_profile=swapping_profile())
    made = render_one(source, fit(16, format="png"))
    assert made.getpixel((8, 8))[1] > 240
    assert made.getpixel((8, 8))[3] == 77


@pytest.mark.parametrize("profile", [b"broken", swapping_profile()[:200], b"\x00" * 3000])
def test_a_broken_profile_is_ignored(profile):
    source = saved(Image.new("RGB", (16, 16), (200, 10, 30)), "PNG", icc_profile=profile)
    assert render_one(source, fit(16, format="png")).getpixel((8, 8)) == (200, 10, 30)


# -- bytes


@pytest.mark.parametrize("format", FORMATS)
def test_the_bytes_are_of_the_format_that_the_recipe_names(format):  # noqa: A002
    assert render_one(saved(gradient((64, 64)), "PNG"), fit(32, format=format)).format == format.upper()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("source_format", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_no_metadata_survives(format, source_format):  # noqa: A002
    exif = oriented(1)
    exif[0x010F] = "SECRETCAMERA"
    exif.get_ifd(0x8825)[2] = (48.0, 12.0, 0.0)
    text = PngInfo()
    text.add_text("Comment", "SECRETTEXT")
    extra = {"PNG": {"pnginfo": text}, "JPEG": {"comment": b"SECRETTEXT"}}.get(source_format, {})
    source = saved(gradient((64, 64)), source_format, exif=exif, xmp=b"<x:xmpmeta>SECRETXMP</x:xmpmeta>", **extra)
    assert b"SECRET" in source.getvalue()
    target = io.BytesIO()
    image.render(source, f"image/{source_format.lower()}", None, [fit(32, format=format)], [target])
    assert b"SECRET" not in target.getvalue()
    made = Image.open(target)
    assert not made.getexif()
    assert not {"exif", "xmp", "comment", "icc_profile", "Comment", "gps"} & made.info.keys()


@pytest.mark.parametrize("format", ["jpeg", "webp", "avif"])
def test_quality_changes_the_size(format):  # noqa: A002
    noise = Image.effect_noise((128, 128), 60).convert("RGB")
    recipes = [fit(128, format=format, quality=quality) for quality in (20, 95)]
    low, high = [io.BytesIO(), io.BytesIO()]
    image.render(saved(noise, "PNG"), "image/png", None, recipes, [low, high])
    assert len(low.getvalue()) * 2 < len(high.getvalue())


def test_no_quality_means_the_documented_default():
    source = saved(Image.effect_noise((64, 64), 60), "PNG")
    targets = [io.BytesIO(), io.BytesIO()]
    image.render(source, "image/png", None, [fit(64), fit(64, quality=80)], targets)
    assert targets[0].getvalue() == targets[1].getvalue()


def test_jpegs_are_progressive():
    assert render_one(saved(gradient((64, 64)), "PNG"), fit(64)).info.get("progressive")


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    source = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    made = render_one(source, fit(20, format="png"), "image/gif")
    assert made.getpixel((5, 5)) == (255, 0, 0)


# -- refusals


def test_one_order_that_cannot_be_made_leaves_its_siblings_alone():
    source = saved(Image.new("RGB", (1, 20_000), "red"), "PNG")
    recipes = [fit(10, format="webp"), fit(10, format="png"), fit(16_000, upscale=True)]
    answers = image.render(source, "image/png", None, recipes, [io.BytesIO() for _ in recipes])
    assert answers[0]["error"]["code"] == "output_wrong"
    assert answers[1] == {"made": {"width": 1, "height": 20_000}}
    assert answers[2]["error"]["code"] == "output_wrong"


def test_want_of_memory_for_one_order_leaves_its_siblings_alone(monkeypatch):
    encode = image._encode

    def no_room_for_webp(picture, recipe, target):
        if recipe.format == "webp":
            raise MemoryError
        encode(picture, recipe, target)

    monkeypatch.setattr(image, "_encode", no_room_for_webp)
    recipes = [fit(10, format="webp"), fit(5, format="png")]
    answers = image.render(saved(gradient((20, 20)), "PNG"), "image/png", None, recipes, [io.BytesIO(), io.BytesIO()])
    assert answers[0] == {"error": {"code": "sandbox_failed", "reason": "memory"}}
    assert "made" in answers[1]


def test_an_output_of_the_wrong_size_is_noticed(monkeypatch):
    def encode_half(picture, recipe, target):
        picture.resize((5, 5)).save(target, recipe.format)

    monkeypatch.setattr(image, "_encode", encode_half)
    answers = image.render(saved(gradient((20, 20)), "PNG"), "image/png", None, [fit(10)], [io.BytesIO()])
    assert answers[0]["error"]["code"] == "output_wrong"


def test_more_pixels_than_allowed_are_refused():
    with pytest.raises(TooManyPixels) as caught:
        render(saved(gradient((40, 30)), "PNG"), fit(5), max_pixels=1199)
    assert (caught.value.limit_pixels, caught.value.width, caught.value.height) == (1199, 40, 30)


def test_a_type_without_a_decoder_is_refused():
    with pytest.raises(MediaUnsupported) as caught:
        render(saved(gradient((40, 30)), "TIFF"), fit(5), content_type="image/tiff")
    assert caught.value.content_type == "image/tiff"


def test_the_type_must_be_what_the_bytes_are():
    with pytest.raises(MediaDamaged):
        render(saved(gradient((40, 30)), "GIF"), fit(5), content_type="image/png")


def test_want_of_memory_is_not_called_damage(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("decoder ran out of memory")

    monkeypatch.setattr(image.Image, "open", refuse)
    with pytest.raises(MemoryError):
        image.render(io.BytesIO(b""), "image/png", None, [], [])


def test_a_resize_keeps_the_mean_colour():
    picture = gradient((900, 700))
    made = render_one(saved(picture, "PNG"), fit(90, format="png"))
    for have, want in zip(ImageStat.Stat(made).mean, ImageStat.Stat(picture).mean, strict=True):
        assert have == pytest.approx(want, abs=1)


# -- measures


def test_inspect_measures_upright_and_counts_frames():
    frames = [Image.new("P", (40, 30), shade) for shade in (1, 2, 3)]
    for frame in frames:
        frame.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    moving = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    facts = image.inspect(moving, "image/gif", None)
    assert (facts["width"], facts["height"], facts["frames"]) == (40, 30, 3)
    facts = image.inspect(saved(gradient((40, 30)), "JPEG", exif=oriented(6)), "image/jpeg", None)
    assert (facts["width"], facts["height"], facts["frames"]) == (30, 40, 1)


def test_inspect_refuses_more_frames_than_a_picture_has(monkeypatch):
    monkeypatch.setattr(image, "MAX_FRAMES", 1)
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for name in ("GIF", "PNG"):
        moving = saved(frames[0], name, save_all=True, append_images=frames[1:])
        with pytest.raises(MediaDamaged):
            image.inspect(moving, f"image/{name.lower()}", None)


def test_an_extended_webp_says_its_canvas():
    moving = saved(gradient((40, 30)), "WEBP", save_all=True, append_images=[gradient((40, 30)).rotate(180)])
    assert image._webp_size(moving) == (40, 30)
    assert image._webp_size(saved(gradient((40, 30)), "WEBP", lossless=True)) == (40, 30)
