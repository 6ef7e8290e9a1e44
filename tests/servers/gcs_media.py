"""The bytes of an object as an answer, whole or a range, the same in both of the fake's APIs."""

from __future__ import annotations

import re

from gcs_state import Blob, Refusal
from werkzeug.wrappers import Request, Response

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


def send_bytes(request: Request, blob: Blob) -> Response:
    headers = {
        "X-Goog-Generation": str(blob.generation),
        "X-Goog-Hash": f"crc32c={blob.crc32c},md5={blob.md5}",
        "X-Goog-Stored-Content-Length": str(len(blob.data)),
        "Accept-Ranges": "bytes",
        "ETag": f'"{blob.generation}"',
    }
    if blob.about.get("cacheControl"):
        headers["Cache-Control"] = blob.about["cacheControl"]
    if blob.about.get("contentDisposition"):
        headers["Content-Disposition"] = blob.about["contentDisposition"]
    if blob.about.get("contentEncoding"):
        headers["Content-Encoding"] = blob.about["contentEncoding"]
    data, status = blob.data, 200
    match = _RANGE.fullmatch(request.headers.get("Range", ""))
    if match:
        start, last = int(match[1]), min(int(match[2] or len(data)), len(data) - 1)
        if start >= len(data):
            raise Refusal(416, "requestedRangeNotSatisfiable", "Request range not satisfiable")
        data, status = data[start : last + 1], 206
        headers["Content-Range"] = f"bytes {start}-{last}/{len(blob.data)}"
    return Response(data, status, headers, content_type=blob.about.get("contentType", "application/octet-stream"))
