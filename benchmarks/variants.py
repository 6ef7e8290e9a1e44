"""Three WebP variants of a 12-megapixel JPEG: through the decoder child, and bare Pillow twice, in one run.

The ways are taken in turn, round by round, and compared within a round, so that a machine whose speed drifts
does not decide. Prints the median ratio and its spread; a wide spread says that the machine was noisy.
"""

from __future__ import annotations

import io
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageOps

from flask_rindle.processing.base import Failed, Order
from flask_rindle.processing.images import ImageProcessor
from flask_rindle.processing.sandbox import Sandbox
from flask_rindle.recipes import image

SIDES = (1280, 640, 128)
ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 9


def draw(path: Path) -> None:
    """A photo-like picture: gradients and noise, lying on its side as phones leave it."""
    noise = Image.effect_noise((1000, 750), 40).resize((4000, 3000), Image.Resampling.BICUBIC)
    ramp = Image.linear_gradient("L").resize((4000, 3000))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.merge("RGB", (noise, ramp, Image.blend(noise, ramp, 0.5))).save(path, "JPEG", quality=90, exif=exif)


def naive(source: Path) -> None:
    """What is written first: decode, turn and shrink anew for every size."""
    for side in SIDES:
        picture = ImageOps.exif_transpose(Image.open(source))
        picture.thumbnail((side, side))
        picture.save(io.BytesIO(), "WEBP", quality=80, method=4)


def careful(source: Path) -> None:
    """Bare Pillow at its best: one draft decode, then from the largest to the smallest."""
    picture = Image.open(source)
    picture.draft("RGB", (SIDES[0], SIDES[0]))
    picture.thumbnail((SIDES[0], SIDES[0]), reducing_gap=2)
    shown = ImageOps.exif_transpose(picture)
    for side in SIDES:
        shown.thumbnail((side, side))
        shown.save(io.BytesIO(), "WEBP", quality=80, method=4)


def through_the_child(processor: ImageProcessor, source: Path, directory: Path) -> None:
    recipes = {f"v{side}": image.fit(side, side, format="webp") for side in SIDES}
    orders = [Order(name=name, recipe=recipe, target=directory / name) for name, recipe in recipes.items()]
    answers = processor.process(source, "image/jpeg", orders, stop=lambda: False)
    assert not any(isinstance(answer, Failed) for answer in answers), answers
    for order in orders:
        order.target.unlink()


def milliseconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


def main() -> None:
    sandbox = Sandbox()
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        source = directory / "photo.jpg"
        draw(source)
        processor = ImageProcessor(sandbox)
        ways: dict[str, Callable[[], None]] = {
            "child": lambda: through_the_child(processor, source, directory),
            "careful Pillow": lambda: careful(source),
            "naive Pillow": lambda: naive(source),
        }
        for work in ways.values():
            work()
        rounds = [{name: milliseconds(work) for name, work in ways.items()} for _ in range(ROUNDS)]
    sandbox.close()
    print(f"{platform.machine()}, Python {platform.python_version()}, {ROUNDS} rounds, {source.name} of 12 MP")
    for name in ways:
        times = sorted(row[name] for row in rounds)
        print(f"{name:15} median {statistics.median(times):6.0f} ms   ({times[0]:.0f} to {times[-1]:.0f})")
    for name in ("careful Pillow", "naive Pillow"):
        ratios = sorted(row["child"] / row[name] for row in rounds)
        print(f"child / {name:15} {statistics.median(ratios):.2f}   ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
