"""The picture work: header, decode, colours, sizes, encode. Runs in the decoder child.

Of an animation the first frame is taken: variants are still pictures, and the probe's `frames`
tells the host that there were more.
"""

from __future__ import annotations

import base64
import io
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from math import ceil
from typing import Any, BinaryIO, cast

import thumbhash
from PIL import (
    AvifImagePlugin,
    GifImagePlugin,
    Image,
    ImageCms,
    ImageFile,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from flask_rindle.errors import MediaDamaged, MediaUnsupported, OutputWrong, RindleError, SandboxFailed, TooManyPixels
from flask_rindle.processing.geometry import Size, Window, window
from flask_rindle.processing.wire import describe
from flask_rindle.recipes.image import DEFAULT_QUALITY, ImageRecipe

FORMATS = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP", "image/avif": "AVIF", "image/gif": "GIF"}
# All that a request can need, imported here: the child has no files to import from later.
PLUGINS = (
    AvifImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
PIXEL_CEILING = 200_000_000
MAX_FRAMES = 10_000

_WORKING_BYTES_PER_PIXEL = 24  # canvas, copies, conversion: what WebP with transparency takes
_THUMB_SIDE = 48  # a ThumbHash keeps seven waves a side, so more pixels only cost time
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
_OPTIONS: dict[str, dict[str, Any]] = {
    "jpeg": {"progressive": True, "optimize": True},
    "png": {},
    "webp": {"method": 4},
    "avif": {"speed": 8},
}

# Every header is checked against the caller's limit below; Pillow's own check knows neither sizes nor limit.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True, slots=True)
class _Level:
    """The whole picture, upright and in sRGB, at some scale of the source."""

    image: Image.Image
    scale: tuple[float, float]

    def covers(self, shown: Window) -> bool:
        return all(have >= need for have, need in zip(self.scale, shown.scale, strict=True))

    def render(self, shown: Window) -> Image.Image:
        across, down = self.scale
        left, top, right, bottom = shown.box
        right, bottom = min(right * across, self.image.width), min(bottom * down, self.image.height)
        box = (left * across, top * down, right, bottom)
        x, y, x_end, y_end = map(round, box)
        is_on_pixels = all(edge.is_integer() for edge in map(float, box))
        if is_on_pixels and (x_end - x, y_end - y) == shown.size:
            return self.image.crop((x, y, x_end, y_end))  # nothing to scale: the very same pixels
        return self.image.resize(shown.size, Image.Resampling.LANCZOS, box=box, reducing_gap=2.0)


def inspect(source: BinaryIO, content_type: str, max_pixels: int | None) -> dict[str, object]:
    """Size, frames and ThumbHash, after a decode that a truncated or corrupt file does not pass."""
    opened = _open(source, content_type, max_pixels)
    with _reading(content_type, opened.size):
        orientation = _orientation(opened)
        width, height = _turned(opened.size, orientation)
        frames = _count_frames(opened, source)
        image = _decode(opened, orientation, min(1.0, _THUMB_SIDE / max(width, height)))
        return {"width": width, "height": height, "frames": frames, "thumbhash": _thumbhash(image)}


def render(
    source: BinaryIO,
    content_type: str,
    max_pixels: int | None,
    recipes: Sequence[ImageRecipe],
    targets: Sequence[BinaryIO],
) -> list[dict[str, object]]:
    """One answer for each recipe, from one decode: what was written to its target, or why nothing was."""
    opened = _open(source, content_type, max_pixels)
    with _reading(content_type, opened.size):
        orientation = _orientation(opened)
        size = _turned(opened.size, orientation)
        windows = [window(recipe, size) for recipe in recipes]
        image = _decode(opened, orientation, min(1.0, max((max(shown.scale) for shown in windows), default=1.0)))
    base = _Level(image, (image.width / size[0], image.height / size[1]))
    return _make_all(base, windows, recipes, targets)


# -- reading


@contextmanager
def _reading(content_type: str, size: Size = (1, 1)) -> Iterator[None]:
    """Whatever a decoder stumbles over is damage to the file; want of memory is not."""
    try:
        yield
    except (RindleError, MemoryError):
        raise
    except Exception as error:
        if _lacks_memory(error, size):
            raise MemoryError from error
        raise MediaDamaged(content_type) from error


def _lacks_memory(error: Exception, size: Size) -> bool:
    """Some codecs report a refused allocation like any other failure, so a picture that may not fit gets the doubt."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    doubtful = limit != resource.RLIM_INFINITY and size[0] * size[1] * _WORKING_BYTES_PER_PIXEL > limit
    return doubtful or "memory" in str(error).lower()


def _open(source: BinaryIO, content_type: str, max_pixels: int | None) -> ImageFile.ImageFile:
    """The picture with its header read, within the limit, and no pixel decoded."""
    if content_type not in FORMATS:
        raise MediaUnsupported(content_type)
    limit = min(max_pixels or PIXEL_CEILING, PIXEL_CEILING)
    expected = _webp_size(source) if content_type == "image/webp" else (1, 1)
    _check_size(expected, limit)
    with _reading(content_type, expected):
        opened = Image.open(source, formats=[FORMATS[content_type]])
    _check_size(opened.size, limit)
    return opened


def _check_size(size: Size, limit: int) -> None:
    if size[0] * size[1] > limit:
        raise TooManyPixels(limit, *size)


def _webp_size(source: BinaryIO) -> Size:
    """The canvas of a WebP. Pillow cannot say it without allocating the canvas twice."""
    source.seek(0)
    head = source.read(30)
    source.seek(0)
    kind = head[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF


def _orientation(opened: ImageFile.ImageFile) -> int:
    if opened.format not in ("JPEG", "MPO"):
        opened.load()  # a PNG may say it behind its pixels; only a JPEG gains from waiting
    with suppress(Exception):  # broken EXIF is no reason to refuse a whole picture
        found = opened.getexif().get(_ORIENTATION_TAG)
        return found if found in _UPRIGHT else 1
    return 1


def _turned(size: Size, orientation: int) -> Size:
    return (size[1], size[0]) if orientation in _SIDEWAYS else size


def _count_frames(opened: ImageFile.ImageFile, source: BinaryIO) -> int:
    """How many pictures follow each other; more than `MAX_FRAMES` is a trap."""
    if opened.format == "GIF":
        frames = _count_gif_frames(source)
    else:
        frames = 1 if opened.format == "MPO" else int(getattr(opened, "n_frames", 1))
    if frames > MAX_FRAMES:
        msg = f"more than {MAX_FRAMES} frames"
        raise ValueError(msg)
    return frames


def _count_gif_frames(source: BinaryIO) -> int:
    """Pillow counts to the end, which a small file can put millions of frames away."""
    source.seek(10)
    _skip_colors(source, source.read(3)[0])
    frames = 0
    while frames <= MAX_FRAMES and (mark := source.read(1)) in (b"!", b","):
        if mark == b",":
            frames += 1
            _skip_colors(source, source.read(9)[8])
        source.read(1)  # a label, or the first code's width
        while (length := source.read(1)) not in (b"", b"\0"):
            source.seek(length[0], io.SEEK_CUR)
    return frames


def _skip_colors(source: BinaryIO, flags: int) -> None:
    if flags & 0x80:
        source.seek(3 << (flags & 7) + 1, io.SEEK_CUR)


# -- pixels


def _decode(opened: ImageFile.ImageFile, orientation: int, scale: float) -> Image.Image:
    """Upright, in sRGB, bare of metadata, and at no less than `scale` of the source."""
    full_width = opened.width
    if opened.format in ("JPEG", "MPO"):
        opened.draft(None, (ceil(opened.width * scale), ceil(opened.height * scale)))
    opened.load()
    profile = opened.info.get("icc_profile")
    image = _shrink(_to_working_mode(opened), scale * full_width / opened.width)
    image = _to_srgb(image, profile)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    image.info = {}
    return image


def _shrink(image: Image.Image, scale: float) -> Image.Image:
    """Twice the size that is needed, quickly, so that the costly steps have little to do."""
    factor = int(1 / (2 * scale))
    return image.reduce(factor) if factor > 1 else image


def _to_working_mode(image: Image.Image) -> Image.Image:
    """The same picture in L, RGB, RGBA or CMYK."""
    if image.mode in ("I", "I;16"):
        return _to_eight_bits(image)
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        return image if _is_transparent(image) else image.convert("RGB")
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    # convert("L") alone would clip: everything over 255 of 65,535 comes out white.
    image = image.point(lambda value: value * (1 / 256))
    image.info.pop("transparency", None)
    return image.convert("L")


def _is_transparent(image: Image.Image) -> bool:
    lowest = cast("tuple[int, int]", image.getchannel("A").getextrema())[0]
    return lowest < 255  # noqa: PLR2004 - opaque


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile:
        with suppress(OSError, ValueError, TypeError, ImageCms.PyCMSError):  # a broken profile is ignored
            image = _converted(image, ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    return image.convert("RGB") if image.mode == "CMYK" else image


def _converted(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    if "sRGB" in ImageCms.getProfileDescription(profile):
        return image
    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    done = ImageCms.profileToProfile(image, profile, _srgb(), ImageCms.Intent.PERCEPTUAL, mode)
    return done or image


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image
    paper = Image.new("RGB", image.size, "white")
    paper.paste(image, mask=image.getchannel("A"))
    return paper


def _thumbhash(image: Image.Image) -> str:
    # thumbhash 0.1.2 raises TypeError for every picture with transparency, so it gets none.
    small = _on_white(image).convert("RGBA")
    small.thumbnail((_THUMB_SIDE, _THUMB_SIDE))
    values = thumbhash.rgba_to_thumb_hash(small.width, small.height, list(small.tobytes()))
    return base64.b64encode(bytes(values)).decode()


# -- making


def _make_all(
    base: _Level, windows: Sequence[Window], recipes: Sequence[ImageRecipe], targets: Sequence[BinaryIO]
) -> list[dict[str, object]]:
    """From the largest to the smallest, each from the smallest picture made so far that has enough pixels."""
    answers: list[dict[str, object]] = [{} for _ in windows]
    levels = [base]
    for at in sorted(range(len(windows)), key=lambda at: max(windows[at].scale), reverse=True):
        level = next((level for level in reversed(levels) if level.covers(windows[at])), base)
        try:
            image = _make(level, windows[at], recipes[at], targets[at])
        except RindleError as error:
            answers[at] = {"error": describe(error)}
        except MemoryError:
            answers[at] = {"error": describe(SandboxFailed("memory"))}
        else:
            answers[at] = {"made": {"width": image.width, "height": image.height}}
            if recipes[at].mode == "fit" and max(windows[at].scale) <= 1:
                levels.append(_Level(image, windows[at].scale))
    return answers


def _make(level: _Level, shown: Window, recipe: ImageRecipe, target: BinaryIO) -> Image.Image:
    if shown.size[0] * shown.size[1] > PIXEL_CEILING:
        raise OutputWrong("more pixels than any picture may have")
    image = level.render(shown)
    try:
        _encode(image, recipe, target)
        _check(target, recipe, shown.size)
    except (OSError, ValueError, RuntimeError) as error:
        if _lacks_memory(error, shown.size):
            raise MemoryError from error
        raise OutputWrong(f"the {recipe.format} encoder gave up") from error
    return image


def _encode(image: Image.Image, recipe: ImageRecipe, target: BinaryIO) -> None:
    image = _on_white(image) if recipe.format == "jpeg" else image
    image.save(target, recipe.format, quality=recipe.quality or DEFAULT_QUALITY, **_OPTIONS[recipe.format])
    target.flush()


def _check(target: BinaryIO, recipe: ImageRecipe, size: Size) -> None:
    """What was written opens as what was ordered."""
    target.seek(0)
    with Image.open(target, formats=[recipe.format]) as made:
        if made.size != size:
            raise OutputWrong(f"{made.size[0]} × {made.size[1]} pixels instead of {size[0]} × {size[1]}")
