"""Server-Sent Events and the state question: who may hear what, and that nothing is missed."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from flask_rindle.models import Asset
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


def live(client: FlaskClient, url: str, **headers: str) -> Any:
    return client.get(url, headers=headers, environ_overrides={"wsgi.multithread": True})


def test_a_stream_hears_what_is_committed_while_it_is_open_and_ends_when_all_is_settled(
    app: Flask, client: FlaskClient, ticket: Callable[..., str], send: Callable[..., Any], photo: Callable[..., bytes]
) -> None:
    engine: Any = app.extensions["rindle"]
    real, engine.outbox.send = engine.outbox.send, lambda _: None
    waiting = send(ticket(), photo()).json
    engine.outbox.send = real
    stream = live(client, waiting["events_url"])
    chunks: Iterator[bytes] = stream.iter_encoded()
    first = next(chunks)
    assert first.startswith(b": connected")
    thread = threading.Thread(target=engine.jobs.drain)
    thread.start()
    heard = messages(b"".join(chunks).decode())
    thread.join()
    assert heard[-1][1]["to"] == "ready"
    assert {change["name"] for _, change in heard if change["kind"] == "variant"} == {"thumb", "large"}
    again = live(client, waiting["events_url"], **{"Last-Event-ID": str(heard[-1][0])})
    assert (again.status_code, again.data) == (204, b"")


@pytest.mark.parametrize("last_id", ["9" * 30, "-1", "x", "1.5", "\u0663", ""])
def test_an_id_that_is_none_is_no_id(client: FlaskClient, done: dict[str, Any], last_id: str) -> None:
    everything = messages(single_threaded(client, done["events_url"]).text)
    heard = messages(single_threaded(client, done["events_url"], **{"Last-Event-ID": last_id}).text)
    assert heard == everything


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
