"""What channels over a server have in common: one thread that hears, one connection that rings, and outages.

All that a process uses is kept under its id. A fork therefore starts with nothing, and never speaks on a
connection, or waits for a lock, that it has inherited.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import ClassVar, Protocol

from flask_rindle.events.base import Topic

log = logging.getLogger("flask_rindle.events")

NAME = "rindle"  # of the channel, on every server
SEND_SECONDS = 1.0  # connecting may take as long again
LISTEN_SECONDS = 5.0  # nobody waits for the listener, so a slow server gets its time
READ_SECONDS = 0.25  # how late a listener notices that it is to end
CLOSE_SECONDS = 1.0  # a thread that is just connecting ends by itself a little later
BREAK_SECONDS = 5.0
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0


class Sender(Protocol):
    """A connection that rings."""

    def send(self, payload: str) -> None:
        """Hand a payload over to the server, within `SEND_SECONDS`."""
        ...

    def close(self) -> None: ...


class Listener(Protocol):
    """A connection on which every ring arrives that is sent after it was opened."""

    def receive(self, seconds: float) -> Iterable[str]:
        """What has arrived, after waiting for it for a while. Raises when the connection is gone."""
        ...

    def close(self) -> None: ...


class ReconnectingChannel(ABC):
    """Carries rings over a server that may be away; an adapter says how to connect."""

    server: ClassVar[str]

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Connects to nothing."""
        self._monotonic = monotonic
        self._ends: dict[int, _ProcessEnd] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    @abstractmethod
    def connect_sender(self) -> Sender:
        """A connection that rings, made within `SEND_SECONDS`."""

    @abstractmethod
    def connect_listener(self) -> Listener:
        """A connection that hears, made within `LISTEN_SECONDS`."""

    def publish(self, topic: Topic) -> None:
        """Ring in all other processes. Never raises; while the server is away, it is tried every five seconds."""
        end = self._end()
        end.speaker.say(f"{topic.value} {end.sender_id}")

    def listen(self, topic: Topic, hear: Callable[[], object]) -> None:
        """Call `hear` for every ring of another process, and after every (re)connection. Safe to repeat."""
        self._end().ear.add(topic, hear)

    def close(self) -> None:
        """End this process's thread and connections for good."""
        end = self._end()
        end.ear.close()
        end.speaker.close()

    def _end(self) -> _ProcessEnd:
        pid = os.getpid()
        # setdefault is atomic; a lock could be held by a thread that a fork did not take along.
        return self._ends.get(pid) or self._ends.setdefault(pid, _ProcessEnd(self, self._monotonic))


class _ProcessEnd:
    def __init__(self, channel: ReconnectingChannel, monotonic: Callable[[], float]) -> None:
        self.sender_id = secrets.token_hex(8)
        self.speaker = _Speaker(channel.connect_sender, _Outage(channel.server, "other processes"), monotonic)
        self.ear = _Ear(self.sender_id, channel.connect_listener, _Outage(channel.server, "this process"))


class _Outage:
    """Told once when it begins and once when it ends. Names the error's class only: its text may hold an address."""

    def __init__(self, server: str, who: str) -> None:
        self._server = server
        self._who = who
        self._is_on = False

    def begin(self, error: Exception) -> None:
        if not self._is_on:
            self._is_on = True
            problem = type(error).__name__
            log.warning("%s failed (%s); until it is back, %s learn of news later", self._server, problem, self._who)

    def end(self) -> None:
        if self._is_on:
            self._is_on = False
            log.info("%s is back; %s learn of news at once", self._server, self._who)


class _Speaker:
    def __init__(self, connect: Callable[[], Sender], outage: _Outage, monotonic: Callable[[], float]) -> None:
        self._connect = connect
        self._outage = outage
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._connection: Sender | None = None
        self._quiet_until: float | None = None
        self._is_closed = False

    def say(self, payload: str) -> None:
        if self._is_quiet() or not self._lock.acquire(timeout=SEND_SECONDS):
            return
        try:
            if not self._is_quiet():  # whoever had the lock may have met a failure
                self._send(payload)
                self._quiet_until = None
                self._outage.end()
        except Exception as error:  # noqa: BLE001 - whatever a driver raises, the caller's change is committed
            self._drop()
            self._quiet_until = self._monotonic() + BREAK_SECONDS
            self._outage.begin(error)
        finally:
            self._lock.release()

    def close(self) -> None:
        self._is_closed = True
        with self._lock:
            self._drop()

    def _is_quiet(self) -> bool:
        return self._is_closed or (self._quiet_until is not None and self._monotonic() < self._quiet_until)

    def _send(self, payload: str) -> None:
        if self._connection is not None:
            try:
                self._connection.send(payload)
            except TimeoutError:
                raise
            except Exception:  # noqa: BLE001 - servers hang up on idle connections, which is no outage
                self._drop()
            else:
                return
        self._connection = self._connect()
        self._connection.send(payload)

    def _drop(self) -> None:
        if self._connection is not None:
            with suppress(Exception):
                self._connection.close()
            self._connection = None


class _Ear:
    def __init__(self, own_id: str, connect: Callable[[], Listener], outage: _Outage) -> None:
        self._own_id = own_id
        self._connect = connect
        self._outage = outage
        self._lock = threading.Lock()
        self._listeners: set[tuple[Topic, Callable[[], object]]] = set()
        self._thread: threading.Thread | None = None
        self._is_connected = False
        self._closing = threading.Event()
        self._pause = FIRST_PAUSE_SECONDS

    def add(self, topic: Topic, hear: Callable[[], object]) -> None:
        if (topic, hear) in self._listeners or self._closing.is_set():
            return
        with self._lock:
            self._listeners.add((topic, hear))
            is_connected = self._is_connected
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="rindle-channel", daemon=True)
                self._thread.start()
        if is_connected:  # otherwise connecting rings
            _call(hear)

    def close(self) -> None:
        self._closing.set()
        with self._lock:
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._stay_connected()
            except Exception as error:  # noqa: BLE001 - whatever a driver raises, the next try may succeed
                self._outage.begin(error)
            self._closing.wait(self._pause)
            self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)

    def _stay_connected(self) -> None:
        connection = self._connect()
        try:
            self._pause = FIRST_PAUSE_SECONDS
            self._outage.end()
            self._ring_all()
            while not self._closing.is_set():
                for payload in connection.receive(READ_SECONDS):
                    self._take(payload)
        finally:
            self._is_connected = False
            with suppress(Exception):
                connection.close()

    def _ring_all(self) -> None:
        with self._lock:
            self._is_connected = True
            listeners = list(self._listeners)
        for _, hear in listeners:
            _call(hear)

    def _take(self, payload: str) -> None:
        topic, _, sender_id = payload.partition(" ")
        if not sender_id or sender_id == self._own_id:
            return
        with self._lock:
            hears = [hear for wanted, hear in self._listeners if wanted.value == topic]
        for hear in hears:
            _call(hear)


def _call(hear: Callable[[], object]) -> None:
    try:
        hear()
    except Exception:
        log.exception("a ring was heard and met an error of its listener's; going on")
