"""What logs and debuggers print of our objects opens nothing."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from flask_rindle import templating


@pytest.fixture
def asset_id(app: Flask, photo: Callable[..., bytes]) -> Any:
    with app.app_context():
        host = app.extensions["host"]
        host.db.session.add(host.User(id=1))
        host.db.session.commit()
        asset = host.rindle.upload("avatar", io.BytesIO(photo()), filename="a.jpg")
        host.rindle.attach(asset.id, host.db.session.get(host.User, 1), "avatar")
        host.db.session.commit()
        return asset.id


def test_what_templates_get_shows_no_ticket_and_no_link(app: Flask, asset_id: Any) -> None:
    templates = templating.RindleTemplates()
    with app.test_request_context():
        host = app.extensions["host"]
        upload = templates.upload("avatar")
        data = templates.picture(host.db.session.get(host.User, 1).avatar, variants=["thumb", "large"])
        pending = templating.pending(app.extensions["rindle"], asset_id, templating.View())
    assert upload.ticket not in repr(upload)
    assert data.picture is not None
    assert data.picture.img.src.startswith("/rindle/files/")
    assert data.picture.sources
    shown = repr((upload, data, data.picture.img, data.picture.sources, pending))
    assert "/files/" not in shown
    assert "token=" not in shown
    assert pending.events_url not in shown


def test_an_upload_shows_no_link_and_no_key(app: Flask) -> None:
    with app.app_context():
        rindle = app.extensions["host"].rindle
        session = rindle.initiate_upload("avatar", filename="a.jpg", content_type="image/jpeg", byte_size=5)
        signed = rindle.sign_upload(session)
    assert signed.url not in repr(signed)
    assert signed.url.rsplit("/", 1)[-1] not in repr((signed, session))


def test_an_engine_shows_no_key(app: Flask) -> None:
    assert app.config["SECRET_KEY"] not in repr(app.extensions["rindle"])
