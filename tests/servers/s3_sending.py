"""Requests as a browser makes them: at a URL, with the headers that it is told to send."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Reply:
    """What came back; names of headers in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def send(
    method: str,
    url: str,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    *,
    port: int | None = None,
) -> Reply:
    """One request, with just these headers and Host. `port`: of this machine, wherever the URL leads."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection("127.0.0.1", port or parts.port or 80, timeout=30)
    try:
        connection.putrequest(method, f"{parts.path}?{parts.query}", skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", parts.netloc)
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def query(url: str) -> dict[str, str]:
    """The query of a URL, each name once."""
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query, strict_parsing=True).items()}


def signed_headers(url: str) -> set[str]:
    """The names of the headers that the signature is about."""
    return set(query(url)["X-Amz-SignedHeaders"].split(";"))
