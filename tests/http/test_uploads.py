"""The upload routes: what a browser with a ticket may do, and what nobody may."""

from __future__ import annotations

import hashlib
import io
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select

from flask_rindle.models import Asset, Event, Job, UploadSession
from flask_rindle.testing.clock import FrozenClock


def rows(app: Flask, model: type[Any]) -> list[Any]:
    with app.app_context():
        return list(app.extensions["host"].db.session.scalars(select(model)))


def count(app: Flask, model: type[Any]) -> int:
    with app.app_context():
        return app.extensions["host"].db.session.scalar(select(func.count()).select_from(model))


def test_a_photo_goes_all_the_way(
    app: Flask, client: FlaskClient, ticket: Callable[..., str], send: Callable[..., Any], photo: Callable[..., bytes]
) -> None:
    done = send(ticket(), photo(800, 600))
    assert done.status_code == 200
    assert done.json["state"] == "completed"
    state = client.get(done.json["state_url"]).json
    assert state["state"] == "ready"
    assert state["settled"] is True
    assert state["variants"] == {"large": "ready", "thumb": "ready"}
    assert client.get(state["picture"]["img"]["src"]).status_code == 200


def test_opening_tells_how_to_send(
    client: FlaskClient, ticket: Callable[..., str], announce: Callable[..., Any], photo: Callable[..., bytes]
) -> None:
    opened = announce(ticket(), photo()).json
    assert opened["strategy"] == "presigned_put"
    assert opened["state"] == "signed"
    assert opened["asset"]["state"] == "staged"
    assert opened["upload"]["method"] == "PUT"
    assert opened["upload"]["headers"] == {"Content-Type": "image/jpeg"}
    assert opened["received_bytes"] == 0


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"byte_size": 9 * 1024 * 1024}, 413, "too_large"),
        ({"byte_size": 0}, 422, "empty_upload"),
        ({"byte_size": None}, 400, "malformed_request"),
        ({"byte_size": -1}, 400, "malformed_request"),
        ({"byte_size": True}, 400, "malformed_request"),
        ({"byte_size": "12"}, 400, "malformed_request"),
        ({"byte_size": 2**63}, 400, "malformed_request"),
        ({"content_type": "text/html"}, 415, "type_refused"),
        ({"content_type": 7}, 400, "malformed_request"),
        ({"filename": ["x"]}, 400, "malformed_request"),
        ({"checksum": "sha256:zz"}, 400, "malformed_request"),
    ],
)
def test_what_the_profile_refuses_opens_nothing(
    app: Flask,
    ticket: Callable[..., str],
    announce: Callable[..., Any],
    fields: dict[str, Any],
    status: int,
    code: str,
) -> None:
    answer = announce(ticket(), b"x" * 10, **fields)
    assert (answer.status_code, answer.json["code"]) == (status, code)
    assert answer.mimetype == "application/problem+json"
    assert answer.json["detail"].endswith(".")
    assert count(app, UploadSession) == count(app, Asset) == count(app, Job) == 0


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'"x"', b"\xff\xfe"])
def test_a_body_that_is_no_object_is_refused(client: FlaskClient, ticket: Callable[..., str], body: bytes) -> None:
    headers = {"Rindle-Ticket": ticket(), "Content-Type": "application/json"}
    answer = client.post("/rindle/uploads", data=body, headers=headers)
    assert (answer.status_code, answer.json["code"]) == (400, "malformed_request")


def test_odd_names_are_kept_as_text_only(
    app: Flask, ticket: Callable[..., str], announce: Callable[..., Any], photo: Callable[..., bytes]
) -> None:
    answer = announce(ticket(), photo(), filename="../../e\ud800vil\x00\r\n<b>.jpg")
    assert answer.status_code == 201
    assert answer.json["filename"] == "evil<b>.jpg"
    assert rows(app, UploadSession)[0].upload_key.startswith("incoming/")


def test_a_wrong_ticket_is_refused(client: FlaskClient, ticket: Callable[..., str]) -> None:
    for text in ("", "nonsense", ticket()[:-2] + "xx"):
        answer = client.post("/rindle/uploads", json={}, headers={"Rindle-Ticket": text})
        assert (answer.status_code, answer.json["code"]) == (403, "ticket_invalid")


