"""Readiness: Server-Sent Events, and the same as a question."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from http import HTTPStatus

from flask import Blueprint, Response, json, request
from flask.typing import ResponseReturnValue

from flask_rindle.engine import Engine, current_engine
from flask_rindle.models.states import SETTLED
from flask_rindle.readiness import Change
from flask_rindle.security.tokens import Purpose
from flask_rindle.templating import asset_state, open_view

# How long a closed connection may hold its thread before we notice.
HEARTBEAT = timedelta(seconds=5)
# A stream holds a thread, so it ends by itself; the browser resumes where it was.
STREAM_SECONDS = 60.0
RETRY_MS = 2000
# What fits a signed 64-bit column.
MAX_ID_DIGITS = 18


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
    after_id = _last_event_id()
    if after_id and not engine.feed.unsettled(assets) and not any(engine.feed.since(assets, after_id)):
        return "", HTTPStatus.NO_CONTENT  # tells a browser not to connect again
    changes = _live if _has_threads() else _once
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return Response(changes(engine, assets, after_id), mimetype="text/event-stream", headers=headers)


def _last_event_id() -> int:
    """Where to go on. Without an id everything is told, so that nothing is missed between a page and its stream."""
    text = request.headers.get("Last-Event-ID", "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= MAX_ID_DIGITS else 0


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
        waiting = engine.feed.unsettled(assets)
        while waiting and time.monotonic() < ends_at and not subscription.is_cut:
            change = subscription.next(HEARTBEAT)
            yield ": \n\n" if change is None else _message(change)
            if change is not None and change.kind == "asset" and change.to_state in SETTLED:
                waiting.discard(change.asset_id)


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
