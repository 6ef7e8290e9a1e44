"""The form route: the whole upload without script. The bytes come with the form, and the answer is a page."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from http import HTTPStatus
from typing import BinaryIO, cast

from flask import Blueprint, Response, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import RequestEntityTooLarge

from flask_rindle.engine import Engine, current_engine
from flask_rindle.errors import EmptyUpload, MalformedRequest, RindleError, TicketUsed, TooLarge
from flask_rindle.models.states import SessionState, Strategy
from flask_rindle.models.upload import UploadSession
from flask_rindle.templating import with_notice
from flask_rindle.uploads.announcement import Announcement
from flask_rindle.uploads.tickets import Ticket
from flask_rindle.web.errors import status_of
from flask_rindle.web.multipart import IncomingFile, IncomingForm
from flask_rindle.web.uploads import owned_by, session_json


def add_routes(blueprint: Blueprint) -> None:
    """Put the route on the blueprint."""
    blueprint.add_url_rule("/uploads/form", view_func=upload_form, methods=["POST"])


def upload_form() -> ResponseReturnValue:
    """Take the files of a form, and go on to `next`; with `Accept: application/json`, tell about the session."""
    engine = current_engine()
    wants_json = request.accept_mimetypes.best_match(["text/html", "application/json"]) == "application/json"
    with IncomingForm(engine.settings.tmp_dir) as form:
        try:
            ticket, session_id = _take(engine, form)
        except RindleError as error:
            if wants_json:
                raise
            return _problem_page(error, form.fields)
    session, asset = engine.uploads.find(session_id)
    if wants_json:
        return session_json(engine, ticket, session, asset), HTTPStatus.CREATED
    path = _next_path(form.fields)
    return redirect(path if asset is None else with_notice(engine, path, ticket, asset.id), HTTPStatus.SEE_OTHER)


def _take(engine: Engine, form: IncomingForm) -> tuple[Ticket, uuid.UUID]:
    """Take every file of the form; the session of the last one."""
    boundary = request.mimetype_params.get("boundary", "")
    if request.mimetype != "multipart/form-data" or not boundary:
        raise MalformedRequest("body", "must be a complete multipart form")
    # The profile's limit holds, once the ticket has told which it is; the host's own limit holds before.
    try:
        stream = cast("BinaryIO", request.stream)
    except RequestEntityTooLarge as error:
        raise TooLarge(request.max_content_length or 0) from error
    form.read(stream, boundary.encode("latin-1", "replace"), lambda fields: _limit(engine, fields))
    ticket = _ticket(engine, form.fields)
    if not form.files:
        raise EmptyUpload
    return ticket, [_take_file(engine, ticket, form.fields, file) for file in form.files][-1]


def _ticket(engine: Engine, fields: Mapping[str, str]) -> Ticket:
    return engine.tickets.open(fields.get("ticket", ""), actor=engine.host.actor())


def _limit(engine: Engine, fields: Mapping[str, str]) -> int | None:
    return engine.profiles.get(_ticket(engine, fields).profile).max_bytes


def _take_file(engine: Engine, ticket: Ticket, fields: Mapping[str, str], file: IncomingFile) -> uuid.UUID:
    if "session" in fields:
        session, _ = owned_by(engine, ticket, fields["session"])
    else:
        session = _session_for(engine, ticket, file)
    if session.state == SessionState.COMPLETED:
        return session.id
    return engine.proxied.receive(session.id, file.stream).session.id


def _session_for(engine: Engine, ticket: Ticket, file: IncomingFile) -> UploadSession:
    """The session that the file goes to; the completed one, where the same form was sent twice."""
    announced = Announcement.of(file.filename, file.content_type, file.size_bytes, f"sha256:{file.sha256}")
    try:
        return engine.uploads.open(ticket, announced, strategy=Strategy.FORM)
    except TicketUsed:
        repeat = engine.uploads.find_repeat(ticket, announced, is_whole=True)
        if repeat is None:
            raise
    if repeat.state == SessionState.UPLOADING:
        # Its bytes come in elsewhere, or stopped coming; this form has them, and is the one that is waited for.
        engine.uploads.give_up(repeat.id)
        return engine.uploads.open(ticket, announced, strategy=Strategy.FORM)
    return repeat


def _next_path(fields: Mapping[str, str]) -> str:
    """Where the form wants to go on: a path of this site, never another one."""
    path = fields.get("next", "")
    is_local = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if is_local else (request.script_root or "/")


def _problem_page(error: RindleError, fields: Mapping[str, str]) -> Response:
    status = status_of(error)
    page = render_template(
        "rindle/problem.html",
        status=status.value,
        title=status.phrase,
        detail=error.public_message,
        back=_next_path(fields) if fields.get("next") else None,
        style_url=url_for("rindle.static", filename="rindle.css"),
    )
    response = make_response(page, status)
    response.headers["Cache-Control"] = "no-store"
    return response
