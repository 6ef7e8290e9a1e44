"""GCS keeps the contract, on a fake that checks what Google checks and on an emulator that somebody else wrote."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from gcs import FakeGcs

from flask_rindle.storage.base import (
    StoredObject,
)
from flask_rindle.storage.gcs import GCS
from flask_rindle.testing.contracts import StorageContract, lint_storage

IMMUTABLE = "max-age=31536000, immutable"


@pytest.fixture
def fake() -> Iterator[FakeGcs]:
    with FakeGcs() as server:
        yield server


@pytest.fixture
def storage(fake: FakeGcs) -> Iterator[GCS]:
    with closing(open_storage(fake)) as gcs:
        yield gcs


def open_storage(fake: FakeGcs, **options: Any) -> GCS:
    known = {"bucket": fake.bucket, "credentials": fake.credentials, "endpoint_url": fake.url}
    return GCS("media", **{**known, "public_base_url": "https://cdn.example.com", **options})


def put(storage: GCS, key: str, data: bytes = b"text", **options: Any) -> StoredObject:
    return storage.put(key, io.BytesIO(data), **options)


def content(storage: GCS, key: str) -> bytes:
    return b"".join(storage.read(key))


class TestGCS(StorageContract):
    """The contract."""


def test_nothing_is_left_after_use(fake: FakeGcs, storage: GCS) -> None:
    """No object and no session, after every sort of failure."""
    assert lint_storage(storage) == []
    assert fake.objects == {}
    assert fake.open_sessions == []
