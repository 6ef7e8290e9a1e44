"""Upload routes: every one of them wants the ticket that the page was rendered with."""

from __future__ import annotations

import hashlib
import uuid
from http import HTTPStatus
from typing import Any, BinaryIO, cast

from flask import Blueprint, Response, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import RequestEntityTooLarge

from flask_rindle.engine import Engine, current_engine
from flask_rindle.errors import (
    EmptyUpload,
    MalformedRequest,
    NotFound,
    RindleError,
    TicketUsed,
    TooLarge,
)
from flask_rindle.models.asset import Asset
from flask_rindle.models.states import SessionState
from flask_rindle.models.upload import UploadSession
from flask_rindle.storage.base import PresignedUpload
from flask_rindle.templating import View, pending, with_notice
from flask_rindle.uploads.broker import Announcement
from flask_rindle.uploads.strategies import Strategy
from flask_rindle.uploads.tickets import Ticket
from flask_rindle.web.errors import status_of

TICKET_HEADER = "Rindle-Ticket"
# Room for the other fields of a form, and for its boundaries.
FORM_OVERHEAD_BYTES = 64 * 1024
# What one form without script may hold; with script every file is an upload of its own.
FORM_FILES = 10


def add_routes(blueprint: Blueprint) -> None:
    """Put the routes on the blueprint."""
    blueprint.add_url_rule("/uploads", view_func=open_upload, methods=["POST"])
    blueprint.add_url_rule("/uploads/<uuid:session_id>", view_func=show_upload, methods=["GET"])
    blueprint.add_url_rule("/uploads/<uuid:session_id>", view_func=cancel_upload, methods=["DELETE"])
    blueprint.add_url_rule("/uploads/<uuid:session_id>/sign", view_func=sign_upload, methods=["POST"])
    blueprint.add_url_rule("/uploads/<uuid:session_id>/complete", view_func=complete_upload, methods=["POST"])
    blueprint.add_url_rule("/uploads/form", view_func=upload_form, methods=["POST"])


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
        upload = _how(engine, session)
    except RindleError:
        engine.uploads.cancel(session.id)
        raise
    session, asset = engine.uploads.find(session.id)
    return _session_json(engine, ticket, session, asset, upload), HTTPStatus.CREATED


def _open_or_find(engine: Engine, ticket: Ticket, announced: Announcement) -> UploadSession:
    """A new session; or the one that was opened for this file when the answer was lost on its way."""
    try:
        return engine.uploads.open(ticket, announced)
    except TicketUsed:
        repeat = engine.uploads.find_repeat(ticket, announced)
        if repeat is None or repeat.state not in (SessionState.INITIALIZED, SessionState.SIGNED):
            raise
        return repeat


def show_upload(session_id: uuid.UUID) -> ResponseReturnValue:
    """The session as the server knows it."""
    engine = current_engine()
    ticket, session, asset = _own(engine, session_id)
    return _session_json(engine, ticket, session, asset)


def sign_upload(session_id: uuid.UUID) -> ResponseReturnValue:
    """A fresh URL for the same upload."""
    engine = current_engine()
    _own(engine, session_id)
    return {"upload": _upload_json(engine.uploads.sign(session_id))}


def complete_upload(session_id: uuid.UUID) -> ResponseReturnValue:
    """Verify, and hand over to the pipeline."""
    engine = current_engine()
    ticket, _, _ = _own(engine, session_id)
    done = engine.uploads.complete(session_id)
    return _session_json(engine, ticket, done.session, done.asset)


def cancel_upload(session_id: uuid.UUID) -> ResponseReturnValue:
    """End the session and remove its bytes."""
    engine = current_engine()
    _own(engine, session_id)
    engine.uploads.cancel(session_id)
    return "", HTTPStatus.NO_CONTENT


def upload_form() -> ResponseReturnValue:
    """The road without script: the bytes come with the form, and the answer is a page."""
    engine = current_engine()
    wants_json = request.accept_mimetypes.best_match(["text/html", "application/json"]) == "application/json"
    try:
        ticket, session_id = _take_form(engine)
    except RindleError as error:
        if wants_json:
            raise
        return _problem_page(error)
    session, asset = engine.uploads.find(session_id)
    if wants_json:
        return _session_json(engine, ticket, session, asset), HTTPStatus.CREATED
    path = _next_path() if asset is None else with_notice(engine, _next_path(), ticket, asset.id)
    return redirect(path, HTTPStatus.SEE_OTHER)


