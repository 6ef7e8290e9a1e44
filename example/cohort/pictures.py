"""Pictures for the seed, drawn from a few shapes; the same name always gives the same picture."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]

SMOOTH = 2  # drawn so much larger, then reduced: soft edges


def colour(text: str) -> Colour:
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def mix(a: Colour, b: Colour, share: float) -> Colour:
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


def sky(size: tuple[int, int], top: Colour, bottom: Colour) -> Image.Image:
    shade = Image.linear_gradient("L").resize(size)
    return Image.composite(Image.new("RGB", size, bottom), Image.new("RGB", size, top), shade)


def disc(draw: ImageDraw.ImageDraw, centre: Point, radius: float, fill: Colour) -> None:
    (x, y) = centre
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


def glow(picture: Image.Image, centre: Point, radius: float, light: Colour) -> None:
    """Light around a point, and the sun or moon in its middle."""
    shade = Image.radial_gradient("L").point(lambda level: max(0, 170 - level))
    size = round(radius * 10)
    place = (round(centre[0] - size / 2), round(centre[1] - size / 2))
    picture.paste(Image.new("RGB", (size, size), light), place, shade.resize((size, size)))
    disc(ImageDraw.Draw(picture), centre, radius, mix(light, (255, 255, 255), 0.6))


def ridge(rng: random.Random, width: int, base: float, height: float, roughness: int) -> list[Point]:
    """A skyline: a few waves on top of each other."""
    waves = [(rng.uniform(0.6, 1.4) * n, rng.uniform(0, math.tau), 1 / n) for n in range(1, roughness + 1)]
    steps = range(0, width + 8, 8)
    return [(x, base - height * sum(a * math.sin(f * 5 * x / width + p) for f, p, a in waves)) for x in steps]


def hills(rng: random.Random, width: int, height: int, palette: list[Colour]) -> Image.Image:
    """Ranges behind each other, the far ones in haze."""
    top, bottom, far, near = palette
    picture = sky((width, height), top, bottom)
    glow(picture, (width * rng.uniform(0.3, 0.7), height * 0.36), width * 0.045, mix(bottom, (255, 246, 220), 0.7))
    draw = ImageDraw.Draw(picture)
    for layer in range(6):
        line = ridge(rng, width, height * (0.5 + 0.1 * layer), height * (0.055 + 0.004 * layer), 3 + layer % 3)
        draw.polygon([*line, (width, height), (0, height)], fill=mix(far, near, layer / 5))
    return picture


def sea(rng: random.Random, width: int, height: int, palette: list[Colour]) -> Image.Image:
    """Evening at the sea, with a boat."""
    top, bottom, water, deep = palette
    horizon = round(height * 0.55)
    picture = sky((width, height), top, bottom)
    sun = (width * rng.uniform(0.35, 0.65), horizon - height * 0.09)
    light = mix(bottom, (255, 250, 225), 0.55)
    glow(picture, sun, height * 0.07, light)
    picture.paste(sky((width, height - horizon), water, deep), (0, horizon))
    draw = ImageDraw.Draw(picture)
    for _ in range(260):
        depth = rng.random() ** 1.6
        y, length = horizon + depth * (height - horizon), width * (0.01 + 0.06 * depth) * rng.uniform(0.4, 1.2)
        x = rng.gauss(sun[0], width * (0.05 + 0.16 * depth))
        glint = mix(water, light, rng.uniform(0.2, 0.95) * (1 - depth / 2))
        draw.rounded_rectangle((x - length, y, x + length, y + 2 + 7 * depth), 4, fill=glint)
    _boat(draw, (width * rng.choice([0.2, 0.8]), horizon + height * 0.1), height * 0.13, mix(deep, (0, 0, 0), 0.35))
    return picture


def _boat(draw: ImageDraw.ImageDraw, at: Point, size: float, dark: Colour) -> None:
    def shape(fill: Colour, *points: Point) -> None:
        draw.polygon([(at[0] + x * size, at[1] + y * size) for x, y in points], fill=fill)

    shape(dark, (-1, 0), (1, 0), (0.7, 0.3), (-0.75, 0.3))
    shape((250, 244, 230), (0, -0.12), (0, -1.9), (0.85, -0.12))
    shape((232, 219, 196), (-0.08, -0.12), (-0.08, -1.5), (-0.6, -0.12))


def night(rng: random.Random, width: int, height: int, palette: list[Colour]) -> Image.Image:
    """Stars over woods, and one lit window."""
    top, bottom, far, near = palette
    picture = sky((width, height), top, bottom)
    draw = ImageDraw.Draw(picture)
    for _ in range(420):
        star = (rng.uniform(0, width), height * 0.75 * rng.random())
        disc(draw, star, rng.choice([1.5, 2, 2, 3, 4]), mix(bottom, (255, 252, 235), rng.uniform(0.4, 1)))
    glow(picture, (width * rng.uniform(0.6, 0.8), height * 0.24), width * 0.03, (214, 222, 240))
    for layer in range(3):
        line = ridge(rng, width, height * (0.7 + 0.09 * layer), height * 0.03, 3)
        shade = mix(far, near, layer / 2)
        draw.polygon([*line, (width, height), (0, height)], fill=shade)
        for x, y in line[:: 5 - layer]:
            tall = height * rng.uniform(0.02, 0.05) * (1 + layer * 0.6)
            draw.polygon([(x - tall * 0.28, y + tall * 0.4), (x, y - tall), (x + tall * 0.28, y + tall * 0.4)], shade)
    x, y, side = width * 0.3, height * 0.9, width * 0.022
    hut = [(-2.0, 0.0), (0.0, -1.6), (2.0, 0.0), (2.0, 3.0), (-2.0, 3.0)]
    draw.polygon([(x + side * across, y + side * down) for across, down in hut], mix(near, (0, 0, 0), 0.5))
    draw.rectangle((x - side * 0.6, y + side * 0.6, x + side * 0.6, y + side * 1.9), fill=(255, 206, 122))
    return picture


def plant(rng: random.Random, width: int, height: int, palette: list[Colour]) -> Image.Image:
    """A pressed stem on paper."""
    paper, leaf, dark, bloom = palette
    picture = Image.new("RGB", (width, height), paper)
    draw = ImageDraw.Draw(picture)
    for start in (0.38, 0.5, 0.63):
        lean = (start - 0.5) * 1.6 + rng.uniform(-0.1, 0.1)
        x, y, step = width * (0.5 + (start - 0.5) * 0.3), height * 0.92, height * 0.052
        for joint in range(rng.randint(11, 14)):
            angle = lean * (0.35 + joint / 14) - math.pi / 2
            after = (x + step * math.cos(angle), y + step * math.sin(angle))
            draw.line([(x, y), after], fill=dark, width=max(4, 16 - joint))
            for side in (-1, 1):
                turn, green = angle + side * rng.uniform(0.7, 1), mix(leaf, dark, rng.uniform(0, 0.6))
                _leaf(draw, after, turn, height * 0.115 * (1 - joint / 17), green)
            x, y = after
        for petal in range(9):
            turn = math.tau * petal / 9
            _leaf(draw, (x, y), turn, height * 0.062, mix(bloom, paper, 0.12 * (petal % 3)))
        disc(draw, (x, y), height * 0.016, mix(bloom, dark, 0.6))
    return picture


def _leaf(draw: ImageDraw.ImageDraw, at: Point, angle: float, length: float, fill: Colour) -> None:
    steps = [i / 10 for i in range(11)]
    width = [math.sin(math.pi * s**0.8) * length * 0.17 for s in steps]
    ahead, aside = (math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))

    def edge(side: int) -> list[Point]:
        return [
            (at[0] + length * s * ahead[0] + side * w * aside[0], at[1] + length * s * ahead[1] + side * w * aside[1])
            for s, w in zip(steps, width, strict=True)
        ]

    draw.polygon([*edge(1), *reversed(edge(-1))], fill=fill)


def tiles(rng: random.Random, width: int, height: int, palette: list[Colour]) -> Image.Image:
    """A block-printed pattern of quarter circles."""
    picture = Image.new("RGB", (width, height), palette[0])
    draw = ImageDraw.Draw(picture)
    side = width // 8
    for x in range(0, width, side):
        for y in range(0, height, side):
            ground, ring, core = rng.sample(palette, 3)
            draw.rectangle((x, y, x + side, y + side), fill=ground)
            left, top = rng.choice([(x, y), (x - side, y), (x, y - side), (x - side, y - side)])
            quarter = Image.new("RGB", (side, side), ground)
            _rings(ImageDraw.Draw(quarter), (left - x, top - y), side, (ring, core))
            picture.paste(quarter, (x, y))
    return picture


def _rings(draw: ImageDraw.ImageDraw, corner: Point, side: int, fills: tuple[Colour, Colour]) -> None:
    centre = (corner[0] + side, corner[1] + side) if corner[0] < 0 and corner[1] < 0 else None
    x, y = centre or (0 if corner[0] < 0 else side, 0 if corner[1] < 0 else side)
    for share, fill in zip((0.92, 0.5), fills, strict=True):
        disc(draw, (x % (2 * side), y % (2 * side)), side * share, fill)


def still(rng: random.Random, width: int, height: int, palette: list[Colour]) -> Image.Image:
    """Vessels and fruit on a table."""
    wall, table, *glazes = palette
    picture = Image.new("RGB", (width, height), wall)
    draw = ImageDraw.Draw(picture)
    ground = height * 0.7
    draw.rectangle((0, ground, width, height), fill=table)
    for n, x in enumerate((0.22, 0.42, 0.62, 0.8)):
        glaze, foot = glazes[n % len(glazes)], ground + height * rng.uniform(0.06, 0.16)
        tall, wide = height * rng.uniform(0.24, 0.5), width * rng.uniform(0.055, 0.085)
        _vessel(draw, (width * x, foot), (wide, tall), (glaze, mix(table, (0, 0, 0), 0.22)))
    for n in range(4):
        fruit = mix(glazes[-1], (226, 120, 60), 0.3 * n)
        disc(draw, (width * (0.3 + 0.13 * n), ground + height * rng.uniform(0.16, 0.22)), height * 0.045, fruit)
    return picture


def _vessel(draw: ImageDraw.ImageDraw, foot: Point, size: tuple[float, float], fills: tuple[Colour, Colour]) -> None:
    (x, y), (wide, tall), (glaze, shadow) = foot, size, fills
    draw.ellipse((x - wide * 0.7, y - wide * 0.14, x + wide * 2.2, y + wide * 0.14), fill=shadow)
    profile = [(s / 30, 0.42 + 0.58 * math.sin(math.pi * min(1.0, (s / 30) * 1.25)) ** 1.2) for s in range(31)]
    right = [(x + wide * w, y - tall * s) for s, w in profile]
    left = [(x - wide * w, y - tall * s) for s, w in profile]
    draw.polygon([*right, *reversed(left)], fill=glaze)
    light = [(x - wide * w * 0.78, y - tall * s) for s, w in profile[3:24]]
    inner = [(x - wide * w * 0.58, y - tall * s) for s, w in profile[3:24]]
    draw.polygon([*light, *reversed(inner)], fill=mix(glaze, (255, 255, 255), 0.28))


SCENES: dict[str, Callable[[random.Random, int, int, list[Colour]], Image.Image]] = {
    "hills": hills,
    "sea": sea,
    "night": night,
    "plant": plant,
    "tiles": tiles,
    "still": still,
}


def scene(kind: str, name: str, palette: str, size: tuple[int, int] = (1800, 1200)) -> io.BytesIO:
    """A post's picture as a JPEG."""
    rng = random.Random(name)
    drawn = SCENES[kind](rng, size[0] * SMOOTH, size[1] * SMOOTH, [colour(text) for text in palette.split()])
    return _jpeg(drawn)


