"""One gate on every road: whatever way the bytes come, what the profile refuses never becomes available."""

from __future__ import annotations

import ast
import io
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from PIL import Image

import flask_rindle
from flask_rindle import MB, Profile, image
from flask_rindle.engine import Engine
from flask_rindle.errors import RejectedUpload
from flask_rindle.models import Asset, Variant
from flask_rindle.models.states import Strategy
from flask_rindle.processing.base import Clean, Infected
from flask_rindle.storage.local import Local


class Watchman:
    """A scanner that refuses pictures with this marker in them, and remembers what it has seen."""

    name = "watchman"

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    def scan(self, source: Path) -> Clean | Infected:
        self.seen.append(source.read_bytes())
        return Infected("marked") if b"EICAR" in self.seen[-1] else Clean()


watchman = Watchman()


class Strict(Profile):
    allow_mime = {"image/png", "image/jpeg"}  # noqa: RUF012
    allow_extensions = {".png", ".jpg"}  # noqa: RUF012
    max_bytes = MB
    max_pixels = 10_000
    scanners = (watchman,)
    variants = {"thumb": image.fit(16, 16)}  # noqa: RUF012


def by_form(app: Flask, data: bytes, filename: str, content_type: str) -> str:
    client = app.test_client()
    with app.app_context():
        ticket = app.extensions["host"].rindle.upload_ticket(Strict)
    fields = {"ticket": ticket, "file": (io.BytesIO(data), filename, content_type)}
    answer = client.post("/rindle/uploads/form", data=fields, headers={"Accept": "application/json"})
    answer.request.input_stream.close()  # the test client's own copy of a large body
    return client.get(answer.json["state_url"]).json if answer.status_code == 201 else answer.json


def by_presigned_put(app: Flask, data: bytes, filename: str, content_type: str) -> str:
    client = app.test_client()
    with app.app_context():
        ticket = app.extensions["host"].rindle.upload_ticket(Strict)
    headers = {"Rindle-Ticket": ticket}
    body = {"filename": filename, "content_type": content_type, "byte_size": len(data)}
    opened = client.post("/rindle/uploads", json=body, headers=headers)
    if opened.status_code != 201:
        return opened.json
    client.put(opened.json["upload"]["url"], data=data, headers=opened.json["upload"]["headers"])
    done = client.post(f"/rindle/uploads/{opened.json['id']}/complete", headers=headers)
    return client.get(opened.json["state_url"]).json if done.status_code == 200 else done.json


def by_multipart(app: Flask, data: bytes, filename: str, content_type: str) -> Any:
    engine, rindle = app.extensions["rindle"], app.extensions["host"].rindle
    with app.app_context():
        try:
            upload = rindle.initiate_multipart_upload(
                Strict, filename=filename, content_type=content_type, byte_size=len(data)
            )
            for number in range(1, upload.part_count + 1):
                chunk = io.BytesIO(data[(number - 1) * upload.part_size :][: upload.part_size])
                engine.storages["default"].put_part(
                    upload.upload_key, upload.upload_id, number, chunk, size_bytes=upload.part_size
                )
            return plain_state(engine, rindle.complete_multipart_upload(upload.session).asset)
        except RejectedUpload as refusal:
            return {"code": refusal.code, "detail": refusal.public_message}


def by_resumable(app: Flask, data: bytes, filename: str, content_type: str) -> Any:
    engine, rindle = app.extensions["rindle"], app.extensions["host"].rindle
    with app.app_context():
        try:
            upload = rindle.initiate_resumable_session(
                Strict, filename=filename, content_type=content_type, byte_size=len(data)
            )
            engine.storages["default"].send(upload.session_uri, data, last=True)
            return plain_state(engine, rindle.verify_completion(upload.session).asset)
        except RejectedUpload as refusal:
            return {"code": refusal.code, "detail": refusal.public_message}


def plain_state(engine: Engine, asset: Asset) -> Any:
    """What the state route says of an asset."""
    found = engine.feed.asset(asset.id)
    error = None if found.error_code is None else {"code": found.error_code, "detail": found.error_detail}
    return {"state": found.state, "error": error}


ROADS: Mapping[Strategy, Callable[..., Any]] = {
    Strategy.FORM: by_form,
    Strategy.PRESIGNED_PUT: by_presigned_put,
    Strategy.MULTIPART: by_multipart,
    Strategy.RESUMABLE: by_resumable,
}
STORAGES: Mapping[Strategy, Mapping[str, Mapping[str, Any]] | None] = {
    Strategy.FORM: None,
    Strategy.PRESIGNED_PUT: None,
    Strategy.MULTIPART: {"default": {"backend": "flask_rindle.testing.storages:MemoryOfParts"}},
    Strategy.RESUMABLE: {"default": {"backend": "flask_rindle.testing.storages:ResumableMemory"}},
}


