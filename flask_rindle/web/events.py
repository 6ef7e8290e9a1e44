"""Readiness: Server-Sent Events, and the same as a question."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from datetime import timedelta

from flask import Blueprint, Response, json, request
from flask.typing import ResponseReturnValue

from flask_rindle.engine import Engine, current_engine
from flask_rindle.readiness import Change
from flask_rindle.security.tokens import Purpose
from flask_rindle.templating import asset_state, open_view

HEARTBEAT = timedelta(seconds=15)
# A stream holds a thread, so it ends by itself; the browser resumes where it was.
STREAM_SECONDS = 60.0
RETRY_MS = 2000


def add_routes(blueprint: Blueprint) -> None:
    """Put the routes on the blueprint."""
    blueprint.add_url_rule("/events", view_func=events, methods=["GET"])
    blueprint.add_url_rule("/assets/<uuid:asset_id>/state", view_func=show_asset_state, methods=["GET"])


def show_asset_state(asset_id: uuid.UUID) -> ResponseReturnValue:
    """Where an asset stands, for whoever holds a link to ask with."""
    engine = current_engine()
    view = open_view(engine, request.args.get("token", ""), asset_id)
    return asset_state(engine, asset_id, view), {"Cache-Control": "no-store"}


def events() -> ResponseReturnValue:
    """The changes of the assets that the token names."""
    engine = current_engine()
    payload = engine.tokens.open(Purpose.EVENTS, request.args.get("token", ""))
    assets = [uuid.UUID(text) for text in payload["assets"]]
    after = request.headers.get("Last-Event-ID", "")
    # Without an id everything is told, so that nothing is missed between a page and its stream.
    changes = _live if _has_threads() else _once
    stream = changes(engine, assets, int(after) if after.isdecimal() else 0)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return Response(stream, mimetype="text/event-stream", headers=headers)


def _has_threads() -> bool:
    """Whether this server can leave a thread with us; a single-threaded one would stand still."""
    return bool(request.environ.get("wsgi.multithread"))


def _once(engine: Engine, assets: list[uuid.UUID], after_id: int) -> Iterator[str]:
    yield _hello()
    yield from map(_message, engine.feed.since(assets, after_id))


def _live(engine: Engine, assets: list[uuid.UUID], after_id: int) -> Iterator[str]:
    ends_at = time.monotonic() + STREAM_SECONDS
    with engine.feed.subscribe(assets) as subscription:
        yield from _once(engine, assets, after_id)
        while time.monotonic() < ends_at and not subscription.is_cut:
            change = subscription.next(HEARTBEAT)
            yield ": \n\n" if change is None else _message(change)


def _hello() -> str:
    """The first bytes leave at once, so that the client knows it is connected."""
    return f": connected\nretry: {RETRY_MS}\n\n"


def _message(change: Change) -> str:
    data = {
        "kind": change.kind,
        "asset_id": str(change.asset_id),
        "name": change.name,
        "from": change.from_state,
        "to": change.to_state,
    }
    return f"id: {change.resume_id}\nevent: change\ndata: {json.dumps(data)}\n\n"
