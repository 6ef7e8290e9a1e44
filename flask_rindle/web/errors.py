"""What each error is in HTTP: one table, walked along the class's ancestors (RFC 9457)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus

from flask import Response, json
from werkzeug.exceptions import HTTPException

from flask_rindle import errors
from flask_rindle.errors import RindleError

log = logging.getLogger("flask_rindle.web")

RETRY_AFTER_SECONDS = 5

STATUS: dict[type[RindleError], HTTPStatus] = {
    errors.RindleError: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.UnknownName: HTTPStatus.NOT_FOUND,
    errors.NotAuthorized: HTTPStatus.FORBIDDEN,
    errors.InvalidToken: HTTPStatus.FORBIDDEN,
    errors.ExpiredToken: HTTPStatus.FORBIDDEN,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.NotDeliverable: HTTPStatus.NOT_FOUND,
    errors.UploadUnsupported: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.RejectedUpload: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.MalformedRequest: HTTPStatus.BAD_REQUEST,
    errors.TicketInvalid: HTTPStatus.FORBIDDEN,
    errors.TicketExpired: HTTPStatus.FORBIDDEN,
    errors.TicketUsed: HTTPStatus.CONFLICT,
    errors.SessionClosed: HTTPStatus.CONFLICT,
    errors.UploadIncomplete: HTTPStatus.CONFLICT,
    errors.TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.TypeRefused: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    errors.ExtensionRefused: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    errors.TransitionRefused: HTTPStatus.CONFLICT,
    errors.LostRace: HTTPStatus.CONFLICT,
    errors.ObjectNotFound: HTTPStatus.NOT_FOUND,
    errors.InvalidKey: HTTPStatus.NOT_FOUND,
    errors.StorageUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.StorageFull: HTTPStatus.INSUFFICIENT_STORAGE,
    errors.DatabaseBusy: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.DatabaseUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.HostTrouble: HTTPStatus.SERVICE_UNAVAILABLE,
}
_ASK_AGAIN = frozenset({HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.INSUFFICIENT_STORAGE})


def status_of(error: RindleError) -> HTTPStatus:
    """The status of the nearest ancestor in the table."""
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


def answer(error: RindleError) -> Response:
    """The error as `application/problem+json`, with nothing in it that must not leave."""
    status = status_of(error)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("%s: %s", error.code, error, exc_info=error)
    return _problem(status, error.code, error.public_message, error.facts)


def answer_http(error: HTTPException) -> Response:
    """What Flask and Werkzeug refuse by themselves, in the same form."""
    status = HTTPStatus(error.code or HTTPStatus.INTERNAL_SERVER_ERROR)
    response = _problem(status, status.name.lower(), error.description or status.phrase, {})
    for name, value in error.get_headers():
        if name.lower() in ("allow", "retry-after"):
            response.headers[name] = value
    return response


def _problem(status: HTTPStatus, code: str, detail: str, facts: Mapping[str, object]) -> Response:
    body = {
        **facts,
        "type": "about:blank",
        "title": status.phrase,
        "status": status.value,
        "code": code,
        "detail": detail,
    }
    response = Response(json.dumps(body), status=status, mimetype="application/problem+json")
    response.headers["Cache-Control"] = "no-store"
    if status in _ASK_AGAIN:
        response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return response
