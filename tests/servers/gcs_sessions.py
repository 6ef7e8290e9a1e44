"""Resumable uploads of the fake: what a session URI answers."""

from __future__ import annotations

import json
import re

from gcs_faults import CUT, reset
from gcs_state import GRANULE, Refusal, Session, State
from werkzeug.wrappers import Request, Response

_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")
ENDED = {"cancelled": (499, "clientClosedRequest"), "expired": (410, "gone"), "failed": (412, "conditionNotMet")}


def answer(state: State, request: Request, upload_id: str) -> Response:
    """PUT, DELETE and OPTIONS at a session URI; nobody is asked for credentials here."""
    session = state.sessions.get(upload_id)
    if session is None:
        raise Refusal(404, "notFound", "Upload session not found.")
    if request.method == "OPTIONS":
        response = Response(status=200)
    else:
        with state.lock:
            response = _cancel(session) if request.method == "DELETE" else _put(state, session, request)
    _allow_origin(session, request, response)
    return response


def _allow_origin(session: Session, request: Request, response: Response) -> None:
    """The page that was named at the start, and no other, whatever the bucket's rules say."""
    if session.origin is None or request.headers.get("Origin") != session.origin:
        return
    response.headers["Access-Control-Allow-Origin"] = session.origin
    response.headers["Access-Control-Expose-Headers"] = "Content-Length, Content-Type, Date, Range, Server"
    if request.method == "OPTIONS":
        response.headers["Access-Control-Allow-Methods"] = "DELETE, GET, HEAD, POST, PUT"
        response.headers["Access-Control-Allow-Headers"] = "Content-Type, Content-Range, X-Requested-With"


def _refuse_ended(session: Session) -> None:
    if session.state in ENDED:
        status, reason = ENDED[session.state]
        raise Refusal(status, reason, f"The upload session is {session.state}.")


def _cancel(session: Session) -> Response:
    _refuse_ended(session)
    if session.state == "made":
        raise Refusal(404, "notFound", "Upload session not found.")
    session.state = "cancelled"
    session.data.clear()
    return Response(status="499 Client Closed Request")


def _put(state: State, session: Session, request: Request) -> Response:
    _refuse_ended(session)
    data = request.get_data()
    if session.state == "made":
        return _made(session)
    start, total = _parsed(session, request.headers.get("Content-Range"), data)
    if CUT in request.environ:
        _append(session, data[: request.environ[CUT]], start, is_last=False)
        reset(request)
    if data:
        _append(session, data, start, is_last=total == start + len(data))
    if total is not None and len(session.data) == total:
        return _finish(state, session)
    response = Response(status="308 Resume Incomplete")
    if session.data:
        response.headers["Range"] = f"bytes=0-{len(session.data) - 1}"
    return response


def _parsed(session: Session, content_range: str | None, data: bytes) -> tuple[int, int | None]:
    """Where the bytes begin and how many there are in all."""
    if content_range is None:
        return 0, len(data)
    match = _CONTENT_RANGE.fullmatch(content_range)
    if match is None:
        raise Refusal(400, "badRequest", "Failed to parse Content-Range header.")
    total = None if match[3] == "*" else int(match[3])
    start, length = (int(match[1]), int(match[2]) + 1 - int(match[1])) if match[1] else (len(session.data), 0)
    if length != len(data):
        raise Refusal(400, "badRequest", "The Content-Range does not fit the Content-Length.")
    if session.size is not None and (total not in (None, session.size) or start + length > session.size):
        raise Refusal(400, "badRequest", "The upload is of another size than was announced.")
    return start, total


def _append(session: Session, data: bytes, start: int, *, is_last: bool) -> None:
    """What is new of the bytes; without the end, only whole granules are kept."""
    held = len(session.data)
    if start > held:
        raise Refusal(400, "badRequest", f"The bytes begin at {start}, and {held} are there.")
    session.data += data[held - start :]
    if not is_last and len(session.data) > held:
        del session.data[max(held, len(session.data) // GRANULE * GRANULE) :]


def _finish(state: State, session: Session) -> Response:
    try:
        session.made = state.write(
            session.bucket,
            session.name,
            bytes(session.data),
            session.about,
            only_if_generation=session.only_if_generation,
            kms_key_name=session.kms_key_name,
        )
    except Refusal:
        session.state = "failed"
        raise
    session.state = "made"
    session.data.clear()
    return _made(session)


def _made(session: Session) -> Response:
    assert session.made is not None
    headers = {"X-Goog-Stored-Content-Length": str(len(session.made.data))}
    return Response(json.dumps(session.made.as_json()), 200, headers, content_type="application/json")
