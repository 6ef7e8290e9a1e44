"""GCS storages on the fake, and patience that fits a test."""

from __future__ import annotations

import io
from typing import Any

import pytest
from gcs import FakeGcs

from flask_rindle.storage import gcs_connection
from flask_rindle.storage.base import StoredObject
from flask_rindle.storage.gcs import GCS

BASE_URL = "https://cdn.example.com/media"


def open_storage(fake: FakeGcs, **options: Any) -> GCS:
    """A storage with the key of the service account. Close it."""
    known = {"bucket": fake.bucket, "credentials": fake.credentials, "endpoint_url": fake.url}
    return GCS("media", **{**known, "public_base_url": BASE_URL, **options})


def put(storage: GCS, key: str, data: bytes = b"text", **options: Any) -> StoredObject:
    return storage.put(key, io.BytesIO(data), **options)


def content(storage: GCS, key: str) -> bytes:
    return b"".join(storage.read(key))


def hurry(monkeypatch: pytest.MonkeyPatch, give_up_after: float = 20.0) -> None:
    """Retries that follow at once, and a short wait for silence."""
    retry = gcs_connection.RETRY.with_delay(initial=0.005, maximum=0.02).with_timeout(give_up_after)
    monkeypatch.setattr(gcs_connection, "RETRY", retry)
    monkeypatch.setattr(gcs_connection, "TIMEOUT", (5, 0.2))
