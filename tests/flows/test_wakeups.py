"""Rings between processes, over a real Redis and a real PostgreSQL."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
from sqlalchemy.exc import OperationalError

from flask_rindle.events import channel as channels
from flask_rindle.events.base import Topic
from flask_rindle.events.channel import ReconnectingChannel
from flask_rindle.events.memory import ChangeBell, SharedWakeups
from flask_rindle.events.open import open_channel
from flask_rindle.signals import asset_state_change

REDIS_URL = "redis://127.0.0.1:6379/0"

OTHER_PROCESS = """
import sys
from flask_rindle.events import postgresql, redis
from flask_rindle.events.base import Topic
from flask_rindle.events.open import open_channel

url, redis.NAME, postgresql.NAME = sys.argv[1:]
channel = open_channel(url)
for topic in Topic:
    channel.listen(topic, lambda topic=topic: print(topic.value, flush=True))
for line in sys.stdin:
    channel.publish(Topic(line.strip()))
channel.close()
"""


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that another thread or process brings about, 30 seconds at most."""
    ends_at = time.monotonic() + 30
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < ends_at, "the condition did not come about"
        pause.wait(0.005)


def needs(kind: str, error: Exception) -> None:
    if os.environ.get("CI") or os.environ.get("RINDLE_REQUIRE_ALL"):
        raise error
    pytest.skip(f"no {kind} server on this machine: {error}")


@dataclass
class Server:
    """A server, and what its administrator can do."""

    kind: str
    url: str
    name: str

    def send(self, payload: str) -> None:
        """Send something that no channel would."""
        if self.kind == "redis":
            with redis.Redis.from_url(self.url) as client:
                client.publish(self.name, payload)
            return
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("SELECT pg_notify(%s, %s)", [self.name, payload])

    def connections(self, *, listening: bool) -> list[Any]:
        if self.kind == "redis":
            with redis.Redis.from_url(REDIS_URL) as client:
                clients = [row for row in client.client_list() if row["name"] == self.name]
            return [row["id"] for row in clients if (row["sub"] != "0") is listening]
        query = "SELECT pid FROM pg_stat_activity WHERE application_name = %s AND query LIKE %s"
        what = ["flask-rindle", "LISTEN%" if listening else "%pg_notify%"]
        with psycopg.connect(self.url, autocommit=True) as connection:
            rows = connection.execute(f"{query} AND datname = current_database()", what).fetchall()
        return [row[0] for row in rows]

    def kill(self, *, listening: bool) -> None:
        """Hang up on the channel's connections of one sort."""
        ids = self.connections(listening=listening)
        assert ids
        for one in ids:
            if self.kind == "redis":
                with redis.Redis.from_url(REDIS_URL) as client:
                    client.client_kill_filter(_id=one)
            else:
                with psycopg.connect(self.url, autocommit=True) as connection:
                    connection.execute("SELECT pg_terminate_backend(%s)", [one])


