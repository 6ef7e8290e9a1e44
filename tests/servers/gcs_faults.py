"""Trouble by script, for the fake's requests: statuses, silence, resets, and success whose reply is lost."""

from __future__ import annotations

import socket
import struct
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Event
from typing import Literal

from gcs_state import Refusal
from werkzeug.wrappers import Request, Response

CUT = "servers.cut"  # in the environment of a request whose body breaks off after so many bytes
REASONS = {403: "forbidden", 429: "rateLimitExceeded", 401: "authError"}


@dataclass(frozen=True)
class Fault:
    """What happens instead of an answer.

    `status`: this status, and nothing done. `silence`: no answer until the client gives up. `reset`: the connection
    is reset, and nothing done. `lost`: all is done, and the connection reset before the answer. `cut`: the
    connection is reset after `after` bytes of the body, whichever way it goes. `meanwhile`: somebody does something
    just before the request is looked at.
    """

    kind: Literal["status", "silence", "reset", "lost", "cut", "meanwhile"]
    status: int = 0
    reason: str = ""
    after: int = 0
    act: Callable[[], object] = int


def status(code: int, reason: str = "") -> Fault:
    return Fault("status", status=code, reason=reason or REASONS.get(code, "backendError"))


def cut(after: int) -> Fault:
    return Fault("cut", after=after)


def meanwhile(act: Callable[[], object]) -> Fault:
    return Fault("meanwhile", act=act)


SILENCE = Fault("silence")
RESET = Fault("reset")
LOST = Fault("lost")


class Script:
    """Faults by the name of the operation, used up in order; those of `always` stay."""

    def __init__(self) -> None:
        self._faults: dict[str, deque[Fault | None]] = defaultdict(deque)
        self.always: dict[str, Fault] = {}
        self.over = Event()

    def add(self, operation: str, *faults: Fault | None) -> None:
        self._faults[operation].extend(faults)

    def take(self, operation: str) -> Fault | None:
        waiting = self._faults[operation]
        return waiting.popleft() if waiting else self.always.get(operation)

    def before(self, fault: Fault, request: Request) -> None:
        """What happens before anything is done."""
        fault.act()
        if fault.kind == "status":
            raise Refusal(fault.status, fault.reason, "by script")
        if fault.kind == "cut" and request.method == "PUT":
            request.environ[CUT] = fault.after
        if fault.kind == "silence":
            self.over.wait(10)
        if fault.kind in ("silence", "reset"):
            reset(request)

    def after(self, fault: Fault, request: Request, response: Response) -> Response:
        """What happens to the answer."""
        if fault.kind == "lost":
            reset(request)
        if fault.kind == "cut":
            response.response = _cut(request, response.get_data(), fault.after)
        return response


def reset(request: Request) -> None:
    """Have the connection reset when the request is over, which it is."""
    connection: socket.socket = request.environ["werkzeug.socket"]
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.shutdown(socket.SHUT_RD)
    raise ConnectionResetError


def _cut(request: Request, body: bytes, after: int) -> Iterator[bytes]:
    yield body[:after]
    reset(request)
