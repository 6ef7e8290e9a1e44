"""What the probe says about files of all kinds, healthy, broken and hostile."""

from __future__ import annotations

import base64
import io
import random
import struct
import time
import zlib

import pytest
import thumbhash
from PIL import Image

from flask_rindle.errors import MediaDamaged, SandboxFailed, TooManyPixels
from flask_rindle.processing import image
from flask_rindle.processing.base import MediaFacts
from flask_rindle.processing.probes import FileProbe
from flask_rindle.processing.sandbox import Sandbox
from flask_rindle.processing.sniffing import sniff_type

PICTURES = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP", "image/avif": "AVIF", "image/gif": "GIF"}


@pytest.fixture(scope="module")
def sandbox():
    sandbox = Sandbox()
    yield sandbox
    sandbox.close()


@pytest.fixture
def probe(sandbox, tmp_path):
    """Writes the bytes to a file and probes it."""
    path = tmp_path / "upload"

    def probe(data, **options):
        path.write_bytes(data)
        return FileProbe(sandbox).probe(path, **options)

    return probe


def drawn(format="PNG", size=(64, 48), **options):  # noqa: A002
    target = io.BytesIO()
    noise = Image.frombytes("RGB", size, random.Random(7).randbytes(size[0] * size[1] * 3))  # noqa: S311
    noise.save(target, format, **options)
    return target.getvalue()


def png_chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def huge_png(width, height):
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(bytes(1000))) + png_chunk(b"IEND", b"")


def huge_webp(width, height):
    canvas = b"\x00" * 4 + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + canvas
    return b"RIFF" + struct.pack("<I", len(body)) + body


def isobmff(major, *compatible):
    box = b"ftyp" + major + bytes(4) + b"".join(compatible)
    return struct.pack(">I", len(box) + 4) + box + struct.pack(">I", 8) + b"free"


# -- types


@pytest.mark.parametrize(("content_type", "format"), PICTURES.items())
def test_pictures_are_recognised_measured_and_hashed(probe, content_type, format):  # noqa: A002
    facts = probe(drawn(format))
    assert (facts.kind, facts.content_type, facts.width, facts.height, facts.frames) == (
        "image",
        content_type,
        64,
        48,
        1,
    )
    width, height, _ = thumbhash.thumb_hash_to_rgba(list(base64.b64decode(facts.thumbhash)))
    assert width / height == pytest.approx(64 / 48, rel=0.2)


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        (b"", "application/octet-stream"),
        (b"just words\n", "text/plain"),
        (b"%PDF-1.7\n", "application/pdf"),
        (isobmff(b"isom", b"mp41"), "video/mp4"),
        (isobmff(b"M4A ", b"isom"), "audio/mp4"),
        (isobmff(b"M4V ", b"isom"), "video/mp4"),
        (isobmff(b"qt  "), "video/quicktime"),
        (isobmff(b"heic", b"mif1"), "image/heic"),
        (isobmff(b"mif1", b"heic"), "image/heic"),
        (isobmff(b"msf1", b"hevc"), "image/heic"),
        (isobmff(b"mif1", b"avif"), "image/avif"),
        (isobmff(b"avis", b"msf1"), "image/avif"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"),
        (b"<?xml version='1.0'?>\n<!-- a --><svg/>", "image/svg+xml"),
        (b"\xef\xbb\xbf \n<!-- hidden --><svg/>", "image/svg+xml"),
        (b"<!--" + b"x" * 9000 + b"--><SVG/>", "image/svg+xml"),
        (b'<s:svg xmlns:s="http://www.w3.org/2000/svg"/>', "image/svg+xml"),
        (b'<!DOCTYPE svg [<!ENTITY a "b">]>\n<svg/>', "image/svg+xml"),
        (b"<!DOCTYPE html><p>x", "text/html"),
        (b"  <img src=x onerror=alert(1)>", "text/html"),
        (b"<!-- never closed", "text/html"),
        (b"<?xml version='1.0'?><html xmlns='http://www.w3.org/1999/xhtml'/>", "application/xhtml+xml"),
        (b"<?xml version='1.0'?><feed/>", "text/xml"),
        (b"1 < 2", "text/plain"),
        (b"a,b\n1,2\n3,4\n", "text/csv"),
    ],
)
def test_types_are_told_from_the_bytes(data, content_type):
    assert sniff_type(io.BytesIO(data)) == content_type


def test_an_animated_png_is_a_png():
    frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (0, 90, 200)]
    target = io.BytesIO()
    frames[0].save(target, "PNG", save_all=True, append_images=frames[1:])
    assert sniff_type(target) == "image/png"


def test_text_named_as_a_picture_is_text(probe):
    assert probe(b"not a picture at all") == MediaFacts(kind="other", content_type="text/plain")


def test_a_picture_type_without_a_decoder_is_a_picture_without_a_size(probe):
    facts = probe(drawn("TIFF"))
    assert facts == MediaFacts(kind="image", content_type="image/tiff")


def test_a_type_without_a_decoder_is_not_decoded(probe):
    assert probe(isobmff(b"isom")) == MediaFacts(kind="video", content_type="video/mp4")


def test_what_follows_a_picture_does_not_change_its_type(probe):
    assert probe(drawn("JPEG") + b"<script>alert(1)</script>").content_type == "image/jpeg"


def test_a_script_behind_a_picture_signature_is_damage(probe):
    with pytest.raises((MediaDamaged, TooManyPixels)):
        probe(b"GIF89a/*" + b"\x01\x00\x01\x00" + b"*/=1;alert(1)//")


