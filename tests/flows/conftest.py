"""Whole stories through the facade: an app, a way to drain its jobs, and the rows to look at."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from flask_rindle.engine import Engine
from flask_rindle.models import UploadSession


@pytest.fixture
def rows(app: Flask) -> Callable[..., list[Any]]:
    """`rows(Model)`: what is committed."""

    def read(model: type[Any]) -> list[Any]:
        with app.extensions["rindle"].database.reading() as db_session:
            return list(db_session.scalars(select(model)))

    return read


@pytest.fixture
def staged(app: Flask, engine: Engine) -> Callable[..., UploadSession]:
    """`staged(data, **fields)`: an upload whose bytes have arrived by presigned PUT and which is not completed."""

    def stage(data: bytes, *, filename: str = "beach.jpg", content_type: str = "image/jpeg", **fields: Any) -> Any:
        with app.app_context():
            rindle = app.extensions["host"].rindle
            session = rindle.initiate_upload(
                "avatar", filename=filename, content_type=content_type, byte_size=len(data), **fields
            )
            rindle.sign_upload(session)
        engine.proxied.write_staged(session.storage, session.upload_key, io.BytesIO(data), content_type=content_type)
        return session

    return stage


@pytest.fixture
def hold_jobs(engine: Engine) -> Callable[[], int]:
    """Jobs wait from now on; calling the result runs those that are due."""
    jobs: Any = engine.jobs
    engine.outbox.send = lambda _: None
    return jobs.drain
