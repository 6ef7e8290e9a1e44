"""Apps whose files go past them, to servers that check what the real ones check."""

from __future__ import annotations

import io
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from PIL import Image
from werkzeug.test import TestResponse

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "servers"))

from direct_sites import Answer, Film, Picture, Site, send
from gcs import FakeGcs
from s3_servers import S3Server, uploads
from s3_servers import localstack as localstack
from s3_servers import make_bucket as make_bucket


@pytest.fixture
def http() -> Callable[..., Answer]:
    return send


@pytest.fixture
def png() -> Callable[..., bytes]:
    def draw(width: int = 80, height: int = 60) -> bytes:
        out = io.BytesIO()
        Image.new("RGB", (width, height), (uuid.uuid4().int % 255, 90, 120)).save(out, "PNG")
        return out.getvalue()

    return draw


@pytest.fixture
def fake_gcs() -> Iterator[FakeGcs]:
    with FakeGcs() as server:
        yield server


@pytest.fixture
def s3_site(
    localstack: S3Server, make_bucket: Callable[[S3Server], str], make_app: Callable[..., Flask]
) -> Callable[..., Site]:
    """`s3_site(**options)`: an app with a bucket of its own on a real S3 server."""
    outside = localstack.client

    def make(profiles: Any = (Picture, Film), settings: Mapping[str, Any] | None = None, **options: Any) -> Site:
        bucket = make_bucket(localstack)
        storages = {"default": {"backend": "s3", **localstack.options(bucket, **options)}}

        def look() -> dict[str, int]:
            found = outside.list_objects_v2(Bucket=bucket).get("Contents", [])
            return {each["Key"]: each["Size"] for each in found}

        app = make_app(profiles=profiles, storages=storages, actor=lambda: "ann", **(settings or {}))
        return Site(app, look, lambda: len(uploads(outside, bucket)))

    return make


@pytest.fixture
def gcs_site(fake_gcs: FakeGcs, make_app: Callable[..., Flask]) -> Callable[..., Site]:
    """`gcs_site(**options)`: an app with a bucket of its own on the fake of Google's."""

    def make(profiles: Any = (Picture, Film), settings: Mapping[str, Any] | None = None, **options: Any) -> Site:
        known = {"bucket": fake_gcs.bucket, "credentials": fake_gcs.credentials, "endpoint_url": fake_gcs.url}
        storages = {"default": {"backend": "gcs", **known, **options}}

        def look() -> dict[str, int]:
            return {key: len(held.data) for key, held in fake_gcs.objects.items()}

        app = make_app(profiles=profiles, storages=storages, actor=lambda: "ann", **(settings or {}))
        return Site(app, look, lambda: len(fake_gcs.open_sessions), fake_gcs.state.sessions.clear)

    return make


@pytest.fixture(params=["s3", "gcs"])
def make_site(request: pytest.FixtureRequest) -> Callable[..., Site]:
    """Each in turn."""
    return request.getfixturevalue(f"{request.param}_site")


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site()


@pytest.fixture
def put_whole(http: Callable[..., Answer]) -> Callable[..., TestResponse]:
    """`put_whole(site, data)`: the way of a small file; the answer to `complete`, or to what was refused."""

    def go(site: Site, data: bytes, profile: Any = Picture, **fields: Any) -> TestResponse:
        headers = site.ticket(profile)
        opened = site.open(headers, data, **fields)
        if opened.status_code != 201:
            return opened
        upload = opened.json["upload"]
        answer = http(upload["method"], upload["url"], upload["headers"], data)
        assert answer.status == 200, answer.body
        return site.client.post(f"/rindle/uploads/{opened.json['id']}/complete", headers=headers)

    return go
