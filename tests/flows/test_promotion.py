"""Staging and promotion: verified bytes are the served bytes, and every step can run twice."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from flask_rindle.engine import Engine
from flask_rindle.errors import NotDeliverable, SizeMismatch, StorageUnavailable
from flask_rindle.models import Asset, Attachment, Job, ProcessingRun, UploadSession, Variant
from flask_rindle.outbox import JobKind
from flask_rindle.storage.base import Storage
from flask_rindle.testing.clock import FrozenClock
from flask_rindle.testing.faults import ReplyLost, faulty


@pytest.fixture
def storage(engine: Engine) -> Storage:
    return engine.storages["default"]


def complete(app: Flask, session: UploadSession) -> Any:
    with app.app_context():
        return app.extensions["host"].rindle.verify_completion(session)


def rewrite(storage: Any, session: UploadSession, data: bytes) -> None:
    storage.put(session.upload_key, io.BytesIO(data), content_type="image/jpeg")


def files(storage: Any) -> list[str]:
    return sorted(p.relative_to(storage.root).as_posix() for p in storage.root.rglob("*") if p.is_file())


def test_a_promoted_asset_has_its_facts_and_its_final_key(
    app: Flask, staged: Callable[..., Any], rows: Callable[..., Any], photo: Callable[..., bytes], storage: Any
) -> None:
    data = photo(300, 200)
    done = complete(app, staged(data, filename="Strand ü.JPG"))
    (asset,) = rows(Asset)
    assert (asset.state, asset.kind, asset.content_type) == ("ready", "image", "image/jpeg")
    assert (asset.width, asset.height, asset.byte_size, asset.frames) == (300, 200, len(data), 1)
    assert asset.thumbhash
    assert asset.filename == "Strand ü.JPG"
    assert asset.storage_key == f"avatar/{done.asset.id}/original.jpg"
    by_name = {variant.name: variant for variant in rows(Variant)}
    assert (by_name["thumb"].width, by_name["thumb"].height) == (128, 85)
    assert (by_name["large"].width, by_name["large"].content_type) == (300, "image/webp")
    assert files(storage) == sorted([asset.storage_key, *(v.storage_key for v in by_name.values())])


@pytest.mark.parametrize("backend", ["local", "memory"])
def test_overwriting_after_verification_quarantines(
    make_app: Callable[..., Flask], photo: Callable[..., bytes], backend: str, tmp_path: Any
) -> None:
    options = {"backend": backend, "root": tmp_path / "m"} if backend == "local" else {"backend": backend}
    app = make_app(storages={"default": options})
    engine = app.extensions["rindle"]
    engine.outbox.send = lambda _: None
    with app.app_context():
        rindle = app.extensions["host"].rindle
        session = rindle.initiate_upload("avatar", filename="a.jpg", content_type="image/jpeg", byte_size=len(photo()))
        storage = engine.storages["default"]
        rewrite(storage, session, photo())
        asset = rindle.verify_completion(session).asset
        rewrite(storage, session, photo(20, 20))
        engine.jobs.drain()
        found = engine.feed.asset(asset.id)
        assert (found.state, found.error_code) == ("quarantined", "content_changed")
        with pytest.raises(NotDeliverable):
            rindle.url(asset.id)


def test_overwriting_between_the_gate_and_promotion_quarantines(
    app: Flask,
    engine: Engine,
    storage: Any,
    staged: Callable[..., Any],
    rows: Callable[..., Any],
    photo: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The narrowest window: the bytes passed the gate, and are swapped before they move."""
    session = staged(photo())
    promote = storage.promote

    def swapped_first(*args: Any, **kwargs: Any) -> Any:
        rewrite(storage, session, photo(30, 30))
        return promote(*args, **kwargs)

    monkeypatch.setattr(storage, "promote", swapped_first)
    complete(app, session)
    (asset,) = rows(Asset)
    assert (asset.state, asset.error_code) == ("quarantined", "content_changed")
    assert files(storage) == []


def test_overwriting_after_promotion_changes_nothing(
    app: Flask, storage: Any, staged: Callable[..., Any], rows: Callable[..., Any], photo: Callable[..., bytes]
) -> None:
    session = staged(photo())
    complete(app, session)
    rewrite(storage, session, photo(30, 30))
    (asset,) = rows(Asset)
    assert b"".join(storage.read(asset.storage_key)) == photo()