def test_an_expired_ticket_is_refused(
    ticket: Callable[..., str], announce: Callable[..., Any], clock: FrozenClock
) -> None:
    old = ticket(expires_in=60)
    clock.tick(seconds=60)
    answer = announce(old, b"x")
    assert (answer.status_code, answer.json["code"]) == (403, "ticket_expired")


def test_a_token_for_another_purpose_is_no_ticket(
    app: Flask, ticket: Callable[..., str], send: Callable[..., Any], client: FlaskClient, photo: Callable[..., bytes]
) -> None:
    events_token = send(ticket(), photo()).json["events_url"].partition("token=")[2]
    answer = client.post("/rindle/uploads", json={}, headers={"Rindle-Ticket": events_token})
    assert answer.json["code"] == "ticket_invalid"


def test_a_ticket_is_good_for_its_actor_only(make_app: Callable[..., Flask], photo: Callable[..., bytes]) -> None:
    asking = {"actor": "7"}
    app = make_app(actor=lambda: asking["actor"])
    with app.app_context():
        issued = app.extensions["host"].rindle.upload_ticket("avatar")
    body = {"filename": "a.jpg", "content_type": "image/jpeg", "byte_size": 3}
    asking["actor"] = "8"
    stranger = app.test_client().post("/rindle/uploads", json=body, headers={"Rindle-Ticket": issued})
    asking["actor"] = "7"
    owner = app.test_client().post("/rindle/uploads", json=body, headers={"Rindle-Ticket": issued})
    assert (stranger.status_code, stranger.json["code"]) == (403, "ticket_invalid")
    assert owner.status_code == 201


def test_an_unknown_profile_is_a_clean_error(
    make_app: Callable[..., Flask], app: Flask, ticket: Callable[..., str]
) -> None:
    issued = ticket()
    other = make_app(profiles=(), storages={"default": {"backend": "memory"}})
    answer = other.test_client().post(
        "/rindle/uploads",
        json={"filename": "a.jpg", "content_type": "image/jpeg", "byte_size": 3},
        headers={"Rindle-Ticket": issued},
    )
    assert (answer.status_code, answer.json["code"]) == (404, "unknown_name")
    assert "avatar" not in answer.json["detail"]


def test_somebody_elses_upload_is_not_to_be_found(
    client: FlaskClient, ticket: Callable[..., str], announce: Callable[..., Any], photo: Callable[..., bytes]
) -> None:
    mine = announce(ticket(), photo()).json["id"]
    headers = {"Rindle-Ticket": ticket()}
    answers = [
        client.get(f"/rindle/uploads/{mine}", headers=headers),
        client.post(f"/rindle/uploads/{mine}/sign", headers=headers),
        client.post(f"/rindle/uploads/{mine}/complete", headers=headers),
        client.delete(f"/rindle/uploads/{mine}", headers=headers),
    ]
    missing = client.get(f"/rindle/uploads/{uuid.uuid4()}", headers=headers)
    assert [(a.status_code, a.json) for a in answers] == [(404, missing.json)] * 4


def test_a_ticket_takes_as_many_files_as_it_says(
    ticket: Callable[..., str], announce: Callable[..., Any], photo: Callable[..., bytes]
) -> None:
    two = ticket(max_files=2)
    answers = [announce(two, photo(), filename=f"{n}.jpg").status_code for n in range(3)]
    assert answers == [201, 201, 409]


def test_opening_again_after_a_lost_answer_finds_the_same_upload(
    app: Flask, ticket: Callable[..., str], announce: Callable[..., Any], photo: Callable[..., bytes]
) -> None:
    one = ticket()
    answers = [announce(one, photo()) for _ in range(2)]
    assert [a.status_code for a in answers] == [201, 201]
    assert answers[0].json["id"] == answers[1].json["id"]
    assert announce(one, photo(), filename="other.jpg").json["code"] == "ticket_used"
    assert count(app, UploadSession) == count(app, Asset) == 1


