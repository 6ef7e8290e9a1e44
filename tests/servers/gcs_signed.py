"""The XML API of the fake, as far as signed URLs reach it: objects, and the bucket's CORS rules."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from gcs_media import send_bytes
from gcs_signatures import require_signature
from gcs_state import Refusal, State
from werkzeug.wrappers import Request, Response


def answer(state: State, request: Request, path: str, public_key: RSAPublicKey, account: str) -> Response:
    bucket, _, name = unquote(path).strip("/").partition("/")
    if request.method == "OPTIONS":
        return _preflight(state, request, bucket)
    request.get_data()  # or what was not read would stand in the way of the next request
    require_signature(request, path, public_key, account)
    if request.method == "PUT":
        return _put(state, request, bucket, name)
    if request.method in ("GET", "HEAD"):
        return _get(state, request, bucket, name)
    raise Refusal(405, "MethodNotAllowed", "The specified method is not allowed.")


def _put(state: State, request: Request, bucket: str, name: str) -> Response:
    data = request.get_data()
    limits = request.headers.get("X-Goog-Content-Length-Range")
    if limits:
        least, most = map(int, limits.split(","))
        if len(data) > most:
            raise Refusal(400, "EntityTooLarge", "Your proposed upload is larger than the range allows.")
        if len(data) < least:
            raise Refusal(400, "EntityTooSmall", "Your proposed upload is smaller than the range allows.")
    about = {
        "contentType": request.headers.get("Content-Type"),
        "contentEncoding": request.headers.get("Content-Encoding"),
    }
    wanted = request.headers.get("X-Goog-If-Generation-Match", type=int)
    made = state.write(bucket, name, data, about, only_if_generation=wanted)
    return Response(status=200, headers={"ETag": f'"{made.md5}"', "X-Goog-Generation": str(made.generation)})


def _get(state: State, request: Request, bucket: str, name: str) -> Response:
    response = send_bytes(request, state.find(bucket, name))
    for argument, header in (
        ("response-content-type", "Content-Type"),
        ("response-content-disposition", "Content-Disposition"),
    ):
        if argument in request.args:
            response.headers[header] = request.args[argument]
    return response


def _rule(state: State, request: Request, bucket: str, method: str) -> dict[str, Any] | None:
    origin = request.headers.get("Origin")
    rules = state.cors.get(bucket, [])
    return next((rule for rule in rules if {origin, "*"} & set(rule["origin"]) and method in rule["method"]), None)


def _preflight(state: State, request: Request, bucket: str) -> Response:
    rule = _rule(state, request, bucket, request.headers.get("Access-Control-Request-Method", ""))
    wanted = request.headers.get("Access-Control-Request-Headers", "")
    names = {name.strip().lower() for name in wanted.split(",") if name.strip()}
    response = Response(status=200)
    if rule is not None and names <= {name.lower() for name in rule.get("responseHeader", [])}:
        response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
        response.headers["Access-Control-Allow-Methods"] = ",".join(rule["method"])
        response.headers["Access-Control-Allow-Headers"] = ",".join(rule.get("responseHeader", []))
        response.headers["Access-Control-Max-Age"] = str(rule.get("maxAgeSeconds", 3600))
    return response


def allow_origin(state: State, request: Request, path: str, response: Response) -> None:
    """What the bucket's rules add to an answer, also to a refusal."""
    bucket = unquote(path).strip("/").partition("/")[0]
    rule = _rule(state, request, bucket, request.method) if request.headers.get("Origin") else None
    if rule is not None and request.method != "OPTIONS":
        response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
        response.headers["Access-Control-Expose-Headers"] = ",".join(rule.get("responseHeader", []))
