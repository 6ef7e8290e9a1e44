"""An app whose files go past it, and a client's hands."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from flask_rindle import MB, Profile, image
from flask_rindle.engine import Engine
from flask_rindle.models import Asset


class Picture(Profile):
    allow_mime = {"image/png", "image/jpeg"}  # noqa: RUF012
    max_bytes = 8 * MB
    max_pixels = 10_000
    variants = {"thumb": image.fit(16, 16)}  # noqa: RUF012


class Film(Profile):
    max_bytes = 1024 * MB


@dataclass
class Answer:
    """What a storage said to a client."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Site:
    """An app, the server that its files go to, and a browser's hands."""

    app: Flask
    look: Callable[[], dict[str, int]]
    open_uploads: Callable[[], int]
    forget_uploads: Callable[[], None] = lambda: None  # what a storage does by itself after a week

    @property
    def engine(self) -> Engine:
        return self.app.extensions["rindle"]

    @property
    def rindle(self) -> Any:
        return self.app.extensions["host"].rindle

    @property
    def storage(self) -> Any:
        return self.engine.storages["default"]

    @property
    def client(self) -> FlaskClient:
        return self.app.test_client()

    def ticket(self, profile: Any = Picture, **options: Any) -> dict[str, str]:
        with self.app.app_context():
            return {"Rindle-Ticket": self.rindle.upload_ticket(profile, **options)}

    def open(self, headers: Mapping[str, str], data: bytes, **fields: Any) -> TestResponse:
        body = {"filename": "a.png", "content_type": "image/png", "byte_size": len(data)} | fields
        return self.client.post("/rindle/uploads", json=body, headers=headers)

    def asset(self, answer: Mapping[str, Any]) -> Asset:
        """The asset that an upload route tells of, with its variants."""
        return self.engine.feed.asset(uuid.UUID(answer["asset"]["id"]))

    def drain(self) -> int:
        jobs: Any = self.engine.jobs
        return jobs.drain()

    def hold_jobs(self) -> None:
        self.engine.outbox.send = lambda _: None


def send(method: str, url: str, headers: Mapping[str, str], data: bytes | None = None) -> Answer:
    """A request of a client to a storage."""
    request = Request(url, data=data, method=method, headers=dict(headers))  # noqa: S310
    try:
        with urlopen(request, timeout=60) as answer:  # noqa: S310
            return Answer(answer.status, dict(answer.headers), answer.read())
    except HTTPError as error:
        with error:
            return Answer(error.code, dict(error.headers), error.read())
