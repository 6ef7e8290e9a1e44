"""The story that every run tells: what users and hosts do with uploads, in chapters.

It can be told again from any point, as real clients do: `World.remember` stands for the open page
of a browser, which outlives the server. Every chapter ends when its background work is done.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from flask import Flask
from PIL import Image
from sqlalchemy import select
from world import World

# Each chapter, and the phases that have a name of their own in it; all others keep the one of the first time.
CHAPTERS: Mapping[str, Mapping[str, str]] = {
    "first upload": {},
    "second upload": {"promotion": "attach-replace"},
    "refused upload": {"promotion": "refusal", "purge": "purge of what was refused"},
    "cancelled upload": {},
    "upload by form": {},
    "upload by the host": {"form": "upload by the host"},
    "another by the host": {"form": "upload by the host"},
    "attach": {"host": "attach"},
    "attach over it": {"host": "attach over another"},
    "detach": {"host": "detach"},
}


def draw(shade: int) -> bytes:
    """A small real picture, another one for each shade."""
    picture = Image.merge(
        "RGB", (Image.linear_gradient("L").resize((200, 150)), *[Image.new("L", (200, 150), shade)] * 2)
    )
    out = io.BytesIO()
    picture.save(out, "jpeg")
    return out.getvalue()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


PICTURES = {name: draw(10 * at) for at, name in enumerate(("first", "second", "cancelled", "form", "a", "b"))}
NO_PICTURE = b"This is a text, whatever its name says.\n" * 20


class Teller:
    """One process's client, host and app."""

    def __init__(self, world: World, app: Flask) -> None:
        self.world = world
        self.app = app
        self.db = app.extensions["host"]["db"]
        self.rindle = app.extensions["host"]["rindle"]
        self.User = app.extensions["host"]["User"]
        self.browser = app.test_client()
        self.signed: dict[str, Any] = {}

    def tell(self) -> None:
        """All chapters that are not over."""
        for chapter in CHAPTERS:
            if chapter not in self.world.recall().get("over", ()):
                self.world.write("chapter", chapter)
                _TOLD[chapter](self)
                self.world.settle(self.app)
                self.world.remember(over=[*self.world.recall().get("over", ()), chapter])
        self.world.write("chapter", "")

    def user(self, name: str) -> Any:
        return self.db.session.scalars(select(self.User).filter_by(name=name)).one()

    def page(self, name: str) -> str:
        """The ticket of the page that this user has open; a page that is open stays as it is."""
        if name not in self.world.recall():
            with self.app.app_context():
                ticket = self.rindle.upload_ticket(
                    "picture", owner=self.user(name.partition(",")[0]), slot="picture", expires_in=7 * 24 * 3600
                )
            self.world.remember(**{name: ticket})
        ticket: str = self.world.recall()[name]
        return ticket

    def ask(self, method: str, path: str, page: str, **options: Any) -> Any:
        headers = {"Rindle-Ticket": self.page(page)}
        return self.browser.open(f"/rindle/uploads{path}", method=method, headers=headers, **options)

    def announce(self, page: str, data: bytes) -> str:
        """The session of the upload from this page, opened once."""
        if f"{page}, session" not in self.world.recall():
            body = {"filename": f"{page}.jpg", "content_type": "image/jpeg", "byte_size": len(data)}
            answer = self.ask("POST", "", page, json=body)
            assert answer.status_code == HTTPStatus.CREATED, answer.text
            self.world.remember(**{f"{page}, session": answer.json["id"]})
            self.signed[answer.json["id"]] = answer.json["upload"]
        session: str = self.world.recall()[f"{page}, session"]
        return session

    def send(self, page: str, session: str, data: bytes) -> None:
        """PUT the bytes where the server wants them, unless it has them for good."""
        if self.ask("GET", f"/{session}", page).json["state"] in ("completed", "aborted"):
            return
        upload = self.signed.get(session) or self.ask("POST", f"/{session}/sign", page).json["upload"]
        answer = self.browser.put(upload["url"], headers=upload["headers"], data=data)
        assert answer.status_code == HTTPStatus.OK, answer.text

    def upload(self, page: str, data: bytes) -> None:
        """What the script of the upload widget does."""
        session = self.announce(page, data)
        self.send(page, session, data)
        answer = self.ask("POST", f"/{session}/complete", page)
        assert answer.status_code == HTTPStatus.OK, answer.text

    def cancel(self) -> None:
        session = self.announce("Ada, cancelled", PICTURES["cancelled"])
        self.send("Ada, cancelled", session, PICTURES["cancelled"])
        answer = self.ask("DELETE", f"/{session}", "Ada, cancelled")
        assert answer.status_code == HTTPStatus.NO_CONTENT, answer.text

    def send_form(self) -> None:
        """What a browser without script does; its user sends the form again when no answer came."""
        data = {"ticket": self.page("Carl"), "file": (io.BytesIO(PICTURES["form"]), "form.jpg", "image/jpeg")}
        answer = self.browser.post("/rindle/uploads/form", data=data)
        assert answer.status_code == HTTPStatus.SEE_OTHER, answer.text

    def take(self, name: str) -> None:
        """The host takes a picture itself; if it dies before it has noted it, it takes it again."""
        if f"asset {name}" not in self.world.recall():
            with self.app.app_context():
                asset = self.rindle.upload("picture", io.BytesIO(PICTURES[name]), filename=f"{name}.jpg")
            self.world.remember(**{f"asset {name}": str(asset.id)})

    def attach(self, name: str) -> None:
        """The host attaches and writes a row of its own in one commit, of which it is told or not."""
        with self.app.app_context():
            bob = self.user("Bob")
            if bob.mood != f"shows {name}":
                bob.mood = f"shows {name}"
                self.rindle.attach(self.world.recall()[f"asset {name}"], bob, "picture")
                self.db.session.commit()

    def detach(self) -> None:
        with self.app.app_context():
            bob = self.user("Bob")
            bob.mood = "shows nothing"
            self.rindle.detach(bob, "picture")
            self.db.session.commit()


_TOLD: Mapping[str, Callable[[Teller], None]] = {
    "first upload": lambda teller: teller.upload("Ada, first", PICTURES["first"]),
    "second upload": lambda teller: teller.upload("Ada, second", PICTURES["second"]),
    "refused upload": lambda teller: teller.upload("Ada, refused", NO_PICTURE),
    "cancelled upload": Teller.cancel,
    "upload by form": Teller.send_form,
    "upload by the host": lambda teller: teller.take("a"),
    "another by the host": lambda teller: teller.take("b"),
    "attach": lambda teller: teller.attach("a"),
    "attach over it": lambda teller: teller.attach("b"),
    "detach": Teller.detach,
}