def test_a_cancelled_upload_gives_its_place_back(
    app: Flask,
    client: FlaskClient,
    ticket: Callable[..., str],
    announce: Callable[..., Any],
    photo: Callable[..., bytes],
) -> None:
    one = ticket()
    first = announce(one, photo()).json
    assert client.put(first["upload"]["url"], data=photo(), headers=first["upload"]["headers"]).status_code == 200
    for _ in range(2):
        assert client.delete(f"/rindle/uploads/{first['id']}", headers={"Rindle-Ticket": one}).status_code == 204
    assert announce(one, photo()).status_code == 201
    (cancelled,) = [row for row in rows(app, UploadSession) if str(row.id) == first["id"]]
    assert (cancelled.state, cancelled.asset_id) == ("aborted", None)
    assert not list(app.extensions["rindle"].storages["default"].root.rglob("incoming/*/*"))


def test_completing_before_the_bytes_is_refused_and_can_be_repeated(
    client: FlaskClient, ticket: Callable[..., str], announce: Callable[..., Any], photo: Callable[..., bytes]
) -> None:
    one = ticket()
    opened = announce(one, photo()).json
    early = client.post(f"/rindle/uploads/{opened['id']}/complete", headers={"Rindle-Ticket": one})
    assert (early.status_code, early.json["code"]) == (409, "upload_incomplete")
    client.put(opened["upload"]["url"], data=photo(), headers=opened["upload"]["headers"])
    late = client.post(f"/rindle/uploads/{opened['id']}/complete", headers={"Rindle-Ticket": one})
    assert late.status_code == 200


def test_completing_twice_gives_one_result(
    app: Flask, client: FlaskClient, ticket: Callable[..., str], send: Callable[..., Any], photo: Callable[..., bytes]
) -> None:
    one = ticket()
    first = send(one, photo()).json
    events = count(app, Event)
    second = client.post(f"/rindle/uploads/{first['id']}/complete", headers={"Rindle-Ticket": one})
    assert second.status_code == 200
    assert second.json["asset"]["id"] == first["asset"]["id"]
    assert second.json["asset"]["state"] == "ready"
    assert (count(app, Asset), count(app, Event)) == (1, events)


def test_signing_again_gives_a_fresh_url_until_it_is_over(
    client: FlaskClient,
    ticket: Callable[..., str],
    announce: Callable[..., Any],
    photo: Callable[..., bytes],
    clock: FrozenClock,
) -> None:
    one = ticket()
    opened = announce(one, photo()).json
    clock.tick(minutes=16)
    stale = client.put(opened["upload"]["url"], data=photo(), headers=opened["upload"]["headers"])
    assert (stale.status_code, stale.json["code"]) == (403, "expired_token")
    fresh = client.post(f"/rindle/uploads/{opened['id']}/sign", headers={"Rindle-Ticket": one}).json["upload"]
    assert client.put(fresh["url"], data=photo(), headers=fresh["headers"]).status_code == 200
    client.delete(f"/rindle/uploads/{opened['id']}", headers={"Rindle-Ticket": one})
    closed = client.post(f"/rindle/uploads/{opened['id']}/sign", headers={"Rindle-Ticket": one})
    assert (closed.status_code, closed.json["code"], closed.json["state"]) == (409, "session_closed", "aborted")


def test_a_session_that_waited_too_long_is_expired(
    app: Flask,
    client: FlaskClient,
    ticket: Callable[..., str],
    announce: Callable[..., Any],
    photo: Callable[..., bytes],
    clock: FrozenClock,
) -> None:
    one = ticket(expires_in=200_000)
    opened = announce(one, photo()).json
    clock.tick(days=1)
    answer = client.post(f"/rindle/uploads/{opened['id']}/complete", headers={"Rindle-Ticket": one})
    assert (answer.status_code, answer.json["state"]) == (409, "expired")
    assert [row.state for row in rows(app, UploadSession)] == ["expired"]
    assert count(app, Asset) == 0


