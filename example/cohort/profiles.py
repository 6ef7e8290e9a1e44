"""What members may upload, and what is made of it."""

from __future__ import annotations

from flask_rindle import MB, Profile, image

PICTURES = {"image/jpeg", "image/png", "image/webp", "image/avif"}


class Avatar(Profile):
    allow_mime = PICTURES
    max_bytes = 8 * MB
    max_pixels = 50_000_000
    variants = {
        "tiny": image.fill(96, 96, format="webp"),
        "small": image.fill(240, 240, format="avif"),
        "large": image.fill(640, 640, format="avif"),
        "plain": image.fill(480, 480),  # JPEG, for browsers that know nothing newer
    }


class PostImage(Profile):
    allow_mime = PICTURES
    max_bytes = 16 * MB
    max_pixels = 80_000_000
    variants = {
        "card": image.fill(960, 640, format="webp", upscale=True, gravity="top"),
        "small": image.fit(480, format="webp"),
        "medium": image.fit(960, format="webp"),
        "large": image.fit(1600, format="webp", quality=82),
        "plain": image.fit(1200),
    }
