"""An app that keeps its files in GCS, from the ticket to the served variant, over every road that GCS has."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from flask import Flask
from gcs import FakeGcs
from PIL import Image

from flask_rindle import MB, Profile, image
from flask_rindle.testing.contracts.resumable import put


class Picture(Profile):
    allow_mime = {"image/png"}  # noqa: RUF012
    max_bytes = MB
    max_pixels = 10_000
    variants = {"thumb": image.fit(16, 16)}  # noqa: RUF012


@pytest.fixture
def fake() -> Iterator[FakeGcs]:
    with FakeGcs() as server:
        yield server


@pytest.fixture
def app(make_app: Callable[..., Flask], fake: FakeGcs) -> Flask:
    options = {"bucket": fake.bucket, "credentials": fake.credentials, "endpoint_url": fake.url}
    return make_app(profiles=[Picture], storages={"default": {"backend": "gcs", **options}})


def png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (80, 60), "teal").save(out, "PNG")
    return out.getvalue()


def by_form(app: Flask, data: bytes) -> Any:
    client = app.test_client()
    with app.app_context():
        ticket = app.extensions["host"].rindle.upload_ticket(Picture)
    fields = {"ticket": ticket, "file": (io.BytesIO(data), "a.png", "image/png")}
    answer = client.post("/rindle/uploads/form", data=fields, headers={"Accept": "application/json"})
    return client.get(answer.json["state_url"]).json


def by_presigned_put(app: Flask, data: bytes) -> Any:
    client = app.test_client()
    with app.app_context():
        headers = {"Rindle-Ticket": app.extensions["host"].rindle.upload_ticket(Picture)}
    body = {"filename": "a.png", "content_type": "image/png", "byte_size": len(data)}
    opened = client.post("/rindle/uploads", json=body, headers=headers).json
    upload = opened["upload"]
    assert requests.put(upload["url"], data, headers=upload["headers"], timeout=10).status_code == 200
    client.post(f"/rindle/uploads/{opened['id']}/complete", headers=headers)
    return client.get(opened["state_url"]).json


def by_resumable(app: Flask, data: bytes) -> Any:
    rindle = app.extensions["host"].rindle
    with app.app_context():
        upload = rindle.initiate_resumable_session(
            Picture, filename="a.png", content_type="image/png", byte_size=len(data)
        )
        put(upload.session_uri, data, at=0, last=True)
        asset = rindle.verify_completion(upload.session).asset
        found = app.extensions["rindle"].feed.asset(asset.id)
    return {"state": found.state}


@pytest.mark.parametrize("road", [by_form, by_presigned_put, by_resumable])
def test_an_upload_becomes_ready_and_is_served(app: Flask, fake: FakeGcs, road: Callable[[Flask, bytes], Any]) -> None:
    data = png()
    assert road(app, data)["state"] == "ready"
    assert not [key for key in fake.objects if key.startswith("incoming/")]
    assert fake.open_sessions == []
    original, thumb = sorted(fake.objects.values(), key=lambda blob: "thumb" in blob.name)
    assert original.data == data
    assert original.about["contentType"] == "image/png"
    for blob in (original, thumb):
        assert blob.about["cacheControl"].startswith("private")
        with app.app_context():
            url = app.extensions["host"].rindle.url(Picture, blob.name, filename="a.png")
        answer = requests.get(url, timeout=10)
        assert (answer.status_code, answer.content) == (200, blob.data)
