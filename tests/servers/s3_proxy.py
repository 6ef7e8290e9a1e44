"""A proxy in front of an S3 server that breaks requests by script, as networks and servers do.

    with Proxy(server.port) as proxy:
        proxy.script = [None, Answer(503, "SlowDown"), ReplyLost()]

The first request passes, the second is answered without the server, the third reaches it and its answer is
lost; everything after the script passes. `proxy.rule` decides on each request that the script says nothing about.
"""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

ERROR = """<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>{code}</Code><Message>by script</Message><RequestId>1</RequestId></Error>"""


@dataclass(frozen=True)
class Answer:
    """The server says no."""

    status: int
    code: str


@dataclass(frozen=True)
class Silence:
    """Nobody answers, until the client goes away."""


@dataclass(frozen=True)
class Reset:
    """The connection breaks before the server has seen the request."""


@dataclass(frozen=True)
class ReplyLost:
    """The server does its work, and the connection breaks."""


@dataclass(frozen=True)
class Cut:
    """The connection breaks after so many bytes of the answer's body."""

    after: int


Fault = Answer | Silence | Reset | ReplyLost | Cut | None


@dataclass(frozen=True)
class Asked:
    """One request that came in."""

    method: str
    target: str
    headers: dict[str, str]
    size: int

    def __str__(self) -> str:
        return f"{self.method} {self.target}"


class Proxy:
    """Forwards to a port of this machine, but for what its script says."""

    def __init__(self, port: int) -> None:
        self.script: list[Fault] = []
        self.rule: Callable[[Asked], Fault] = lambda asked: None
        self.asked: list[Asked] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._server = _Server(self, port)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def next_fault(self, asked: Asked) -> Fault:
        with self._lock:
            self.asked.append(asked)
            return self.script.pop(0) if self.script else self.rule(asked)

    def wait_until_over(self) -> None:
        self._over.wait(30)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.hang_up()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # they are waited for, so that nothing is left when the proxy is over

    def __init__(self, proxy: Proxy, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.proxy = proxy
        self.port = port
        self.lines: set[socket.socket] = set()

    def hang_up(self) -> None:
        """End the connections that clients keep open for later."""
        for line in tuple(self.lines):
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def relay(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.proxy.next_fault(Asked(self.command, self.path, dict(self.headers), len(body)))
        if fault is None or isinstance(fault, Cut):
            self._pass_on(body, fault)
        elif isinstance(fault, Answer):
            self._answer(fault)
        else:
            self._break(body, fault)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = relay  # noqa: N815

    def _pass_on(self, body: bytes, fault: Cut | None) -> None:
        status, headers, data = self._ask(body)
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        if self.command != "HEAD" and "content-length" not in {name.lower() for name, _ in headers}:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if isinstance(fault, Cut):
            self.wfile.write(data[: fault.after])
            self._reset()
        else:
            self.wfile.write(data)

    def _answer(self, fault: Answer) -> None:
        data = b"" if self.command == "HEAD" else ERROR.format(code=fault.code).encode()
        self.send_response_only(fault.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _break(self, body: bytes, fault: Fault) -> None:
        if isinstance(fault, ReplyLost):
            self._ask(body)
        if isinstance(fault, Silence):
            self.server.proxy.wait_until_over()
        self._reset()

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
        try:
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _reset(self) -> None:
        """End the connection as a crash does: the client's next read fails, and does not just end."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def finish(self) -> None:
        with suppress(OSError):
            super().finish()

    def log_message(self, *_: Any) -> None:
        return

    def handle(self) -> None:
        self.server.lines.add(self.connection)
        try:
            with suppress(OSError):  # the client did not wait
                super().handle()
        finally:
            self.server.lines.discard(self.connection)