def test_a_put_takes_just_what_was_announced(
    app: Flask,
    client: FlaskClient,
    ticket: Callable[..., str],
    announce: Callable[..., Any],
    photo: Callable[..., bytes],
) -> None:
    data = photo()
    upload = announce(ticket(), data, checksum=f"sha256:{hashlib.sha256(data).hexdigest()}").json["upload"]
    longer = client.put(upload["url"], data=data + b"x", headers=upload["headers"])
    shorter = client.put(upload["url"], data=data[:-1], headers=upload["headers"])
    other_type = client.put(upload["url"], data=data, headers={"Content-Type": "text/html"})
    other_bytes = client.put(upload["url"], data=b"x" * len(data), headers=upload["headers"])
    codes = [answer.json["code"] for answer in (longer, shorter, other_type, other_bytes)]
    assert codes == ["size_mismatch", "size_mismatch", "type_refused", "checksum_mismatch"]
    assert not list(app.extensions["rindle"].storages["default"].root.rglob("incoming/*/*"))
    assert client.put(upload["url"], data=data, headers=upload["headers"]).status_code == 200


def test_a_put_after_the_end_is_refused_and_kept_nowhere(
    app: Flask,
    client: FlaskClient,
    ticket: Callable[..., str],
    announce: Callable[..., Any],
    photo: Callable[..., bytes],
) -> None:
    one = ticket()
    opened = announce(one, photo()).json
    client.delete(f"/rindle/uploads/{opened['id']}", headers={"Rindle-Ticket": one})
    answer = client.put(opened["upload"]["url"], data=photo(), headers=opened["upload"]["headers"])
    assert (answer.status_code, answer.json["code"]) == (409, "session_closed")
    assert not list(app.extensions["rindle"].storages["default"].root.rglob("incoming/*/*"))


def test_the_owner_shows_the_picture_once_it_has_passed(
    app: Flask, user: Any, ticket: Callable[..., str], send: Callable[..., Any], photo: Callable[..., bytes]
) -> None:
    done = send(ticket(owner=user, slot="avatar"), photo(300, 200))
    with app.app_context():
        host = app.extensions["host"]
        shown = host.db.session.get(host.User, user.id).avatar
        assert str(shown.asset.id) == done.json["asset"]["id"]
        assert shown.asset.width == 300


def test_a_slot_can_be_replaced_again_with_the_same_form(
    app: Flask, user: Any, ticket: Callable[..., str], send: Callable[..., Any], photo: Callable[..., bytes]
) -> None:
    """A second thought about an avatar needs no new page; the first picture is gone."""
    one = ticket(owner=user, slot="avatar")
    sent = [send(one, photo(20 + n, 20)).json["asset"]["id"] for n in range(3)]
    assert [str(asset.id) for asset in rows(app, Asset)] == sent[-1:]


def test_storages_that_cannot_sign_get_the_form(make_app: Callable[..., Flask], photo: Callable[..., bytes]) -> None:
    """The server chooses the road from what the storage can do; the client needs no other code."""
    app = make_app(storages={"default": {"backend": "memory"}})
    storage = app.extensions["rindle"].storages["default"]
    storage.capabilities = storage.capabilities - {"presigned_put"}
    client = app.test_client()
    with app.app_context():
        one = app.extensions["host"].rindle.upload_ticket("avatar")
    data = photo()
    body = {"filename": "a.jpg", "content_type": "image/jpeg", "byte_size": len(data)}
    opened = client.post("/rindle/uploads", json=body, headers={"Rindle-Ticket": one}).json
    assert (opened["strategy"], opened["upload"]["url"]) == ("form", "/rindle/uploads/form")
    fields = {"ticket": one, "session": opened["id"], "file": (io.BytesIO(data), "a.jpg")}
    done = client.post("/rindle/uploads/form", data=fields, headers={"Accept": "application/json"})
    assert (done.status_code, done.json["id"], done.json["state"]) == (201, opened["id"], "completed")
    assert client.get(done.json["state_url"]).json["state"] == "ready"
    refused = client.post(f"/rindle/uploads/{opened['id']}/sign", headers={"Rindle-Ticket": one})
    assert refused.status_code == 409
