"""What odd clients, odd hosts and servers that are away get: an answer in our form, never a trace."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask, abort
from flask.testing import FlaskClient
from sqlalchemy import create_engine
from sqlalchemy.exc import IntegrityError, PendingRollbackError

from flask_rindle.errors import MalformedRequest
from flask_rindle.models import Asset, UploadSession


def is_problem(answer: Any, status: int, code: str) -> bool:
    facts = (answer.status_code, answer.mimetype, answer.json["code"], answer.json["status"])
    return facts == (status, "application/problem+json", code, status) and bool(answer.json["detail"])


@pytest.fixture
def post(client: FlaskClient, ticket: Callable[..., str]) -> Callable[..., Any]:
    def send(body: bytes, **options: Any) -> Any:
        headers = {"Rindle-Ticket": ticket(), "Content-Type": "application/json"}
        return client.post("/rindle/uploads", data=body, headers=headers, **options)

    return send


@pytest.mark.parametrize(
    "body",
    [b"[" * 60_000, b'{"a":' * 10_000, b'{"byte_size":' + b"9" * 5000 + b"}", b'{"a": "\xff"}'],
    ids=["deep list", "deep object", "huge number", "no UTF-8"],
)
def test_json_that_no_parser_takes_is_malformed(post: Callable[..., Any], body: bytes) -> None:
    assert is_problem(post(body), 400, "malformed_request")


def test_json_that_is_too_large_is_malformed(client: FlaskClient, ticket: Callable[..., str]) -> None:
    headers = {"Rindle-Ticket": ticket(), "Content-Type": "application/json"}
    body = json.dumps({"filename": "x" * 70_000}).encode()
    assert is_problem(client.post("/rindle/uploads", data=body, headers=headers), 400, "malformed_request")
    chunked = client.post(
        "/rindle/uploads",
        input_stream=io.BytesIO(body),
        headers=headers,
        environ_overrides={"wsgi.input_terminated": True},
    )
    assert is_problem(chunked, 400, "malformed_request")


def test_what_the_host_refuses_is_told_in_the_same_form(make_app: Callable[..., Flask]) -> None:
    """A login that aborts is an exception of Werkzeug's, inside one of our routes."""
    app = make_app(actor=lambda: abort(401, "Sign in first."))
    answer = app.test_client().post("/rindle/uploads", json={}, headers={"Rindle-Ticket": "x"})
    assert is_problem(answer, 401, "unauthorized")
    assert answer.json["detail"] == "Sign in first."


def test_the_hosts_limit_for_its_own_forms_is_not_one_for_signed_uploads(
    make_app: Callable[..., Flask], photo: Callable[..., bytes]
) -> None:
    app = make_app(MAX_CONTENT_LENGTH=1000)
    client, data = app.test_client(), photo(400, 300)
    assert 3000 < len(data) < 64_000
    with app.app_context():
        ticket = app.extensions["host"].rindle.upload_ticket("avatar")
    headers = {"Rindle-Ticket": ticket}
    body = {"filename": "a.jpg", "content_type": "image/jpeg", "byte_size": len(data)}
    opened = client.post("/rindle/uploads", json=body, headers=headers).json
    stored = client.put(opened["upload"]["url"], data=data, headers=opened["upload"]["headers"])
    assert stored.status_code == 200
    assert client.post(f"/rindle/uploads/{opened['id']}/complete", headers=headers).status_code == 200


def test_a_body_longer_than_was_signed_is_refused_with_a_sentence(
    client: FlaskClient, ticket: Callable[..., str], announce: Callable[..., Any], photo: Callable[..., bytes]
) -> None:
    """Also without a length at its head, which is where the host's limit would have stood."""
    upload = announce(ticket(), photo()).json["upload"]
    answer = client.put(
        upload["url"],
        input_stream=io.BytesIO(photo() + b"x" * 100),
        headers=upload["headers"],
        environ_overrides={"wsgi.input_terminated": True},
    )
    assert is_problem(answer, 422, "size_mismatch")


@pytest.mark.parametrize("accept", ["text/html", "application/json"])
def test_an_oversized_form_is_answered_with_a_sentence(make_app: Callable[..., Flask], accept: str) -> None:
    app = make_app(MAX_CONTENT_LENGTH=10 * 1024 * 1024)
    with app.app_context():
        ticket = app.extensions["host"].rindle.upload_ticket("avatar")
    data = {"ticket": ticket, "file": (io.BytesIO(b"x" * (9 * 1024 * 1024)), "a.jpg", "image/jpeg")}
    answer = app.test_client().post("/rindle/uploads/form", data=data, headers={"Accept": accept})
    answer.request.input_stream.close()
    assert answer.status_code == 413
    assert "at most 8 MB" in answer.text


def test_a_database_that_is_away_is_said_to_be(
    app: Flask, client: FlaskClient, ticket: Callable[..., str], announce: Callable[..., Any], photo: Any
) -> None:
    """Nobody listens on port 1."""
    one = ticket()
    app.extensions["rindle"].database._host_engine = lambda: create_engine("postgresql+psycopg://x@127.0.0.1:1/x")
    answer = announce(one, photo())
    assert is_problem(answer, 503, "database_unavailable")
    assert answer.headers["Retry-After"] == "5"
    assert "127.0.0.1" not in answer.text


class TestAfterAFailedFlush:
    """The host's session waits for its rollback; the library's own transactions are none of its business."""

    @pytest.fixture
    def app(self, make_app: Callable[..., Flask], any_database: str) -> Flask:
        return make_app(database_url=any_database)

    @pytest.fixture
    def host(self, app: Flask, user: Any) -> Any:
        host = app.extensions["host"]
        with app.app_context():
            host.db.session.add(host.User(id=user.id))
            with pytest.raises(IntegrityError):
                host.db.session.flush()
            yield host
            host.db.session.rollback()

    def test_uploads_work(self, host: Any, photo: Callable[..., bytes]) -> None:
        asset = host.rindle.upload("avatar", io.BytesIO(photo()), filename="a.jpg")
        session = host.rindle.initiate_upload("avatar", filename="a.jpg", content_type="image/jpeg", byte_size=5)
        assert host.rindle.sign_upload(session).method == "PUT"
        host.db.session.rollback()
        assert host.db.session.get(Asset, asset.id).state == "ready"
        assert {row.state for row in host.db.session.query(UploadSession)} == {"completed", "signed"}

    def test_what_joins_the_session_fails_as_the_session_does(self, host: Any, photo: Callable[..., bytes]) -> None:
        asset = host.rindle.upload("avatar", io.BytesIO(photo()), filename="a.jpg")
        with pytest.raises(PendingRollbackError):
            host.rindle.attach(asset.id, host.User(id=77), "avatar")
        host.db.session.rollback()
        owner = host.User(id=77)
        host.db.session.add(owner)
        host.rindle.attach(asset.id, owner, "avatar")
        host.db.session.commit()
        assert owner.avatar.asset.id == asset.id


@pytest.mark.parametrize("disposition", ["inline; evil", "", "ATTACHMENT", "inline\r\nX: y", None])
def test_a_disposition_is_inline_or_attachment(
    app: Flask, ticket: Callable[..., str], send: Callable[..., Any], photo: Callable[..., bytes], disposition: Any
) -> None:
    asset_id = send(ticket(), photo()).json["asset"]["id"]
    with app.test_request_context(), pytest.raises(MalformedRequest, match="disposition must be inline or attachment"):
        app.extensions["host"].rindle.url(asset_id, disposition=disposition)