def test_a_wrong_checksum_is_refused_after_the_bytes_have_come(
    app: Flask, engine: Engine, rows: Callable[..., Any], photo: Callable[..., bytes]
) -> None:
    with app.app_context():
        rindle = app.extensions["host"].rindle
        session = rindle.initiate_upload(
            "avatar",
            filename="a.jpg",
            content_type="image/jpeg",
            byte_size=len(photo()),
            checksum=f"sha256:{hashlib.sha256(b'other').hexdigest()}",
        )
    rewrite(engine.storages["default"], session, photo())
    complete(app, session)
    assert rows(Asset)[0].error_code == "checksum_mismatch"


def test_less_than_announced_fails_the_session_and_keeps_nothing(
    app: Flask, storage: Any, staged: Callable[..., Any], rows: Callable[..., Any], photo: Callable[..., bytes]
) -> None:
    session = staged(photo())
    rewrite(storage, session, photo()[:-1])
    with pytest.raises(SizeMismatch) as caught:
        complete(app, session)
    assert (caught.value.declared_bytes, caught.value.stored_bytes) == (len(photo()), len(photo()) - 1)
    assert [(row.state, row.error_code, row.ticket_place) for row in rows(UploadSession)] == [
        ("failed", "size_mismatch", None)
    ]
    assert (rows(Asset), files(storage)) == ([], [])


@pytest.mark.parametrize("verb", ["save_to", "promote", "put"])
@pytest.mark.parametrize("fault", [StorageUnavailable("default", "k"), ReplyLost(StorageUnavailable("default", "k"))])
def test_trouble_of_the_storage_is_retried_and_never_quarantines(
    app: Flask,
    storage: Any,
    staged: Callable[..., Any],
    rows: Callable[..., Any],
    photo: Callable[..., bytes],
    clock: FrozenClock,
    engine: Any,
    verb: str,
    fault: Exception,
) -> None:
    session = staged(photo())
    faulty(storage, {verb: [fault]})
    complete(app, session)
    assert rows(Asset)[0].state in ("analyzing", "promoting", "processing")
    clock.tick(seconds=5)
    engine.jobs.drain()
    assert rows(Asset)[0].state == "ready"
    assert {job.state for job in rows(Job)} == {"succeeded"}
    assert "retried" in {run.outcome for run in rows(ProcessingRun)}
    keys = [rows(Asset)[0].storage_key, *(v.storage_key for v in rows(Variant))]
    assert files(storage) == sorted(keys)


def test_a_storage_that_stays_away_leaves_the_asset_undecided(
    app: Flask,
    storage: Any,
    staged: Callable[..., Any],
    rows: Callable[..., Any],
    photo: Callable[..., bytes],
    clock: FrozenClock,
    engine: Any,
) -> None:
    session = staged(photo())
    faulty(storage, {"save_to": [StorageUnavailable("default", "k")] * 100})
    complete(app, session)
    for _ in range(30):
        clock.tick(hours=2)
        engine.jobs.drain()
    (job,) = rows(Job)
    assert (job.state, job.attempt, job.live_key) == ("failed", 20, None)
    assert len(job.errors) == 10
    assert rows(Asset)[0].state == "analyzing"


def test_a_promotion_that_runs_again_after_success_changes_nothing(
    app: Flask, engine: Any, staged: Callable[..., Any], rows: Callable[..., Any], photo: Callable[..., bytes]
) -> None:
    asset_id = complete(app, staged(photo())).asset.id
    before = rows(Asset)[0].updated_at
    with engine.database.transaction() as db_session:
        engine.outbox.add(db_session, JobKind.PROMOTE, asset_id)
        engine.outbox.add(db_session, JobKind.VARIANTS, asset_id)
    assert rows(Asset)[0].updated_at == before
    assert len(rows(Variant)) == 2


def test_the_old_avatar_stays_until_the_new_one_has_passed(
    app: Flask, engine: Any, photo: Callable[..., bytes], rows: Callable[..., Any], storage: Any
) -> None:
    """A refused picture replaces nothing; an accepted one does, and the old one's bytes go."""
    host = app.extensions["host"]
    with app.app_context():
        user = host.User(name="Ada")
        host.db.session.add(user)
        host.db.session.commit()
        first = host.rindle.upload("avatar", io.BytesIO(photo()), filename="1.jpg", owner=user, slot="avatar")
        host.rindle.upload("avatar", io.BytesIO(b"nonsense"), filename="2.jpg", owner=user, slot="avatar")
        assert [row.asset_id for row in rows(Attachment)] == [first.id]
        third = host.rindle.upload("avatar", io.BytesIO(photo(90, 90)), filename="3.jpg", owner=user, slot="avatar")
        host.db.session.expire_all()
        assert user.avatar.asset.id == third.id
    assert first.id not in {asset.id for asset in rows(Asset)}
    assert not [name for name in files(storage) if str(first.id) in name]
