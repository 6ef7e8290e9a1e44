"""What the macros print: real HTML, responsive, and at a constant number of statements."""

from __future__ import annotations

import html.parser
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from flask import Flask, render_template_string
from sqlalchemy import event

from flask_rindle import Profile, attached, image
from flask_rindle.errors import MalformedRequest

PICTURE = """{% import "rindle/macros.html" as media %}
{{ media.picture(shown, variants=variants, alt="A <b>", sizes=sizes) }}"""


class Gallery(Profile):
    allow_mime = {"image/jpeg", "image/gif"}  # noqa: RUF012
    variants = {  # noqa: RUF012
        "small": image.fit(100, 100),
        "wide": image.fit(200, 200),
        "small_webp": image.fit(100, 100, format="webp"),
        "wide_webp": image.fit(200, 200, format="webp"),
        "hero": image.fit(250, 250, format="avif"),
    }


class Tags(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    return make_app(profiles=[Gallery])


@pytest.fixture
def upload(app: Flask, photo: Callable[..., bytes]) -> Callable[..., Any]:
    def send(width: int = 300, height: int = 200, **options: Any) -> Any:
        rindle = app.extensions["host"].rindle
        return rindle.upload(Gallery, io.BytesIO(photo(width, height)), filename="a.jpg", **options)

    return send


def picture(shown: Any, variants: list[Any], sizes: str | None = None) -> Tags:
    return Tags(render_template_string(PICTURE, shown=shown, variants=variants, sizes=sizes))


@contextmanager
def counting(engine: Any) -> Iterator[list[str]]:
    statements: list[str] = []

    def note(conn: Any, cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", note)


def test_formats_stand_best_first_and_the_fallback_is_for_every_browser(app: Flask, upload: Callable[..., Any]) -> None:
    with app.test_request_context():
        asset = app.extensions["rindle"].feed.asset(upload().id)
        tags = picture(asset, ["small", "wide", "small_webp", "wide_webp", ("hero", "(min-width: 900px)")], "50vw")
    hero, webp = tags.named("source")
    (img,) = tags.named("img")
    assert (hero["type"], hero["media"]) == ("image/avif", "(min-width: 900px)")
    assert (webp["type"], webp["sizes"]) == ("image/webp", "50vw")
    assert [part.rpartition(" ")[2] for part in str(webp["srcset"]).split(", ")] == ["100w", "200w"]
    assert [part.rpartition(" ")[2] for part in str(img["srcset"]).split(", ")] == ["100w", "200w"]
    assert (img["width"], img["height"], img["alt"], img["loading"], img["decoding"]) == (
        "200",
        "133",
        "A <b>",
        "lazy",
        "async",
    )


def test_nothing_asked_for_shows_the_original(app: Flask, upload: Callable[..., Any]) -> None:
    with app.test_request_context():
        (img,) = picture(app.extensions["rindle"].feed.asset(upload().id), []).named("img")
    assert (img["width"], img["height"]) == ("300", "200")
    assert str(img["src"]).endswith("/a.jpg")


def test_what_is_not_ready_announces_itself(app: Flask, upload: Callable[..., Any]) -> None:
    app.extensions["rindle"].outbox.send = lambda _: None
    with app.test_request_context():
        asset = upload()
        tags = picture(asset, ["small"])
        (waiting,) = tags.named("rindle-picture")
        assert tags.named("img") == []
        app.extensions["rindle"].jobs.drain()
        state = app.test_client().get(str(waiting["data-state-url"])).json
    assert state["picture"]["img"]["width"] == 100
    assert state["picture"]["img"]["alt"] == "A <b>"


def test_a_refused_asset_shows_its_sentence(app: Flask) -> None:
    with app.test_request_context():
        asset = app.extensions["host"].rindle.upload(Gallery, io.BytesIO(b"nonsense"), filename="a.jpg")
        found = app.extensions["rindle"].feed.asset(asset.id)
        text = render_template_string(PICTURE, shown=found, variants=["small"], sizes=None)
    assert "not accepted here" in text


def test_an_empty_slot_prints_nothing(app: Flask) -> None:
    host = app.extensions["host"]
    with app.test_request_context():
        user = host.User(name="Ada")
        host.db.session.add(user)
        host.db.session.commit()
        assert render_template_string(PICTURE, shown=user.avatar, variants=["small"], sizes=None).strip() == ""
        assert render_template_string(PICTURE, shown=None, variants=["small"], sizes=None).strip() == ""


def test_the_upload_macro_prints_a_form_that_works_alone(app: Flask, photo: Callable[..., bytes]) -> None:
    host = app.extensions["host"]
    page = """{% import "rindle/macros.html" as media %}{{ media.assets() }}
      {{ media.upload(G, owner=user, slot="avatar", label="A & B", picture={"variants": ["small"], "alt": "x"}) }}"""
    with app.test_request_context("/members/1?tab=2"):
        user = host.User(name="Ada")
        host.db.session.add(user)
        host.db.session.commit()
        tags = Tags(render_template_string(page, G=Gallery, user=user))
    (form,) = tags.named("form")
    hidden = {field["name"]: field["value"] for field in tags.named("input") if field["type"] == "hidden"}
    (chooser,) = [field for field in tags.named("input") if field["type"] == "file"]
    assert (form["method"], form["enctype"]) == ("post", "multipart/form-data")
    assert chooser["accept"] == "image/gif, image/jpeg"
    assert tags.named("label")[0]["for"] == chooser["id"]
    assert hidden["next"] == "/members/1?tab=2"
    client = app.test_client()
    for link in (tags.named("link")[0]["href"], tags.named("script")[0]["src"]):
        with client.get(str(link)) as answer:
            assert answer.status_code == 200
    fields = {**hidden, "file": (io.BytesIO(photo()), "a.jpg")}
    answer = client.post(str(form["action"]), data=fields)
    assert (answer.status_code, answer.headers["Location"].partition("&")[0]) == (303, "/members/1?tab=2")
    with app.test_request_context():
        assert host.db.session.get(host.User, 1).avatar


def test_the_form_tells_without_script_what_became_of_its_file(
    make_app: Callable[..., Flask], photo: Callable[..., bytes]
) -> None:
    """The page that the form leads back to says that the file is being checked, and then what is wrong with it."""
    app = make_app(profiles=[Gallery])
    host, engine, client = app.extensions["host"], app.extensions["rindle"], app.test_client()
    engine.outbox.send = lambda _: None
    with app.app_context():
        host.db.session.add_all([host.User(name="Ada"), host.User(name="Bo")])
        host.db.session.commit()

    @app.get("/members/<int:user_id>")
    def member(user_id: int) -> str:
        page = """{% import "rindle/macros.html" as media %}{{ media.upload(G, owner=user, slot="avatar") }}"""
        return render_template_string(page, G=Gallery, user=host.db.session.get(host.User, user_id))

    def send(data: bytes) -> str:
        fields = Tags(client.get("/members/1").text).named("input")
        hidden = {field["name"]: field["value"] for field in fields if field["type"] == "hidden"}
        return client.post(
            "/rindle/uploads/form", data={**hidden, "file": (io.BytesIO(data), "a.jpg", "image/jpeg")}
        ).headers["Location"]

    back = send(b"no picture")
    assert "is being checked" in client.get(back).text
    assert "is being checked" not in client.get(back.replace("/members/1", "/members/2")).text
    engine.jobs.drain()
    page = client.get(back).text
    assert "Send GIF, JPEG." in page
    assert "rindle=" not in next(str(f["value"]) for f in Tags(page).named("input") if f.get("name") == "next")
    back = send(photo())
    engine.jobs.drain()
    assert "status" not in client.get(back).text
    assert "status" not in client.get("/members/1?rindle=nonsense").text


def test_nothing_inline_is_printed(app: Flask, upload: Callable[..., Any]) -> None:
    with app.test_request_context():
        asset = app.extensions["rindle"].feed.asset(upload().id)
        page = PICTURE + '{% import "rindle/macros.html" as media %}{{ media.assets() }}{{ media.upload(G) }}'
        tags = Tags(render_template_string(page, shown=asset, variants=["small"], sizes=None, G=Gallery))
    assert not [
        name for name, attributes in tags.found if any(key == "style" or key.startswith("on") for key in attributes)
    ]
    assert all("src" in attributes for attributes in tags.named("script"))
    assert not tags.named("style")


def test_a_list_of_any_length_costs_the_same_statements(app: Flask, upload: Callable[..., Any]) -> None:
    host = app.extensions["host"]

    def statements_for(count: int) -> int:
        with app.test_request_context():
            users = [host.User(name=str(n)) for n in range(count)]
            host.db.session.add_all(users)
            host.db.session.commit()
            for user in users:
                upload(owner=user, slot="avatar")
            host.db.session.expire_all()
            keys = [host.rindle.owner_key(user) for user in users]
            with counting(host.db.engine) as statements:
                found = host.rindle.attachments_for(keys, "avatar")
                for key in keys:
                    (standing,) = found[key]["avatar"]
                    assert picture(standing.asset, ["small", "wide"]).named("img")
            return len(statements)

    assert statements_for(2) == statements_for(9) == 3


def test_slots_on_a_model(app: Flask, upload: Callable[..., Any]) -> None:
    host = app.extensions["host"]
    with app.test_request_context():
        user = host.User(name="Ada")
        host.db.session.add(user)
        host.db.session.commit()
        assert not user.avatar
        assert user.avatar.url("small") is None
        asset = upload()
        user.avatar.attach(asset)
        assert str(user.avatar.url("small")).endswith("/a-small.jpg")
        host.db.session.rollback()
        assert not user.avatar
        user.avatar.attach(str(asset.id))
        host.db.session.commit()
        assert [found.id for found in user.avatar] == [asset.id]
        user.avatar.detach()
        host.db.session.commit()
        assert not user.avatar


def test_a_declared_slot_is_known_by_its_class() -> None:
    class Model:
        photo = attached("photo", Gallery)

    assert (Model.photo.slot, Model.photo.profile, Model.photo.many) == ("photo", Gallery, False)


def test_a_slot_that_no_row_could_hold_is_refused_where_it_is_declared() -> None:
    for name in ("", "x" * 65):
        with pytest.raises(MalformedRequest) as caught:
            attached(name, Gallery)
        assert caught.value.field == "slot"
