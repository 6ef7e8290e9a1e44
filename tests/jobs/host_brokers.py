"""Real brokers that are ours alone, and a road to them that can be cut."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import redis
from host_site import needs
from kombu import Connection

from flask_rindle.outbox import Queue

REDIS_URL = "redis://127.0.0.1:6379/0"
RABBITMQ = "127.0.0.1:5672"


@dataclass(frozen=True)
class Broker:
    """A broker that is ours alone, and what it is called."""

    kind: str
    url: str
    transport: dict[str, Any]

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", 6379 if self.kind == "redis" else 5672)

    def through(self, port: int) -> str:
        """The URL by another road."""
        return self.url.replace(f":{self.address[1]}", f":{port}")


@contextmanager
def redis_broker() -> Iterator[Broker]:
    prefix = f"rindle_{uuid.uuid4().hex[:12]}:"
    with redis.Redis.from_url(REDIS_URL) as client:
        try:
            client.ping()
        except redis.ConnectionError as error:
            needs("redis", error)
        yield Broker("redis", REDIS_URL, {"global_keyprefix": prefix})
        for key in client.scan_iter(match=f"*{prefix}*", count=1000):
            client.delete(key)


@contextmanager
def rabbitmq_broker() -> Iterator[Broker]:
    try:
        with Connection(f"amqp://guest:guest@{RABBITMQ}//", connect_timeout=3) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0)
    except Exception as error:  # noqa: BLE001 - whatever its client raises
        needs("rabbitmq", error)
    vhost = f"rindle_{uuid.uuid4().hex[:12]}"
    ours = _rabbitmqctl("add_vhost", vhost) and _rabbitmqctl("set_permissions", "-p", vhost, "guest", ".*", ".*", ".*")
    broker = Broker("rabbitmq", f"amqp://guest:guest@{RABBITMQ}/{vhost if ours else '/'}", {})
    if ours:
        yield broker
        _rabbitmqctl("delete_vhost", vhost)
        return
    # Nobody here may make a virtual host: the common one, left as clean as it was met.
    _delete_queues(broker.url)
    yield broker
    _delete_queues(broker.url)


def _rabbitmqctl(*arguments: str) -> bool:
    program = shutil.which("rabbitmqctl") or "/usr/sbin/rabbitmqctl"
    try:
        return subprocess.run([program, "-q", *arguments], capture_output=True, timeout=60, check=False).returncode == 0
    except OSError:
        return False


def _delete_queues(url: str) -> None:
    with Connection(url) as connection, connection.channel() as channel:
        for name in (*map(str, Queue), "host_default"):
            channel.queue_delete(name)


class Road:
    """A port that leads to a broker, until it is cut: then it refuses, or it takes connections and stays silent."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._open: list[socket.socket] = []
        self._is_silent = False
        self._listener: socket.socket | None = None
        self.port = 0
        self.mend()

    def mend(self) -> None:
        self._hang_up()
        self._is_silent = False
        self._listen()

    def refuse(self) -> None:
        """Nobody listens there any more."""
        self._hang_up()

    def silence(self) -> None:
        """Connections are taken, and nothing ever comes."""
        self._hang_up()
        self._is_silent = True
        self._listen()

    close = refuse

    def _listen(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port), reuse_port=True)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _hang_up(self) -> None:
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                self._open.append(near)
                if self._is_silent:
                    continue
                far = socket.create_connection(self._target)
                self._open.append(far)
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=_carry, args=(one, other), daemon=True).start()


def _carry(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