# -- measures


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_width_and_height_are_as_displayed(probe, format):  # noqa: A002
    exif = Image.Exif()
    exif[0x0112] = 6
    facts = probe(drawn(format, exif=exif))
    assert (facts.width, facts.height) == (48, 64)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "AVIF", "GIF"])
def test_frames_are_counted(probe, format):  # noqa: A002
    frames = [Image.new("RGB", (16, 16), (shade, 0, 40)) for shade in (0, 90, 200)]
    target = io.BytesIO()
    frames[0].save(target, format, save_all=True, append_images=frames[1:])
    assert probe(target.getvalue()).frames == 3


def test_a_phone_picture_with_a_preview_inside_is_one_picture(probe):
    target = io.BytesIO()
    Image.new("RGB", (64, 48)).save(target, "MPO", save_all=True, append_images=[Image.new("RGB", (16, 12))])
    facts = probe(target.getvalue())
    assert (facts.content_type, facts.width, facts.frames) == ("image/jpeg", 64, 1)


def test_transparency_is_hashed_as_on_white(probe):
    pictures = [Image.new("RGBA", (20, 20), (0, 0, 0, 0)), Image.new("RGB", (20, 20), "white")]
    hashes = []
    for picture in pictures:
        target = io.BytesIO()
        picture.save(target, "PNG")
        hashes.append(probe(target.getvalue()).thumbhash)
    assert hashes[0] == hashes[1]


# -- traps


@pytest.mark.parametrize("bomb", [huge_png(60_000, 60_000), huge_webp(16_000, 16_000)])
def test_a_bomb_is_refused_by_its_header(probe, bomb):
    began = time.monotonic()
    with pytest.raises(TooManyPixels) as caught:
        probe(bomb)
    assert caught.value.limit_pixels == image.PIXEL_CEILING
    assert caught.value.width * caught.value.height > 200_000_000
    assert time.monotonic() - began < 5
    assert probe(drawn()).width == 64


def test_the_limit_of_the_profile_counts_in_every_format(probe):
    for format in PICTURES.values():  # noqa: A001
        data = drawn(format)
        assert probe(data, max_pixels=64 * 48).width == 64
        with pytest.raises(TooManyPixels) as caught:
            probe(data, max_pixels=64 * 48 - 1)
        assert caught.value.facts == {"limit_pixels": 64 * 48 - 1, "width": 64, "height": 48}


@pytest.mark.parametrize("options", [{}, {"lossless": True}])
def test_a_webp_says_its_size_in_every_flavour(options):
    source = io.BytesIO(drawn("WEBP", **options))
    assert image._webp_size(source) == (64, 48)


@pytest.mark.parametrize("format", PICTURES.values())
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_picture_is_damaged(probe, format, share):  # noqa: A002
    data = drawn(format, size=(200, 150))
    with pytest.raises(MediaDamaged) as caught:
        probe(data[: int(len(data) * share)])
    assert caught.value.content_type in PICTURES


def test_flipped_bytes_inside_a_png_are_damage(probe):
    data = bytearray(drawn())
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(MediaDamaged):
        probe(bytes(data))


def test_a_gif_with_too_many_frames_is_refused_before_they_are_decoded(probe):
    target = io.BytesIO()
    Image.new("P", (1, 1)).save(target, "GIF")
    data = target.getvalue()
    start = data.index(b",")
    frame = data[start:-1]
    assert probe(data[:start] + frame * image.MAX_FRAMES + b";").frames == image.MAX_FRAMES
    with pytest.raises(MediaDamaged):
        probe(data[:start] + frame * (image.MAX_FRAMES + 1) + b";")


def test_random_bytes_behind_a_signature_never_hurt_the_child(probe, sandbox):
    chance = random.Random(3)  # noqa: S311
    before = probe(drawn())
    heads = [drawn(name)[:40] for name in PICTURES.values()]
    for head in heads * 3:
        with pytest.raises((MediaDamaged, TooManyPixels)):
            probe(head + chance.randbytes(400))
    assert probe(drawn()) == before
    assert len(sandbox._children) == 1


# -- an answer is not trusted


class Liar:
    def __init__(self, answer):
        self.answer = answer

    def run(self, operation, request, read, *, source, stop):
        return read(self.answer)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        {},
        {"content_type": 5},
        {"content_type": "x" * 1000},
        {"content_type": "image/png", "width": -1},
        {"content_type": "image/png", "width": True},
        {"content_type": "image/png", "width": 1.5},
        {"content_type": "image/png", "thumbhash": ["x"]},
    ],
)
def test_an_answer_that_makes_no_sense_is_a_failed_sandbox(answer, tmp_path):
    with pytest.raises(SandboxFailed) as caught:
        FileProbe(Liar(answer)).probe(tmp_path)
    assert caught.value.reason == "answer"


def test_a_missing_file_is_the_callers_mistake(sandbox, tmp_path):
    with pytest.raises(FileNotFoundError):
        FileProbe(sandbox).probe(tmp_path / "nothing")
    assert not any(tmp_path.iterdir())


def test_a_type_that_is_not_allowed_is_told_and_not_opened(probe):
    """A decoder that nobody asked for is a door less: broken pixels of such a type are not even noticed."""
    broken = drawn("GIF")[:60]
    with pytest.raises(MediaDamaged):
        probe(broken)
    assert probe(broken, allow_mime={"image/png"}) == MediaFacts(kind="image", content_type="image/gif")
    assert probe(drawn("GIF"), allow_mime={"image/gif"}).width == 64