@pytest.fixture(params=["redis", "postgresql"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Each server in turn, under a name that no other test run hears."""
    name = f"rindle_{uuid.uuid4().hex[:12]}"
    monkeypatch.setattr("flask_rindle.events.redis.NAME", name)
    monkeypatch.setattr("flask_rindle.events.postgresql.NAME", name)
    monkeypatch.setattr(channels, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(channels, "READ_SECONDS", 0.02)
    if request.param == "redis":
        try:
            with redis.Redis.from_url(REDIS_URL) as client:
                client.ping()
        except redis.ConnectionError as error:
            needs("redis", error)
        return Server("redis", f"{REDIS_URL}?client_name={name}", name)
    try:
        url = request.getfixturevalue("databases")("postgresql")
    except OperationalError as error:
        needs("postgresql", error)
    return Server("postgresql", url.replace("+psycopg", ""), name)


@pytest.fixture
def make_channel(server: Server) -> Iterator[Callable[..., ReconnectingChannel]]:
    """`make_channel()`: one that is closed after the test; two of them in one process hear each other."""
    made: list[ReconnectingChannel] = []

    def make(url: str = server.url) -> ReconnectingChannel:
        channel = open_channel(url)
        assert channel is not None
        made.append(channel)
        return channel

    yield make
    for channel in made:
        channel.close()


@dataclass
class Ears:
    """What a channel hears, by topic. Connecting rings each once."""

    channel: ReconnectingChannel
    rings: dict[Topic, int] = field(default_factory=lambda: dict.fromkeys(Topic, 0))

    def __post_init__(self) -> None:
        self.channel.listen(Topic.JOBS, self.hear_jobs)
        self.channel.listen(Topic.EVENTS, self.hear_events)
        until(lambda: all(self.rings.values()))
        self.forget()

    def hear_jobs(self) -> None:
        self.rings[Topic.JOBS] += 1

    def hear_events(self) -> None:
        self.rings[Topic.EVENTS] += 1

    def forget(self) -> None:
        self.rings.update(dict.fromkeys(Topic, 0))

    def heard(self, topic: Topic) -> None:
        until(lambda: self.rings[topic] > 0)


class Proxy:
    """A way to a server that can be frozen, so that a connection stays open and nothing comes."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (str(parts.hostname), int(parts.port or 0))
        self._listening = socket.create_server(("127.0.0.1", 0))
        port = self._listening.getsockname()[1]
        self.url = url.replace(f"{self._target[0]}:{self._target[1]}", f"127.0.0.1:{port}")
        self.flows = threading.Event()
        self.flows.set()
        self._sockets = [self._listening]
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, target: Callable[..., None], *args: object) -> None:
        self._threads.append(threading.Thread(target=target, args=args, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                far = socket.create_connection(self._target)
                self._sockets += [near, far]
                self._start(self._pump, near, far)
                self._start(self._pump, far, near)

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self.flows.wait()
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.flows.set()
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for one in self._sockets:
            one.close()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    proxy = Proxy(server.url)
    yield proxy
    proxy.close()


@pytest.fixture
def away(server: Server) -> str:
    """A URL where nobody listens, with a password."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    return f"{urlsplit(server.url).scheme}://user:hunter2@127.0.0.1:{port}/0"


@pytest.fixture
def other_process(server: Server) -> Iterator[subprocess.Popen[str]]:
    """A process that publishes the topics it is told, and prints those it hears."""
    command = [sys.executable, "-c", OTHER_PROCESS, server.url, server.name, server.name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert {process.stdout.readline(), process.stdout.readline()} == {"jobs\n", "events\n"}
        yield process
        process.communicate(timeout=30)
        assert process.returncode == 0


def tell(process: subprocess.Popen[str], topic: Topic) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{topic.value}\n")
    process.stdin.flush()


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_ring_is_heard_in_another_process(
    make_channel: Callable[[], ReconnectingChannel], other_process: subprocess.Popen[str]
) -> None:
    make_channel().publish(Topic.EVENTS)
    assert other_process.stdout is not None
    assert other_process.stdout.readline() == "events\n"


def test_a_bell_wakes_who_waits_in_another_process(
    make_channel: Callable[[], ReconnectingChannel], other_process: subprocess.Popen[str]
) -> None:
    bell = SharedWakeups(make_channel(), Topic.JOBS)
    connected = bell.wait(0, 30)
    assert connected == 1
    assert bell.wait(connected, 0) == connected
    tell(other_process, Topic.JOBS)
    assert bell.wait(connected, 30) == connected + 1
    bell.ring()
    assert other_process.stdout is not None
    assert other_process.stdout.readline() == "jobs\n"


def test_a_change_is_heard_in_another_process(
    make_channel: Callable[[], ReconnectingChannel], other_process: subprocess.Popen[str]
) -> None:
    bell = ChangeBell(make_channel())
    asset_state_change.send("asset")
    assert other_process.stdout is not None
    assert other_process.stdout.readline() == "events\n"
    seen = bell.wait(1, 30)
    tell(other_process, Topic.EVENTS)
    assert bell.wait(seen, 30) == seen + 1


def test_a_process_does_not_hear_itself(make_channel: Callable[[], ReconnectingChannel]) -> None:
    ears = Ears(make_channel())
    ears.channel.publish(Topic.JOBS)
    make_channel().publish(Topic.EVENTS)
    ears.heard(Topic.EVENTS)
    assert ears.rings == {Topic.JOBS: 0, Topic.EVENTS: 1}


def test_topics_are_kept_apart(make_channel: Callable[[], ReconnectingChannel]) -> None:
    ears, other = Ears(make_channel()), make_channel()
    other.publish(Topic.JOBS)
    other.publish(Topic.JOBS)
    other.publish(Topic.EVENTS)
    ears.heard(Topic.EVENTS)
    assert ears.rings == {Topic.JOBS: 2, Topic.EVENTS: 1}


def test_what_no_channel_sends_is_ignored(
    server: Server, make_channel: Callable[[], ReconnectingChannel], caplog: pytest.LogCaptureFixture
) -> None:
    ears = Ears(make_channel())
    for payload in ("jobs", "jobs ", " ", "JOBS other", "weather other", "{}", "ü", "jobs" * 1000):
        server.send(payload)
    make_channel().publish(Topic.EVENTS)
    ears.heard(Topic.EVENTS)
    assert ears.rings == {Topic.JOBS: 0, Topic.EVENTS: 1}
    assert warnings_of(caplog) == []


def test_who_listens_later_is_rung_once(make_channel: Callable[[], ReconnectingChannel]) -> None:
    """A ring between its last look and its listening would be lost otherwise."""
    ears, rings = Ears(make_channel()), list[int]()
    hear = lambda: rings.append(1)  # noqa: E731 - one object, given twice
    ears.channel.listen(Topic.JOBS, hear)
    ears.channel.listen(Topic.JOBS, hear)
    assert rings == [1]
    make_channel().publish(Topic.JOBS)
    until(lambda: len(rings) == 2)


def test_a_lost_listener_comes_back_and_rings_once(
    server: Server, make_channel: Callable[[], ReconnectingChannel], caplog: pytest.LogCaptureFixture
) -> None:
    ears = Ears(make_channel())
    for _ in range(2):
        server.kill(listening=True)
        ears.heard(Topic.JOBS)
        ears.heard(Topic.EVENTS)
        assert ears.rings == {Topic.JOBS: 1, Topic.EVENTS: 1}
        make_channel().publish(Topic.JOBS)
        until(lambda: ears.rings == {Topic.JOBS: 2, Topic.EVENTS: 1})
        ears.forget()
    assert len(warnings_of(caplog)) == 2


def test_a_lost_sender_rings_all_the_same(
    server: Server, make_channel: Callable[[], ReconnectingChannel], caplog: pytest.LogCaptureFixture
) -> None:
    ears, other = Ears(make_channel()), make_channel()
    other.publish(Topic.JOBS)
    server.kill(listening=False)
    until(lambda: not server.connections(listening=False))
    other.publish(Topic.EVENTS)
    ears.heard(Topic.EVENTS)
    assert warnings_of(caplog) == []


def test_a_server_that_is_away_costs_one_warning_and_no_time(
    away: str, make_channel: Callable[[str], ReconnectingChannel], caplog: pytest.LogCaptureFixture
) -> None:
    channel = make_channel(away)
    began_at = time.monotonic()
    for _ in range(100):
        channel.publish(Topic.JOBS)
    assert time.monotonic() - began_at < 1
    (warning,) = warnings_of(caplog)
    assert "other processes learn of news later" in warning


def test_a_listener_of_a_server_that_is_away_warns_once(
    away: str,
    make_channel: Callable[[str], ReconnectingChannel],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    channel = make_channel(away)
    tries, connect = list[int](), channel.connect_listener
    monkeypatch.setattr(channel, "connect_listener", lambda: tries.append(1) or connect())
    channel.listen(Topic.JOBS, lambda: None)
    until(lambda: len(tries) == 4)
    (warning,) = warnings_of(caplog)
    assert "this process learn" in warning


def test_a_server_that_is_silent_holds_nobody_up_for_long(
    server: Server,
    proxy: Proxy,
    make_channel: Callable[[str], ReconnectingChannel],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both for a connection that is there already and for a new one."""
    monkeypatch.setattr(f"flask_rindle.events.{server.kind}.SEND_SECONDS", 0.2)
    known, new = make_channel(proxy.url), make_channel(proxy.url)
    connects, connect = list[int](), known.connect_sender
    monkeypatch.setattr(known, "connect_sender", lambda: connects.append(1) or connect())
    known.publish(Topic.JOBS)
    assert warnings_of(caplog) == []
    proxy.flows.clear()
    for channel in (known, new):
        caplog.clear()
        began_at = time.monotonic()
        channel.publish(Topic.JOBS)
        assert 0.1 < time.monotonic() - began_at < 2
        assert len(warnings_of(caplog)) == 1
        assert "TimeoutError" in caplog.text
    assert len(connects) == 1


def test_the_breaker_closes_when_the_server_is_back(
    server: Server,
    proxy: Proxy,
    make_channel: Callable[..., ReconnectingChannel],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(f"flask_rindle.events.{server.kind}.SEND_SECONDS", 0.2)
    caplog.set_level(logging.INFO, "flask_rindle")
    now = [1000.0]
    ears, other = Ears(make_channel()), make_channel(proxy.url)
    monkeypatch.setattr(other, "_monotonic", lambda: now[0])
    proxy.flows.clear()
    other.publish(Topic.JOBS)
    proxy.flows.set()
    other.publish(Topic.JOBS)
    now[0] += 4.9
    other.publish(Topic.JOBS)
    now[0] += 0.2
    other.publish(Topic.EVENTS)
    ears.heard(Topic.EVENTS)
    assert ears.rings == {Topic.JOBS: 0, Topic.EVENTS: 1}
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_closing_ends_the_thread_and_the_connections(
    server: Server, make_channel: Callable[[], ReconnectingChannel]
) -> None:
    before = set(threading.enumerate())
    ears = Ears(make_channel())
    (thread,) = set(threading.enumerate()) - before
    assert thread.daemon
    ears.channel.publish(Topic.JOBS)
    assert server.connections(listening=True)
    assert server.connections(listening=False)
    ears.channel.close()
    ears.channel.close()
    assert not thread.is_alive()
    ears.channel.publish(Topic.JOBS)
    ears.channel.listen(Topic.JOBS, print)
    assert set(threading.enumerate()) == before
    until(lambda: not server.connections(listening=True) and not server.connections(listening=False))


def test_closing_does_not_wait_for_a_server_that_is_away(
    away: str, make_channel: Callable[[str], ReconnectingChannel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "FIRST_PAUSE_SECONDS", 60)
    channel = make_channel(away)
    tried, connect = threading.Event(), channel.connect_listener
    monkeypatch.setattr(channel, "connect_listener", lambda: tried.set() or connect())
    before = set(threading.enumerate())
    channel.listen(Topic.JOBS, print)
    (thread,) = set(threading.enumerate()) - before
    assert tried.wait(30)
    began_at = time.monotonic()
    channel.close()
    assert time.monotonic() - began_at < 1
    assert not thread.is_alive()


def in_a_fork(work: Callable[[], bool]) -> bool:
    """Whether `work` returns true in a forked process."""
    with warnings.catch_warnings():
        # Newer Pythons warn that threads do not survive; that they are started anew is what is tested.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_fork_listens_and_rings_on_connections_of_its_own(
    server: Server, make_channel: Callable[[], ReconnectingChannel]
) -> None:
    ears = Ears(make_channel())
    ears.channel.publish(Topic.JOBS)
    of_the_parent = {*server.connections(listening=True), *server.connections(listening=False)}

    def ring_and_hear() -> bool:
        child, rings = ears.channel, dict(ears.rings)
        child.listen(Topic.JOBS, ears.hear_jobs)
        until(lambda: ears.rings[Topic.JOBS] == rings[Topic.JOBS] + 1)
        child.publish(Topic.EVENTS)
        both = {*server.connections(listening=True), *server.connections(listening=False)}
        child.close()
        return of_the_parent < both and len(both) == 4

    assert in_a_fork(ring_and_hear)
    ears.heard(Topic.EVENTS)  # of the child, which is not taken for the parent
    until(lambda: of_the_parent == {*server.connections(listening=True), *server.connections(listening=False)})
    make_channel().publish(Topic.JOBS)
    ears.heard(Topic.JOBS)


def test_a_fork_inherits_no_held_lock(make_channel: Callable[[], ReconnectingChannel]) -> None:
    """Another thread of the parent may be just publishing or listening."""
    ears = Ears(make_channel())
    end = ears.channel._ends[os.getpid()]

    def ring_and_hear() -> bool:
        heard = threading.Event()
        ears.channel.publish(Topic.EVENTS)
        ears.channel.listen(Topic.JOBS, heard.set)
        return heard.wait(30)

    with end.ear._lock, end.speaker._lock:
        assert in_a_fork(ring_and_hear)
    ears.heard(Topic.EVENTS)


def test_no_secret_is_shown(
    away: str, make_channel: Callable[[str], ReconnectingChannel], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    channel = make_channel(away)
    channel.publish(Topic.JOBS)
    channel.listen(Topic.JOBS, print)
    until(lambda: len(warnings_of(caplog)) == 2)
    end = channel._ends[os.getpid()]
    shown = caplog.text + repr((channel, end, end.ear, end.speaker)) + str(channel)
    assert "hunter2" not in shown
    assert str(urlsplit(away).port) not in shown
    assert end.sender_id not in shown
    assert not any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize("server", ["redis"], indirect=True)
def test_a_silent_redis_is_asked_and_then_given_up(
    proxy: Proxy, make_channel: Callable[..., ReconnectingChannel], caplog: pytest.LogCaptureFixture
) -> None:
    channel: Any = make_channel(proxy.url)
    now = [1000.0]
    channel._monotonic = lambda: now[0]
    listener = channel.connect_listener()
    now[0] += 31
    assert listener.receive(0) == ()  # asks
    assert listener.receive(30) == ()  # is answered
    now[0] += 31
    assert listener.receive(0) == ()
    assert listener.receive(30) == ()
    proxy.flows.clear()
    now[0] += 31
    assert listener.receive(0.01) == ()
    now[0] += 31
    with pytest.raises(TimeoutError):
        listener.receive(0.01)
    listener.close()


@pytest.mark.parametrize("server", ["postgresql"], indirect=True)
def test_a_silent_postgresql_is_noticed_by_the_kernel(make_channel: Callable[..., ReconnectingChannel]) -> None:
    channel: Any = make_channel()
    listener = channel.connect_listener()
    with socket.socket(fileno=os.dup(listener._link._connection.socket)) as line:
        assert line.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        idle, interval, count = (line.getsockopt(socket.IPPROTO_TCP, option) for option in options)
    assert idle + interval * count == 60
    listener.close()
