"""Upload routes for scripts: every one of them wants the ticket that the page was rendered with."""

from __future__ import annotations

import uuid
from datetime import timedelta
from http import HTTPStatus
from typing import Any

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import RequestEntityTooLarge

from flask_rindle.engine import Engine, current_engine
from flask_rindle.errors import (
    MalformedRequest,
    NotFound,
    RindleError,
    TicketExpired,
    TicketUsed,
)
from flask_rindle.models.asset import Asset
from flask_rindle.models.states import SESSION_OVER, SessionState, Strategy
from flask_rindle.models.upload import UploadSession
from flask_rindle.security.origins import is_origin
from flask_rindle.storage.base import PresignedUpload
from flask_rindle.templating import View, pending
from flask_rindle.uploads.announcement import Announcement
from flask_rindle.uploads.multipart import Layout, parse_parts
from flask_rindle.uploads.tickets import Ticket

TICKET_HEADER = "Rindle-Ticket"
MAX_JSON_BYTES = 64 * 1024
MAX_PARTS_BYTES = 2 * 1024 * 1024  # ten thousand parts with their etags
LATE = timedelta(hours=1)


def add_routes(blueprint: Blueprint) -> None:
    """Put the routes on the blueprint."""
    blueprint.add_url_rule("/uploads", view_func=open_upload, methods=["POST"])
    blueprint.add_url_rule("/uploads/<uuid:session_id>", view_func=show_upload, methods=["GET"])
    blueprint.add_url_rule("/uploads/<uuid:session_id>", view_func=cancel_upload, methods=["DELETE"])
    blueprint.add_url_rule("/uploads/<uuid:session_id>/sign", view_func=sign_upload, methods=["POST"])
    blueprint.add_url_rule("/uploads/<uuid:session_id>/parts", view_func=sign_parts, methods=["POST"])
    blueprint.add_url_rule("/uploads/<uuid:session_id>/complete", view_func=complete_upload, methods=["POST"])


def open_upload() -> ResponseReturnValue:
    """Open a session; the server says how the bytes are to come."""
    engine = current_engine()
    ticket = _ticket(engine)
    body = _json()
    announced = Announcement.of(
        _text(body, "filename"), _text(body, "content_type"), body.get("byte_size"), _text(body, "checksum")
    )
    session = _open_or_find(engine, ticket, announced)
    try:
        upload = _how(engine, engine.uploads.begin(session.id, origin=_origin()))
    except RindleError as error:
        engine.uploads.fail(session.id, error)
        raise
    session, asset = engine.uploads.find(session.id)
    return session_json(engine, ticket, session, asset, upload), HTTPStatus.CREATED


def _open_or_find(engine: Engine, ticket: Ticket, announced: Announcement) -> UploadSession:
    """A new session; or the one that was opened for this file when the answer was lost on its way."""
    try:
        return engine.uploads.open(ticket, announced)
    except TicketUsed:
        repeat = engine.uploads.find_repeat(ticket, announced)
        if repeat is None or repeat.state not in (SessionState.INITIALIZED, SessionState.SIGNED):
            raise
        return repeat


def _origin() -> str | None:
    origin = request.headers.get("Origin")
    return origin if is_origin(origin) else None


def show_upload(session_id: uuid.UUID) -> ResponseReturnValue:
    """The session as the server knows it, and what its storage has of the bytes."""
    engine = current_engine()
    ticket, session, asset = _own(engine, session_id)
    if session.state in SESSION_OVER or session.strategy not in (Strategy.MULTIPART, Strategy.RESUMABLE):
        return session_json(engine, ticket, session, asset)
    session, arrival = engine.uploads.look(session_id)
    if session.state in SESSION_OVER:
        return session_json(engine, ticket, session, asset)
    body = session_json(engine, ticket, session, asset, _how(engine, session))
    body["received_bytes"] = arrival.received_bytes
    if session.strategy == Strategy.MULTIPART:
        body["parts"] = [{"number": part.number, "byte_size": part.size_bytes} for part in arrival.parts]
    return body


def sign_upload(session_id: uuid.UUID) -> ResponseReturnValue:
    """A fresh URL for the same upload."""
    engine = current_engine()
    _own(engine, session_id)
    return {"upload": _upload_json(engine.uploads.sign(session_id))}


def sign_parts(session_id: uuid.UUID) -> ResponseReturnValue:
    """A URL for each part that is asked for."""
    engine = current_engine()
    _own(engine, session_id)
    numbers = _json().get("numbers")
    if not isinstance(numbers, list):
        raise MalformedRequest("numbers", "must be a list of part numbers")
    signed = engine.uploads.sign_parts(session_id, numbers)
    return {
        "parts": [{"number": number, **_upload_json(upload)} for number, upload in zip(numbers, signed, strict=True)]
    }