def _take_form(engine: Engine) -> tuple[Ticket, uuid.UUID]:
    """Take every file of the form; the session of the last one."""
    request.max_content_length = _form_limit(engine)
    try:
        files = [file for file in request.files.getlist("file") if file.filename]
    except RequestEntityTooLarge as error:
        raise TooLarge(_largest_file(engine) or request.max_content_length or 0) from error
    ticket = engine.tickets.open(request.form.get("ticket", ""), actor=engine.host.actor())
    if not files:
        raise EmptyUpload
    return ticket, [_take_file(engine, ticket, file) for file in files][-1]


def _take_file(engine: Engine, ticket: Ticket, file: FileStorage) -> uuid.UUID:
    if "session" in request.form:
        session, _ = _owned_by(engine, ticket, request.form["session"])
    else:
        session = _form_session(engine, ticket, file)
    if session.state == SessionState.COMPLETED:
        return session.id
    return engine.uploads.receive(session.id, cast("BinaryIO", file.stream)).session.id


def _form_session(engine: Engine, ticket: Ticket, file: FileStorage) -> UploadSession:
    """The session that the file goes to; the completed one, where the same form was sent twice."""
    announced = _announce(file)
    try:
        return engine.uploads.open(ticket, announced, strategy=Strategy.FORM)
    except TicketUsed:
        repeat = engine.uploads.find_repeat(ticket, announced)
        if repeat is None:
            raise
    if repeat.state == SessionState.UPLOADING:
        # Its bytes come in elsewhere, or stopped coming; this form has them, and is the one that is waited for.
        engine.uploads.give_up(repeat.id)
        return engine.uploads.open(ticket, announced, strategy=Strategy.FORM)
    return repeat


def _announce(file: FileStorage) -> Announcement:
    """What a form's file is said to be; its size and checksum we know ourselves."""
    digest = hashlib.file_digest(file.stream, "sha256").hexdigest()  # type: ignore[arg-type]
    size = file.stream.tell()
    file.stream.seek(0)
    return Announcement.of(file.filename, file.mimetype, size, f"sha256:{digest}")


def _form_limit(engine: Engine) -> int | None:
    """The largest form that any profile could want; beside a profile without a limit the host's own limit holds.

    Which profile it is stands in the ticket, and that is in the form.
    """
    largest = _largest_file(engine)
    return None if largest is None else largest * FORM_FILES + FORM_OVERHEAD_BYTES


def _largest_file(engine: Engine) -> int | None:
    limits = [profile.max_bytes for profile in engine.profiles]
    known = [limit for limit in limits if limit is not None]
    return max(known) if known and len(known) == len(limits) else None


def _next_path() -> str:
    """Where the form wants to go on: a path of this site, never another one."""
    path = _sent_next()
    is_local = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if is_local else (request.script_root or "/")


def _sent_next() -> str:
    try:
        return request.form.get("next", "")
    except RequestEntityTooLarge:
        return ""


def _problem_page(error: RindleError) -> Response:
    status = status_of(error)
    page = render_template(
        "rindle/problem.html",
        status=status.value,
        title=status.phrase,
        detail=error.public_message,
        back=_next_path() if _sent_next() else None,
        style_url=url_for("rindle.static", filename="rindle.css"),
    )
    response = make_response(page, status)
    response.headers["Cache-Control"] = "no-store"
    return response


def _ticket(engine: Engine) -> Ticket:
    return engine.tickets.open(request.headers.get(TICKET_HEADER, ""), actor=engine.host.actor())


def _own(engine: Engine, session_id: uuid.UUID) -> tuple[Ticket, UploadSession, Asset | None]:
    ticket = _ticket(engine)
    return ticket, *_owned_by(engine, ticket, str(session_id))


def _owned_by(engine: Engine, ticket: Ticket, session_id: str) -> tuple[UploadSession, Asset | None]:
    """The session, if it was opened with this ticket; otherwise there is none."""
    try:
        session, asset = engine.uploads.find(uuid.UUID(session_id))
    except ValueError as error:
        raise MalformedRequest("session", "must be the id of an upload") from error
    if session.ticket_id != ticket.id:
        raise NotFound("upload", session_id)
    return session, asset


def _json() -> dict[str, Any]:
    request.max_content_length = FORM_OVERHEAD_BYTES
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
    return {"url": url_for("rindle.upload_form"), "method": "POST", "headers": {}, "expires_at": None}


def _upload_json(upload: PresignedUpload) -> dict[str, Any]:
    return {
        "url": upload.url,
        "method": upload.method,
        "headers": dict(upload.headers),
        "expires_at": upload.expires_at.isoformat(),
    }


def _session_json(
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
