"""Objects under bare keys, through the facade."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_rindle.errors import InvalidKey, MalformedRequest, ObjectNotFound, UnknownName, UploadUnsupported
from flask_rindle.models import Asset
from flask_rindle.types import new_id

DATA = b"an object that is no upload"


@pytest.fixture
def facade(app: Flask) -> Any:
    with app.app_context():
        yield app.extensions["host"].rindle


def test_what_is_stored_can_be_seen_read_and_removed(facade: Any, tmp_path: Path) -> None:
    stored = facade.store("avatar", "badges/one.png", io.BytesIO(DATA), content_type="image/png")
    assert facade.head("avatar", "badges/one.png") == stored
    assert facade.download("avatar", "badges/one.png", str(tmp_path / "copy")).etag == stored.etag
    assert (tmp_path / "copy").read_bytes() == DATA
    facade.delete("avatar", "badges/one.png")
    facade.delete("avatar", "badges/one.png")
    for verb in (facade.head, lambda *place: facade.download(*place, tmp_path / "other")):
        with pytest.raises(ObjectNotFound):
            verb("avatar", "badges/one.png")
    assert not (tmp_path / "other").exists()


def test_no_row_is_written(facade: Any, app: Flask) -> None:
    facade.store("avatar", "badges/one.png", io.BytesIO(DATA))
    with app.extensions["rindle"].database.reading() as db_session:
        assert db_session.query(Asset).count() == 0


def test_a_variant_that_cannot_be_stored_is_logged_with_its_asset(
    facade: Any, caplog: pytest.LogCaptureFixture
) -> None:
    asset_id = new_id()
    facade.store_variant("avatar", "badges/two.png", io.BytesIO(DATA), asset=asset_id, name="badge")
    assert facade.head("avatar", "badges/two.png").size_bytes == len(DATA)
    with caplog.at_level(logging.WARNING), pytest.raises(InvalidKey):
        facade.store_variant("avatar", "../two.png", io.BytesIO(DATA), asset=asset_id, name="badge")
    assert str(asset_id) in caplog.text
    assert "badge" in caplog.text


def test_a_presigned_put_takes_just_these_bytes(facade: Any, app: Flask) -> None:
    upload = facade.presigned_put("avatar", "badges/3.png", byte_size=len(DATA), content_type="image/png")
    client = app.test_client()
    assert client.put(upload.url, data=DATA + b"x", headers=upload.headers).status_code in (400, 413, 422)
    assert client.put(upload.url, data=DATA, headers=upload.headers).status_code == 200
    assert facade.head("avatar", "badges/3.png").size_bytes == len(DATA)


def test_a_staged_key_is_for_uploads_alone(facade: Any, app: Flask) -> None:
    """No URL of a bare key can bring back an upload that is over."""
    upload = facade.presigned_put("avatar", "incoming/one/two", byte_size=len(DATA))
    assert app.test_client().put(upload.url, data=DATA, headers=upload.headers).status_code == 404


@pytest.mark.parametrize(
    ("terms", "field"),
    [
        ({"byte_size": -1}, "byte_size"),
        ({"byte_size": "7"}, "byte_size"),
        ({"byte_size": True}, "byte_size"),
        ({"byte_size": 7, "checksum": "md5:1"}, "checksum"),
    ],
)
def test_nonsense_is_named(facade: Any, terms: dict[str, Any], field: str) -> None:
    with pytest.raises(MalformedRequest) as caught:
        facade.presigned_put("avatar", "badges/3.png", **terms)
    assert caught.value.field == field


def test_who_is_unknown_and_what_a_storage_cannot_do_is_said(facade: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownName):
        facade.head("nobody", "a")
    monkeypatch.setattr(facade.storage_for("avatar"), "capabilities", frozenset(), raising=False)
    with pytest.raises(UploadUnsupported) as caught:
        facade.presigned_put("avatar", "a", byte_size=1)
    assert caught.value.capability == "presigned_put"