def complete_upload(session_id: uuid.UUID) -> ResponseReturnValue:
    """Verify, and hand over to the pipeline."""
    engine = current_engine()
    ticket, _, _ = _own(engine, session_id)
    named = _json(MAX_PARTS_BYTES).get("parts") if _has_body() else None
    done = engine.uploads.complete(session_id, None if named is None else parse_parts(named))
    return session_json(engine, ticket, done.session, done.asset)


def cancel_upload(session_id: uuid.UUID) -> ResponseReturnValue:
    """End the session and remove its bytes."""
    engine = current_engine()
    _own(engine, session_id)
    engine.uploads.cancel(session_id)
    return "", HTTPStatus.NO_CONTENT


def _ticket(engine: Engine) -> Ticket:
    return engine.tickets.open(request.headers.get(TICKET_HEADER, ""), actor=engine.host.actor())


def _own(engine: Engine, session_id: uuid.UUID) -> tuple[Ticket, UploadSession, Asset | None]:
    """What was begun while a ticket was good may be finished with it, however long the bytes take."""
    text = request.headers.get(TICKET_HEADER, "")
    ticket = engine.tickets.open(text, actor=engine.host.actor(), late=True)
    session, asset = owned_by(engine, ticket, str(session_id))
    if ticket.expires_at is not None and ticket.expires_at < engine.clock():
        _require_lasting(engine, ticket, session)
    return ticket, session, asset


def _require_lasting(engine: Engine, ticket: Ticket, session: UploadSession) -> None:
    """A late ticket was good when the session began, and goes no further than an hour after its end."""
    ended_at = session.updated_at if session.state in SESSION_OVER else engine.clock()
    if ticket.expires_at is None or ticket.expires_at < session.created_at or engine.clock() - ended_at > LATE:
        raise TicketExpired


def owned_by(engine: Engine, ticket: Ticket, session_id: str) -> tuple[UploadSession, Asset | None]:
    """The session, if it was opened with this ticket or one for the same place; otherwise there is none."""
    try:
        session, asset = engine.uploads.find(uuid.UUID(session_id))
    except ValueError as error:
        raise MalformedRequest("session", "must be the id of an upload") from error
    if session.ticket_id != ticket.id and not _is_for_the_same(ticket, session):
        raise NotFound("upload", session_id)
    return session, asset


def _is_for_the_same(ticket: Ticket, session: UploadSession) -> bool:
    """A page that was loaded again has a new ticket, and its upload goes on.

    Not where nobody knows who asks: then an id that somebody else has seen would be enough.
    """
    if ticket.actor is None:
        return False
    owner = (None, None) if ticket.owner is None else (ticket.owner.type, ticket.owner.id)
    place = (ticket.profile, *owner, ticket.slot, ticket.append, ticket.actor)
    return place == (
        session.profile,
        session.owner_type,
        session.owner_id,
        session.slot,
        session.append,
        session.actor,
    )


def _has_body() -> bool:
    return bool(request.content_length) or "chunked" in request.headers.get("Transfer-Encoding", "")


def _json(most_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    request.max_content_length = most_bytes
    try:
        body = request.get_json(silent=True)
    except (RequestEntityTooLarge, RecursionError) as error:
        raise MalformedRequest("body", "is too large") from error
    if not isinstance(body, dict):
        raise MalformedRequest("body", "must be a JSON object")
    return body


def _text(body: dict[str, Any], field: str) -> str | None:
    value = body.get(field)
    if value is not None and not isinstance(value, str):
        raise MalformedRequest(field, "must be text")
    return value


def _how(engine: Engine, session: UploadSession) -> dict[str, Any]:
    if session.strategy == Strategy.PRESIGNED_PUT:
        return _upload_json(engine.uploads.sign(session.id))
    if session.strategy == Strategy.MULTIPART:
        layout = Layout.of(session)
        return {"part_bytes": layout.part_bytes, "part_count": layout.count}
    if session.strategy == Strategy.RESUMABLE:
        return {"url": engine.uploads.resumable.uri(session), "chunk_bytes": engine.uploads.resumable.chunk(session)}
    return {"url": url_for("rindle.upload_form"), "method": "POST", "headers": {}, "expires_at": None}


def _upload_json(upload: PresignedUpload) -> dict[str, Any]:
    return {
        "url": upload.url,
        "method": upload.method,
        "headers": dict(upload.headers),
        "expires_at": upload.expires_at.isoformat(),
    }


def session_json(
    engine: Engine,
    ticket: Ticket,
    session: UploadSession,
    asset: Asset | None,
    upload: dict[str, Any] | None = None,
) -> dict[str, Any]:
    body: dict[str, Any] = {
        "id": str(session.id),
        "state": session.state,
        "strategy": session.strategy,
        "filename": session.filename,
        "byte_size": session.declared_bytes,
        "received_bytes": session.received_bytes or 0,
        "asset": None if asset is None else {"id": str(asset.id), "state": asset.state},
    }
    if upload is not None:
        body["upload"] = upload
    if asset is not None:
        links = pending(engine, asset.id, View.from_plain(ticket.view))
        body |= {"events_url": links.events_url, "state_url": links.state_url}
    return body
