"""`flask cohort seed`: members, posts and their pictures. Running it again adds only what is missing."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass
from datetime import date

from sqlalchemy import func, select

from example.cohort import pictures
from example.cohort.models import Member, Post, db, rindle
from example.cohort.profiles import Avatar, PostImage
from flask_rindle.models import Asset
from flask_rindle.models.states import SETTLED

PATIENCE_SECONDS = 300
TALL = (1200, 1600)

MEMBERS = [
    ("Ada", "long", "#c8d9c4 #31554b #e8b995 #3a2a22", "Keeps the calendar, the kettle and the good brushes."),
    ("Béla", "beard", "#f0cfa5 #9c3d2a #c98f66 #1f1a1a", "Potter on weekdays. Draws ridgelines on the train home."),
    ("Chidi", "short", "#b9cbe0 #233a5e #7d5239 #16110f", "Here for the sea. Never finishes a sketchbook, on purpose."),
    ("Dóra", "bun", "#e9c7c4 #5a3550 #f0cba9 #b8642d", "Cuts lino, prints tea towels, collects offcuts."),
    ("Emil", "short", "#d9d3b8 #6b6a2f #e3b48c #8a6a45", "Botanist. Will tell you what you have just drawn."),
    ("Farah", "long", "#cfc3df #3f3a66 #b88057 #241c2b", "Works at night, sleeps on trains, paints in between."),
]


@dataclass(frozen=True)
class Draft:
    """A post, and its pictures as (scene, palette, size)."""

    author: str
    written_on: date
    title: str
    body: str
    scenes: tuple[tuple[str, str, tuple[int, int]], ...]


WIDE = (1800, 1200)
DRAFTS = [
    Draft(
        "Ada",
        date(2026, 9, 7),
        "Week one: look longer than you draw",
        "We sat on the wall behind the station for an hour and drew for ten minutes of it. Six ranges of hills, six "
        "values, no outlines: that was the whole exercise.\n\nThe far ones are always lighter than you think, and "
        "always bluer than you dare.",
        (
            ("hills", "#f4c9a0 #f8e6cf #c99b86 #39404f", WIDE),
            ("hills", "#9cc7d8 #eef3ea #a7bfae #22423c", WIDE),
        ),
    ),
    Draft(
        "Dóra",
        date(2026, 9, 15),
        "Five colours and a quarter circle",
        "Everybody cut one block. We passed them round the table, turned them as we liked, and nobody said where the "
        "pattern was going.\n\nThe towels are drying in the hall. Take one home on Thursday.",
        (
            ("tiles", "#f2e8d5 #c7512f #23395b #e3a93b #6d8f87", WIDE),
            ("tiles", "#efe6dd #31554b #b8642d #e9c7c4 #8fa98f", (1400, 1400)),
        ),
    ),
    Draft(
        "Emil",
        date(2026, 9, 24),
        "Herbarium evening",
        "Bring something that you found within a hundred steps of your door, pressed for three days between newspaper. "
        "We draw the joints first and the leaves last.\n\nThese three stood beside the bicycle shed, and nobody had "
        "seen them before.",
        (("plant", "#f3ecdc #6f8f5b #2f4a33 #c9563c", TALL),),
    ),
    Draft(
        "Chidi",
        date(2026, 10, 3),
        "The ferry, and what the light did",
        "Twenty minutes each way, four times, with wet paper. You cannot draw water. You can draw where it stops being "
        "dark.\n\nNext time: gloves.",
        (
            ("sea", "#5f7fa8 #f6c7a4 #7f95ad #27384f", WIDE),
            ("sea", "#8fb3c4 #f3e3c3 #8fb0b5 #2a5560", WIDE),
            ("hills", "#b7c3dd #f1dfd6 #9aa3bd #2c3350", WIDE),
        ),
    ),
    Draft(
        "Béla",
        date(2026, 10, 19),
        "Four pots that did not crack",
        "The kiln was kind. We set them on the bench by the window, left the oranges where they rolled, and drew the "
        "whole thing in flat shapes: no shading until the last five minutes.",
        (
            ("still", "#e7d9c4 #b98a63 #355c63 #c8552f #e7e2d6 #d79a2b", WIDE),
            ("still", "#c9d3cf #7d6a5a #e3b7a0 #44506b #f0e9da #b5503c", WIDE),
        ),
    ),
    Draft(
        "Farah",
        date(2026, 11, 9),
        "Night walk, with red torches",
        "Eleven of us went up to the meadow. Wait until the window of the hut is the brightest thing on the hill, and "
        "then do not look at it again.\n\nWhite gouache on blue paper works. So does leaving the paper alone.",
        (("night", "#0d1530 #3b4a78 #2b3656 #0c1224", WIDE), ("night", "#16202b #35546b #24404c #0b1518", TALL)),
    ),
]


def seed() -> list[Asset]:
    """Add what is missing; the pictures that were uploaded, which the job threads now work on."""
    people = {name: _member(name, about) for name, _, _, about in MEMBERS}
    posts = [_post(draft, people[draft.author]) for draft in DRAFTS]
    db.session.commit()
    sent = []
    for name, hair, palette, _ in MEMBERS:
        if not people[name].avatar:
            sent.append(_send(pictures.portrait(hair, palette), people[name], "avatar", Avatar, f"{name}.jpg"))
    for draft, post in zip(DRAFTS, posts, strict=True):
        there = len(post.images.attachments)
        for number, (kind, palette, size) in list(enumerate(draft.scenes, 1))[there:]:
            drawn = pictures.scene(kind, f"{draft.title} {number}", palette, size)
            sent.append(_send(drawn, post, "images", PostImage, f"{kind}-{number}.jpg"))
    return sent


def wait_until_ready(assets: list[Asset]) -> None:
    """The pictures are made in threads of this process; stay until the last one is done."""
    ids = [asset.id for asset in assets]
    settled = select(func.count()).where(Asset.id.in_(ids), Asset.state.in_(SETTLED))
    ends_at = time.monotonic() + PATIENCE_SECONDS
    while (db.session.scalar(settled) or 0) < len(ids):
        db.session.rollback()  # the next look is to see what the threads have written
        if time.monotonic() > ends_at:
            msg = "the pictures are not ready; run `flask cohort seed` again"
            raise TimeoutError(msg)
        time.sleep(0.1)


def _member(name: str, about: str) -> Member:
    found = db.session.scalar(select(Member).filter_by(name=name))
    if found is None:
        found = Member(name=name, about=about)
        db.session.add(found)
    return found


def _post(draft: Draft, author: Member) -> Post:
    found = db.session.scalar(select(Post).filter_by(title=draft.title))
    if found is None:
        found = Post(title=draft.title, body=draft.body, written_on=draft.written_on, author=author)
        db.session.add(found)
    return found


def _send(file: io.BytesIO, owner: Member | Post, slot: str, profile: type, filename: str) -> Asset:
    """Upload as the extension does for any file that the app holds itself: through the same gate."""
    return rindle.upload(profile, file, filename=filename, content_type="image/jpeg", owner=owner, slot=slot)
