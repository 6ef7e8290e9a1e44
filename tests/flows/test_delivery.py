"""Who may see what, and what stands in for a variant that is not there."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from flask_rindle import Profile, Rindle, image, signals
from flask_rindle.delivery import Subject
from flask_rindle.errors import DeliveryUnsupported, NotAuthorized, NotDeliverable, NotFound, UnknownName
from flask_rindle.models import Variant
from flask_rindle.storage.base import Capability


@pytest.fixture
def asset(app: Flask, photo: Callable[..., bytes]) -> Any:
    with app.app_context():
        return app.extensions["host"].rindle.upload("avatar", io.BytesIO(photo(300, 200)), filename="a.jpg")


@pytest.fixture
def get(app: Flask) -> Callable[[str], bytes]:
    return lambda url: app.test_client().get(url).data


def test_url_gives_the_original(app: Flask, rindle: Rindle, asset: Any, get: Any, photo: Callable[..., bytes]) -> None:
    with app.app_context():
        for given in (asset, asset.id, str(asset.id)):
            known = asset if given is not asset else app.extensions["rindle"].feed.asset(asset.id)
            assert get(rindle.url(known if given is asset else given)) == photo(300, 200)


def test_variant_url_gives_the_variant_and_until_then_the_original(
    app: Flask, engine: Any, rindle: Rindle, asset: Any, get: Any, photo: Callable[..., bytes]
) -> None:
    with app.app_context():
        assert get(rindle.variant_url(asset, "thumb"))[:3] == b"\xff\xd8\xff"
        assert get(rindle.variant_url(asset, "large"))[8:12] == b"WEBP"
        assert [variant.name for variant in rindle.ready_variants_for(asset)] == ["large", "thumb"]
        with engine.database.transaction() as db_session:
            db_session.query(Variant).delete()
        assert get(rindle.variant_url(asset, "thumb")) == photo(300, 200)
        with pytest.raises(NotDeliverable):
            rindle.variant_url(asset, "thumb", fallback=None)
        with pytest.raises(UnknownName) as caught:
            rindle.variant_url(asset, "huge")
        assert caught.value.known == ("large", "thumb")


def test_an_asset_that_nobody_knows(app: Flask, rindle: Rindle) -> None:
    with app.app_context():
        for unknown in ("nonsense", "0193a1f0-0000-7000-8000-000000000000"):
            with pytest.raises(NotFound):
                rindle.url(unknown)


def test_an_asset_that_has_not_passed_is_not_delivered(
    app: Flask, engine: Any, rindle: Rindle, photo: Callable[..., bytes]
) -> None:
    engine.outbox.send = lambda _: None
    with app.app_context():
        asset = rindle.upload("avatar", io.BytesIO(photo()), filename="a.jpg")
        with pytest.raises(NotDeliverable) as caught:
            rindle.url(asset)
        assert caught.value.state == "validating"


def test_a_life_that_the_caller_chooses(app: Flask, rindle: Rindle, asset: Any) -> None:
    with app.app_context():
        url = rindle.url(asset.id, expires_in=60)
    assert app.test_client().get(url, buffered=True).headers["Cache-Control"] == "private, max-age=60"


def test_a_download_has_the_name_that_it_is_given(app: Flask, rindle: Rindle, asset: Any) -> None:
    with app.app_context():
        url = rindle.url(asset.id, disposition="attachment", filename="../Porträt.jpg")
    header = app.test_client().get(url, buffered=True).headers["Content-Disposition"]
    assert header == "attachment; filename=\"Portrat.jpg\"; filename*=UTF-8''Portr%C3%A4t.jpg"


@pytest.mark.parametrize("public", [False, True])
def test_the_authorizer_runs_before_any_url(
    make_app: Callable[..., Flask], photo: Callable[..., bytes], public: bool
) -> None:
    asked: list[tuple[object, str, Subject]] = []

    class Guarded(Profile):
        variants = {"thumb": image.fit(16, 16)}  # noqa: RUF012

        @staticmethod
        def authorizer(actor: object, action: str, subject: object) -> None:
            assert isinstance(subject, Subject)
            asked.append((actor, action, subject))
            if actor != "7":
                raise NotAuthorized(action)

    Guarded.public = public
    who = {"actor": "7"}
    app = make_app(profiles=[Guarded], actor=lambda: who["actor"])
    rindle = app.extensions["host"].rindle
    signed: list[str] = []
    storage = app.extensions["rindle"].storages["default"]
    real = storage.url
    storage.url = lambda key, terms: (signed.append(key), real(key, terms))[1]
    with app.test_request_context():
        asset = rindle.upload(Guarded, io.BytesIO(photo()), filename="a.jpg")
        assert rindle.url(asset.id)
        assert rindle.variant_url(asset.id, "thumb")
        assert [(actor, action, s.variant) for actor, action, s in asked] == [
            ("7", "view", None),
            ("7", "view", "thumb"),
        ]
        assert asked[0][2].asset.id == asset.id
        signed.clear()
        who["actor"] = None
        templates = app.jinja_env.globals["rindle_templates"]
        for call in (
            lambda: rindle.url(asset.id),
            lambda: rindle.variant_url(asset.id, "thumb"),
            lambda: rindle.url(Guarded, "some/key"),
            lambda: rindle.url(asset.id, actor="8"),
        ):
            with pytest.raises(NotAuthorized):
                call()
        found = app.extensions["rindle"].feed.asset(asset.id)
        assert templates.picture(found, variants=["thumb"]).picture is None
    assert signed == []


def test_a_storage_that_cannot_sign_is_never_used_unsigned(app: Flask, rindle: Rindle, asset: Any, engine: Any) -> None:
    storage = engine.storages["default"]
    storage.capabilities = storage.capabilities - {Capability.SIGNED_URL}
    with app.app_context(), pytest.raises(DeliveryUnsupported) as caught:
        rindle.url(asset.id)
    assert caught.value.capability == "signed_url"


def test_signals_tell_and_carry_no_secrets(app: Flask, rindle: Rindle, photo: Callable[..., bytes]) -> None:
    heard: list[tuple[str, object, dict[str, Any]]] = []
    for name in ("upload.start", "upload.stop", "asset.state_change", "delivery.signed", "rindle.job.stop"):
        rindle.on(name, lambda sender, event=name, **facts: heard.append((event, sender, facts)))
    with app.app_context():
        asset = rindle.upload("avatar", io.BytesIO(photo()), filename="a.jpg")
        url = rindle.url(asset.id)
    names = [name for name, _, _ in heard]
    assert names.count("upload.start") == names.count("upload.stop") == names.count("delivery.signed") == 1
    assert ("asset.state_change", "asset") in [(name, sender) for name, sender, _ in heard]
    assert url.split("/")[3] not in repr(heard)
    with pytest.raises(UnknownName):
        rindle.on("asset.exploded", print)


def test_a_listener_that_fails_does_not_undo_an_upload(app: Flask, rindle: Rindle, photo: Callable[..., bytes]) -> None:
    def broken(sender: object, **facts: object) -> None:
        raise ZeroDivisionError

    rindle.on("upload.stop", broken)
    try:
        with app.app_context():
            assert rindle.upload("avatar", io.BytesIO(photo()), filename="a.jpg").state == "validating"
    finally:
        signals.upload_stop.disconnect(broken)
