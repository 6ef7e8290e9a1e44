"""The JSON API of the fake: metadata, downloads, deletes, rewrites, uploads and the bucket's CORS rules."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

import gcs_sessions
from gcs_media import send_bytes
from gcs_state import Blob, Refusal, Rewrite, Session, State, crc32c
from werkzeug.wrappers import Request, Response


def answer(state: State, request: Request, path: str, *, rewrite_bytes: int) -> Response:
    """The answer to one request; `path` as it was sent, so that names keep their encoded slashes."""
    segments = [unquote(segment) for segment in path.strip("/").split("/")]
    match segments:
        case ["upload", "storage", "v1", "b", bucket, "o"]:
            return _upload(state, request, bucket)
        case ["storage", "v1", "b", bucket]:
            return _bucket(state, request, bucket)
        case ["storage", "v1", "b", bucket, "o", name]:
            return _object(state, request, bucket, name)
        case ["download", "storage", "v1", "b", bucket, "o", name]:
            return _download(state, request, bucket, name)
        case ["storage", "v1", "b", bucket, "o", name, "rewriteTo", "b", target_bucket, "o", target]:
            return _rewrite(state, request, (bucket, name), (target_bucket, target), rewrite_bytes)
    raise Refusal(404, "notFound", "Not Found")


def operation(request: Request, segments: Sequence[str]) -> str:
    """What a request is about, as faults name it."""
    if segments[0] == "upload":
        is_status = request.headers.get("Content-Range", "").startswith("bytes */")
        put = "status" if is_status else "chunk"
        post = "start" if request.args.get("uploadType") == "resumable" else "create"
        return {"POST": post, "PUT": put, "DELETE": "cancel"}.get(request.method, "preflight")
    if "rewriteTo" in segments:
        return "rewrite"
    if segments[0] == "download":
        return "media"
    is_bucket = len(segments) == 4
    return "bucket" if is_bucket else {"GET": "stat", "DELETE": "delete"}.get(request.method, request.method.lower())


def as_response(found: object, status: int = 200) -> Response:
    return Response(json.dumps(found), status, content_type="application/json; charset=UTF-8")


def number(request: Request, name: str) -> int | None:
    return request.args.get(name, type=int)


def _bucket(state: State, request: Request, bucket: str) -> Response:
    state.in_bucket(bucket)
    if request.method == "PATCH":
        state.cors[bucket] = request.get_json().get("cors", [])
    return as_response({"kind": "storage#bucket", "name": bucket, "cors": state.cors.get(bucket, [])})


def _object(state: State, request: Request, bucket: str, name: str) -> Response:
    if request.method == "DELETE":
        state.remove(bucket, name, number(request, "ifGenerationMatch"))
        return Response(status=204)
    if request.args.get("alt") == "media":
        return _download(state, request, bucket, name)
    blob = state.find(bucket, name, number(request, "generation"))
    state.require_generation(bucket, name, number(request, "ifGenerationMatch"))
    if request.method == "PATCH":
        raise Refusal(501, "notImplemented", "Nothing here changes what is kept about an object.")
    return as_response(blob.as_json())


def _download(state: State, request: Request, bucket: str, name: str) -> Response:
    blob = state.find(bucket, name, number(request, "generation"))
    state.require_generation(bucket, name, number(request, "ifGenerationMatch"))
    return send_bytes(request, blob)


def _rewrite(
    state: State, request: Request, source: tuple[str, str], target: tuple[str, str], rewrite_bytes: int
) -> Response:
    about = request.get_json(silent=True) or {}
    with state.lock:
        state.require_generation(*source, number(request, "ifSourceGenerationMatch"))
        blob = state.find(*source)
        state.require_generation(*target, number(request, "ifGenerationMatch"))
        terms = (blob.generation, source, target, json.dumps(about, sort_keys=True))
        token, rewrite = _continued(state, request.args.get("rewriteToken"), terms)
        rewrite.rewritten = min(rewrite.rewritten + rewrite_bytes, len(blob.data))
        told: dict[str, Any] = {"kind": "storage#rewriteResponse", "objectSize": str(len(blob.data))}
        told["totalBytesRewritten"] = str(rewrite.rewritten)
        if rewrite.rewritten < len(blob.data):
            return as_response(told | {"done": False, "rewriteToken": token})
        del state.rewrites[token]
        made = _write_copy(state, blob, target, about, request.args.get("destinationKmsKeyName"))
        return as_response(told | {"done": True, "resource": made.as_json()})


def _continued(state: State, token: str | None, terms: tuple[object, ...]) -> tuple[str, Rewrite]:
    if token is None:
        token = uuid.uuid4().hex
        state.rewrites[token] = Rewrite(terms)
    rewrite = state.rewrites.get(token)
    if rewrite is None or rewrite.terms != terms:
        raise Refusal(400, "invalid", "The rewrite token belongs to another rewrite.")
    return token, rewrite


def _write_copy(state: State, blob: Blob, target: tuple[str, str], about: dict[str, Any], kms: str | None) -> Blob:
    # What is sent replaces all that the source has; only an empty request copies it.
    return state.write(*target, blob.data, about or blob.about, kms_key_name=kms)


def _upload(state: State, request: Request, bucket: str) -> Response:
    upload_id = request.args.get("upload_id")
    if upload_id:
        return gcs_sessions.answer(state, request, upload_id)
    if request.args.get("uploadType") == "resumable":
        return _start(state, request, bucket)
    return _upload_at_once(state, request, bucket)


def _start(state: State, request: Request, bucket: str) -> Response:
    about = request.get_json(silent=True) or {}
    size = request.headers.get("X-Upload-Content-Length", type=int)
    about.setdefault("contentType", request.headers.get("X-Upload-Content-Type"))
    session = Session(
        bucket,
        about.get("name") or request.args["name"],
        about,
        size,
        request.headers.get("Origin"),
        number(request, "ifGenerationMatch"),
        request.args.get("kmsKeyName"),
    )
    upload_id = state.open_session(session)
    response = as_response({})
    response.headers["Location"] = (
        f"{request.host_url}upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={upload_id}"
    )
    response.headers["X-GUploader-UploadID"] = upload_id
    return response


def _upload_at_once(state: State, request: Request, bucket: str) -> Response:
    about: dict[str, Any] = {}
    data = request.get_data()
    if request.args.get("uploadType") == "multipart":
        about, data = _both_parts(data, request.mimetype_params["boundary"].encode())
    name = about.get("name") or request.args["name"]
    if about.get("crc32c") not in (None, crc32c(data)):
        raise Refusal(400, "invalid", "Provided CRC32C does not match the one that was calculated.")
    made = state.write(
        bucket,
        name,
        data,
        about,
        only_if_generation=number(request, "ifGenerationMatch"),
        kms_key_name=request.args.get("kmsKeyName"),
    )
    return as_response(made.as_json())


def _both_parts(body: bytes, boundary: bytes) -> tuple[dict[str, Any], bytes]:
    """What is to be kept about the object, and its bytes."""
    _, first, second, _ = body.split(b"--" + boundary, 3)
    about = json.loads(first.partition(b"\r\n\r\n")[2])
    head = second.partition(b"\r\n\r\n")[0].decode().lower()
    about.setdefault("contentType", head.partition("content-type:")[2].strip())
    return about, second.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