def portrait(hair_style: str, palette: str) -> io.BytesIO:
    """A member's picture as a JPEG: a head and shoulders in flat colours."""
    ground, coat, skin, hair = (colour(text) for text in palette.split())
    side = 1000 * SMOOTH
    picture = sky((side, side), mix(ground, (255, 255, 255), 0.25), ground)
    draw = ImageDraw.Draw(picture)
    x, y, r = side * 0.5, side * 0.43, side * 0.17
    if hair_style in {"long", "bun"}:
        end = y + r * (2.1 if hair_style == "long" else 0.9)
        draw.rounded_rectangle((x - r * 1.3, y - r * 0.6, x + r * 1.3, end), r, hair)
    if hair_style == "bun":
        disc(draw, (x, y - r * 1.55), r * 0.5, hair)
    draw.rounded_rectangle((x - side * 0.33, side * 0.72, x + side * 0.33, side * 1.4), side * 0.2, coat)
    draw.pieslice((x - side * 0.12, side * 0.66, x + side * 0.12, side * 0.86), 0, 180, mix(coat, (255, 255, 255), 0.3))
    draw.rounded_rectangle((x - r * 0.42, y, x + r * 0.42, side * 0.79), r * 0.4, mix(skin, (40, 10, 0), 0.18))
    reach = 1.06 if hair_style in {"short", "beard"} else 1.2
    draw.pieslice((x - r * reach, y - r * 1.25, x + r * reach, y + r * 1.1), 180, 360, hair)
    draw.ellipse((x - r, y - r, x + r, y + r * 1.28), skin)
    if hair_style == "beard":
        draw.chord((x - r, y - r, x + r, y + r * 1.28), 40, 140, hair)
    tilt = {"long": -12, "bun": 8, "short": 10, "beard": 0}[hair_style]
    draw.chord((x - r * 1.06, y - r * 1.2, x + r * 1.06, y + r * 0.6), 195 + tilt, 345 + tilt, hair)
    return _jpeg(picture)


def _jpeg(drawn: Image.Image) -> io.BytesIO:
    file = io.BytesIO()
    drawn.reduce(SMOOTH).save(file, "JPEG", quality=90)
    file.seek(0)
    return file
