"""Files of storages that have no HTTP server of their own: presigned PUT, and ranged delivery (RFC 9110).

No database query, no session: everything that is needed stands in the signed token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from http import HTTPStatus
from typing import BinaryIO, cast

from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import is_resource_modified, parse_range_header

from flask_rindle import signals
from flask_rindle.engine import Engine, current_engine
from flask_rindle.errors import ChecksumMismatch, NotFound, SizeMismatch, TypeRefused, UploadIncomplete
from flask_rindle.links import FileGrant, PutGrant
from flask_rindle.security.mime import canonical_type
from flask_rindle.security.names import content_disposition
from flask_rindle.storage.base import StoredObject
from flask_rindle.types import ByteRange

YEAR_SECONDS = 31_536_000
# Whatever it is, it may not run, load or frame anything from our origin.
CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"


def add_routes(blueprint: Blueprint) -> None:
    """Put the routes on the blueprint."""
    blueprint.add_url_rule("/files/<token>", view_func=put_file, methods=["PUT"])
    blueprint.add_url_rule("/files/<token>/<filename>", view_func=get_file, methods=["GET"])


def put_file(token: str) -> ResponseReturnValue:
    """Store the body, if it is just what the link was signed for."""
    engine = current_engine()
    grant = engine.links.open_put(token)
    # What was signed counts, not what the host allows in its own forms; one more, so that an exact end can be seen.
    request.max_content_length = grant.size_bytes + 1
    _check_headers(grant)
    body = _Body(cast("BinaryIO", request.stream), grant)
    stored = engine.proxied.write_staged(
        grant.storage, grant.key, cast("BinaryIO", body), content_type=grant.content_type
    )
    return "", HTTPStatus.OK, {"ETag": f'"{stored.etag}"', "Cache-Control": "no-store"}


def _check_headers(grant: PutGrant) -> None:
    declared = canonical_type(request.headers.get("Content-Type"))
    if declared != grant.content_type:
        raise TypeRefused(declared, [grant.content_type])
    if request.content_length is not None and request.content_length != grant.size_bytes:
        raise SizeMismatch(grant.size_bytes, request.content_length)


class _Body:
    """A request body that ends in an error unless it has the size and checksum that were signed."""

    def __init__(self, stream: BinaryIO, grant: PutGrant) -> None:
        self._stream = stream
        self._grant = grant
        self._seen_bytes = 0
        self._digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        chunk = self._receive(size)
        self._seen_bytes += len(chunk)
        self._digest.update(chunk)
        if self._seen_bytes > self._grant.size_bytes or (not chunk and self._seen_bytes != self._grant.size_bytes):
            raise SizeMismatch(self._grant.size_bytes, self._seen_bytes)
        checksum = self._grant.checksum
        if not chunk and checksum is not None and self._digest.hexdigest() != checksum.hex:
            raise ChecksumMismatch(checksum.algorithm)
        return chunk

    def _receive(self, size: int) -> bytes:
        try:
            return self._stream.read(size)
        except RequestEntityTooLarge as error:
            raise SizeMismatch(self._grant.size_bytes, self._seen_bytes + 1) from error
        except Exception as error:
            # Every server has errors of its own for a body that breaks off or makes no sense.
            raise UploadIncomplete from error


def get_file(token: str, filename: str) -> ResponseReturnValue:
    """The file, whole or one range of it."""
    engine = current_engine()
    grant = engine.links.open_file(token)
    storage = engine.storages.get(grant.storage)
    if storage is None:
        raise NotFound("file", filename)
    stored = storage.stat(grant.key)
    response = _answer(engine, grant, stored)
    _set_headers(engine, response, grant, stored)
    return response


def _answer(engine: Engine, grant: FileGrant, stored: StoredObject) -> Response:
    if not is_resource_modified(request.environ, etag=stored.etag, ignore_if_range=True):
        return Response(status=HTTPStatus.NOT_MODIFIED)
    wanted, is_satisfiable = _wanted_range(stored)
    if not is_satisfiable:
        return Response(
            status=HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            headers={"Content-Range": f"bytes */{stored.size_bytes}"},
        )
    whole = ByteRange(0, stored.size_bytes)
    part = wanted or whole
    length = (part.stop or 0) - part.start
    body: Iterator[bytes] | bytes = b""
    if request.method != "HEAD":
        body = engine.storages[grant.storage].read(grant.key, part)
    response = Response(body, status=HTTPStatus.PARTIAL_CONTENT if wanted else HTTPStatus.OK)
    response.content_length = length
    if wanted is not None:
        response.headers["Content-Range"] = f"bytes {part.start}-{(part.stop or 0) - 1}/{stored.size_bytes}"
        signals.delivery_range_request.send(grant.storage, offset=part.start, length=length, size=stored.size_bytes)
    return response


def _wanted_range(stored: StoredObject) -> tuple[ByteRange | None, bool]:
    """The one range that is asked for, or None for everything; and whether it can be given.

    Several ranges, other units and malformed headers get everything (RFC 9110, section 14.2).
    """
    header = parse_range_header(request.headers.get("Range"))
    if header is None or header.units != "bytes" or len(header.ranges) != 1 or not _if_range_holds(stored):
        return None, True
    start, stop = header.ranges[0]
    if start < 0 < stored.size_bytes:
        return ByteRange(max(stored.size_bytes + start, 0), stored.size_bytes), True
    if start < 0 or start >= stored.size_bytes:
        return None, False
    return ByteRange(start, min(stop or stored.size_bytes, stored.size_bytes)), True


def _if_range_holds(stored: StoredObject) -> bool:
    condition = request.headers.get("If-Range")
    return condition is None or condition.strip() == f'"{stored.etag}"'


def _set_headers(engine: Engine, response: Response, grant: FileGrant, stored: StoredObject) -> None:
    headers = response.headers
    if response.status_code != HTTPStatus.NOT_MODIFIED:
        headers["Content-Type"] = grant.content_type
        headers["Content-Disposition"] = content_disposition(grant.disposition, grant.filename)
    headers["Accept-Ranges"] = "bytes"
    headers["ETag"] = f'"{stored.etag}"'
    headers["Cache-Control"] = _cache_control(engine, grant)
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    headers["Cross-Origin-Resource-Policy"] = "cross-origin" if grant.expires_at is None else "same-origin"


def _cache_control(engine: Engine, grant: FileGrant) -> str:
    """A private link may be kept as long as it is good for, a public one for ever: keys never change their bytes."""
    if grant.expires_at is None:
        return f"public, max-age={YEAR_SECONDS}, immutable"
    left = max(int(grant.expires_at - engine.clock().timestamp()), 0)
    return f"private, max-age={left}"
