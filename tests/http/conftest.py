"""A signed-in page's ticket, and the requests that a browser makes with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def user(app: Flask) -> Any:
    """A user of the host, committed."""
    host = app.extensions["host"]
    with app.app_context():
        row = host.User(name="Ada")
        host.db.session.add(row)
        host.db.session.commit()
        host.db.session.refresh(row)
        host.db.session.expunge(row)
    return row


@pytest.fixture
def ticket(app: Flask) -> Callable[..., str]:
    """`ticket(**options)`: what `rindle.upload_ticket` gives for an avatar."""

    def issue(profile: Any = "avatar", **options: Any) -> str:
        with app.app_context():
            return app.extensions["host"].rindle.upload_ticket(profile, **options)

    return issue


@pytest.fixture
def announce(client: FlaskClient) -> Callable[..., TestResponse]:
    """`announce(ticket, data, **fields)`: POST uploads for these bytes."""

    def post(ticket: str, data: bytes, **fields: Any) -> TestResponse:
        body = {"filename": "beach.jpg", "content_type": "image/jpeg", "byte_size": len(data), **fields}
        return client.post("/rindle/uploads", json=body, headers={"Rindle-Ticket": ticket})

    return post


@pytest.fixture
def send(client: FlaskClient, announce: Callable[..., TestResponse]) -> Callable[..., TestResponse]:
    """`send(ticket, data)`: the whole way of a direct upload; the answer to `complete`."""

    def put(ticket: str, data: bytes, **fields: Any) -> TestResponse:
        opened = announce(ticket, data, **fields)
        assert opened.status_code == 201, opened.json
        upload = opened.json["upload"]
        stored = client.put(upload["url"], data=data, headers=upload["headers"])
        assert stored.status_code == 200, stored.json
        return client.post(f"/rindle/uploads/{opened.json['id']}/complete", headers={"Rindle-Ticket": ticket})

    return put
