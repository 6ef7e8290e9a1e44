"""Server-Sent Events and the state question: who may hear what, and that nothing is missed."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from flask_rindle.lifecycle import move
from flask_rindle.models import Asset, Variant
from flask_rindle.models.states import VariantState
from flask_rindle.testing.clock import FrozenClock
from flask_rindle.types import parse_id


def messages(text: str) -> list[tuple[int, dict[str, Any]]]:
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line and not line.startswith(":"))
        if "data" in fields:
            assert fields["event"] == "change"
            found.append((int(fields["id"]), json.loads(fields["data"])))
    return found


@pytest.fixture
def done(ticket: Callable[..., str], send: Callable[..., Any], photo: Callable[..., bytes]) -> dict[str, Any]:
    return send(ticket(), photo()).json


def single_threaded(client: FlaskClient, url: str, **headers: str) -> Any:
    return client.get(url, headers=headers, environ_overrides={"wsgi.multithread": False})


def test_a_server_without_threads_answers_at_once_with_what_is_new(client: FlaskClient, done: dict[str, Any]) -> None:
    first = single_threaded(client, done["events_url"])
    assert first.mimetype == "text/event-stream"
    assert first.headers["X-Accel-Buffering"] == "no"
    assert first.text.startswith(": connected\nretry: 2000\n\n")
    heard = messages(first.text)
    assert heard[-1][1] == {
        "asset_id": done["asset"]["id"],
        "kind": "asset",
        "name": None,
        "from": "processing",
        "to": "ready",
    }
    assert {change["name"] for _, change in heard if change["kind"] == "variant"} == {"thumb", "large"}
    again = single_threaded(client, done["events_url"], **{"Last-Event-ID": str(heard[3][0])})
    assert messages(again.text) == heard[4:]


def test_a_stream_hears_what_is_committed_while_it_is_open(
    app: Flask, client: FlaskClient, done: dict[str, Any]
) -> None:
    engine = app.extensions["rindle"]
    last_id = messages(single_threaded(client, done["events_url"]).text)[-1][0]
    stream = client.get(
        done["events_url"], headers={"Last-Event-ID": str(last_id)}, environ_overrides={"wsgi.multithread": True}
    )
    chunks: Iterator[bytes] = stream.iter_encoded()
    assert next(chunks).startswith(b": connected")

    def change() -> None:
        with engine.database.transaction() as db_session:
            variant = db_session.query(Variant).filter_by(name="thumb").one()
            move(db_session, variant, VariantState.STALE, now=engine.clock())

    thread = threading.Thread(target=change)
    thread.start()
    ((_, heard),) = messages(next(chunks).decode())
    thread.join()
    stream.close()
    assert (heard["kind"], heard["name"], heard["from"], heard["to"]) == ("variant", "thumb", "ready", "stale")


@pytest.mark.parametrize("url", ["/rindle/events", "/rindle/events?token=x"])
def test_nobody_hears_anything_without_a_token(client: FlaskClient, url: str) -> None:
    assert client.get(url).json["code"] == "invalid_token"


def test_a_token_ends(client: FlaskClient, done: dict[str, Any], clock: FrozenClock) -> None:
    clock.tick(hours=1)
    assert client.get(done["events_url"]).json["code"] == "expired_token"
    assert client.get(done["state_url"]).json["code"] == "expired_token"


def test_a_view_is_of_one_asset(
    client: FlaskClient,
    done: dict[str, Any],
    ticket: Callable[..., str],
    send: Callable[..., Any],
    photo: Callable[..., bytes],
) -> None:
    other = send(ticket(), photo()).json["asset"]["id"]
    mixed = done["state_url"].replace(done["asset"]["id"], other)
    answer = client.get(mixed)
    assert (answer.status_code, answer.json["code"]) == (403, "invalid_token")


def test_an_asset_that_is_gone_is_settled(app: Flask, client: FlaskClient, done: dict[str, Any]) -> None:
    engine = app.extensions["rindle"]
    with engine.database.transaction() as db_session:
        engine.attachments.remove(db_session, db_session.get(Asset, parse_id(done["asset"]["id"])))
    answer = client.get(done["state_url"])
    assert (answer.json["state"], answer.json["settled"], answer.json["picture"]) == ("deleted", True, None)
    assert answer.headers["Cache-Control"] == "no-store"


def test_a_token_of_the_facade_opens_the_stream(app: Flask, client: FlaskClient, done: dict[str, Any]) -> None:
    with app.app_context():
        token = app.extensions["host"].rindle.events_token(f"asset:{done['asset']['id']}")
    assert messages(single_threaded(client, f"/rindle/events?token={token}").text)