def left_in(storage: Any) -> list[Any]:
    """Every object, and every upload that is not over."""
    if isinstance(storage, Local):
        return [path for path in storage.root.rglob("*") if path.is_file()]
    return [*storage._objects, *storage.uploads]


def png(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(out, "PNG")
    return out.getvalue()


def bomb() -> bytes:
    """A PNG that claims 60,000 × 60,000 pixels in a few hundred bytes."""
    small = png(1, 1)
    header = small[12:16] + (60_000).to_bytes(4, "big") * 2 + small[24:29]
    return small[:8] + small[8:12] + header + zlib.crc32(header).to_bytes(4, "big") + small[33:]


GOOD = png(80, 60)
BAD: Mapping[str, tuple[bytes, str, str, str]] = {
    "other type": (b"GIF89a" + b"\0" * 50, "a.png", "image/png", "type_refused"),
    "html named png": (b"<!doctype html><script>alert(1)</script>", "a.png", "image/png", "type_refused"),
    "svg named jpg": (
        b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>",
        "a.jpg",
        "image/jpeg",
        "type_refused",
    ),
    "declared type": (GOOD, "a.png", "image/gif", "type_refused"),
    "extension": (GOOD, "a.gif", "image/png", "extension_refused"),
    "no extension": (GOOD, "a", "image/png", "extension_refused"),
    "extension of another type": (GOOD, "a.jpg", "image/jpeg", "extension_mismatch"),
    "too many pixels": (png(200, 200), "a.png", "image/png", "too_many_pixels"),
    "bomb": (bomb(), "a.png", "image/png", "too_many_pixels"),
    "truncated": (GOOD[:-40], "a.png", "image/png", "media_damaged"),
    "empty": (b"", "a.png", "image/png", "empty_upload"),
    "too large": (GOOD + b"\0" * MB, "a.png", "image/png", "too_large"),
    "scanner": (GOOD + b"EICAR", "a.png", "image/png", "scan_refused"),
}


def test_every_road_of_the_code_is_tested_here() -> None:
    assert set(ROADS) == set(Strategy)


@pytest.mark.parametrize("road", Strategy)
def test_what_is_fine_passes_and_is_scanned(make_app: Callable[..., Flask], road: Strategy) -> None:
    app = make_app(profiles=[Strict], storages=STORAGES[road])
    watchman.seen.clear()
    assert ROADS[road](app, GOOD, "a.png", "image/png")["state"] == "ready"
    assert watchman.seen == [GOOD]


@pytest.mark.parametrize("road", Strategy)
@pytest.mark.parametrize(("data", "filename", "content_type", "code"), BAD.values(), ids=BAD)
def test_what_is_refused_is_refused_on_every_road(
    make_app: Callable[..., Flask], road: Strategy, data: bytes, filename: str, content_type: str, code: str
) -> None:
    app = make_app(profiles=[Strict], storages=STORAGES[road])
    answer = ROADS[road](app, data, filename, content_type)
    found = answer["error"] if "state" in answer else answer
    assert found["code"] == code
    assert found["detail"].endswith(".")
    engine = app.extensions["rindle"]
    with engine.database.reading() as db_session:
        assert all(asset.state == "quarantined" for asset in db_session.query(Asset))
        assert db_session.query(Variant).count() == 0
    assert left_in(engine.storages["default"]) == []


def test_only_promotion_makes_an_asset_available() -> None:
    """The source knows one place that names the state as a target, and it lies behind the gate."""
    package = Path(flask_rindle.__file__).parent
    places = []
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            is_move = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "move"
            if is_move and any("AVAILABLE" in ast.unparse(argument) for argument in node.args):
                places.append(path.relative_to(package).as_posix())
    assert places == ["pipeline/promote.py"]


def test_without_the_gate_the_tests_above_would_fail(
    make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bite: with the content check taken out, a refused picture gets through."""
    monkeypatch.setattr("flask_rindle.policy.check_content", lambda *args, **kwargs: None)
    app = make_app(profiles=[Strict])
    data, filename, content_type, _ = BAD["scanner"]
    assert by_form(app, data, filename, content_type)["state"] == "ready"
