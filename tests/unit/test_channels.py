"""Channels between processes: what they do about trouble, what bells do with them, and which URL opens which."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from flask_rindle.errors import MissingExtra
from flask_rindle.events.base import Topic
from flask_rindle.events.channel import ReconnectingChannel
from flask_rindle.events.memory import ChangeBell, ProcessWakeups, SharedWakeups
from flask_rindle.events.open import find_url_problem, open_channel
from flask_rindle.signals import asset_state_change


class Away(Exception):
    """What a driver may raise, down to its text."""


class Board:
    """A server in memory: `is_up` is its plug, and every connection is counted."""

    def __init__(self) -> None:
        self.is_up = True
        self.connections = 0
        self.closed = 0
        self.sent: list[str] = []

    def send(self, payload: str) -> None:
        self.check()
        self.sent.append(payload)

    def receive(self, seconds: float) -> Iterable[str]:
        self.check()
        return ()

    def check(self) -> None:
        if not self.is_up:
            raise Away("secret")

    def close(self) -> None:
        self.closed += 1
        raise Away("closing fails as well")


class BoardChannel(ReconnectingChannel):
    server = "Board"

    def __init__(self, board: Board, **options: Any) -> None:
        super().__init__(**options)
        self.board = board

    def connect_sender(self) -> Board:
        self.board.connections += 1
        self.board.check()
        return self.board

    connect_listener = connect_sender


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def now() -> list[float]:
    """`now[0]`: the seconds of a clock that stands still."""
    return [50.0]


@pytest.fixture
def channel(board: Board, now: list[float]) -> Iterator[BoardChannel]:
    channel = BoardChannel(board, monotonic=lambda: now[0])
    yield channel
    channel.close()


def test_making_a_channel_connects_to_nothing(board: Board, channel: BoardChannel) -> None:
    before = threading.active_count()
    assert board.connections == 0
    channel.publish(Topic.JOBS)
    channel.publish(Topic.EVENTS)
    assert board.connections == 1
    assert [payload.partition(" ")[0] for payload in board.sent] == ["jobs", "events"]
    assert threading.active_count() == before


def test_a_failure_is_told_once_and_tried_again_after_five_seconds(
    board: Board, channel: BoardChannel, now: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    board.is_up = False
    for seconds, tries in ((0, 1), (0, 1), (4.9, 1), (0.2, 2), (4.9, 2), (0.2, 3)):
        now[0] += seconds
        channel.publish(Topic.JOBS)
        assert board.connections == tries
    board.is_up = True
    now[0] += 5
    channel.publish(Topic.JOBS)
    channel.publish(Topic.JOBS)
    assert len(board.sent) == 2
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "Board failed (Away)" in caplog.text
    assert "secret" not in caplog.text


def test_a_server_that_hung_up_is_called_again_at_once(
    board: Board, channel: BoardChannel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    channel.publish(Topic.JOBS)
    plugs = iter([False, True, True])
    monkeypatch.setattr(Board, "is_up", property(lambda _: next(plugs), lambda *_: None), raising=False)
    channel.publish(Topic.EVENTS)
    assert (board.connections, board.closed) == (2, 1)
    assert [payload.partition(" ")[0] for payload in board.sent] == ["jobs", "events"]
    assert caplog.records == []


def test_a_server_that_took_its_time_is_not_tried_twice(
    board: Board, channel: BoardChannel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def slow(_: str) -> None:
        raise TimeoutError

    channel.publish(Topic.JOBS)
    monkeypatch.setattr(board, "send", slow)
    channel.publish(Topic.JOBS)
    assert board.connections == 1
    assert "TimeoutError" in caplog.text


def test_nobody_waits_long_for_somebody_elses_connection(
    board: Board, channel: BoardChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flask_rindle.events.channel.SEND_SECONDS", 0.01)
    entered, leave = threading.Event(), threading.Event()

    def slow(_: str) -> None:
        entered.set()
        assert leave.wait(30)

    monkeypatch.setattr(board, "send", slow)
    other = threading.Thread(target=channel.publish, args=(Topic.JOBS,))
    other.start()
    assert entered.wait(30)
    channel.publish(Topic.JOBS)
    assert other.is_alive()
    leave.set()
    other.join()


def test_pauses_double_up_to_thirty_seconds_and_start_anew(
    board: Board, channel: BoardChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    rung = threading.Event()
    done = threading.Event()

    class Closing(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout or 0)
            board.is_up = len(pauses) == 7
            if len(pauses) == 9:
                done.set()
                return super().wait(30)
            return False

    ear = channel._end().ear
    monkeypatch.setattr(ear, "_closing", Closing())
    board.is_up = False

    def hear() -> None:
        board.is_up = False
        rung.set()

    channel.listen(Topic.JOBS, hear)
    assert done.wait(30)
    channel.close()
    assert rung.is_set()
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 1, 2]


def test_a_listener_that_fails_keeps_no_other_from_hearing(
    channel: BoardChannel, caplog: pytest.LogCaptureFixture
) -> None:
    heard, ready = threading.Event(), threading.Event()

    def broken() -> None:
        ready.set()
        raise ZeroDivisionError

    channel.listen(Topic.JOBS, broken)
    assert ready.wait(30)
    channel.listen(Topic.JOBS, heard.set)
    channel._end().ear._take("jobs somebody")
    assert heard.is_set()
    assert "ZeroDivisionError" in caplog.text


class Recorder:
    """A channel that goes nowhere and remembers what it was asked."""

    def __init__(self) -> None:
        self.published: list[Topic] = []
        self.listeners: set[tuple[Topic, Callable[[], object]]] = set()

    def publish(self, topic: Topic) -> None:
        self.published.append(topic)

    def listen(self, topic: Topic, hear: Callable[[], object]) -> None:
        self.listeners.add((topic, hear))

    def ring(self) -> None:
        for _, hear in self.listeners:
            hear()

    def close(self) -> None:
        self.listeners.clear()


def test_a_shared_bell_rings_here_and_elsewhere() -> None:
    recorder = Recorder()
    bell = SharedWakeups(recorder, Topic.JOBS)
    bell.ring()
    assert bell.wait(0, 0) == 1
    assert recorder.published == [Topic.JOBS]


def test_a_shared_bell_passes_nothing_on_that_it_heard() -> None:
    recorder = Recorder()
    for bell in (SharedWakeups(recorder, Topic.JOBS), ChangeBell(recorder)):
        assert bell.wait(0, 0) == 0
        recorder.ring()
        assert bell.wait(0, 0) == 1
    assert recorder.published == []
    assert {topic for topic, _ in recorder.listeners} == {Topic.JOBS, Topic.EVENTS}


def test_a_bell_listens_once_however_often_it_waits() -> None:
    recorder = Recorder()
    bell = SharedWakeups(recorder, Topic.JOBS)
    assert recorder.listeners == set()
    for _ in range(3):
        bell.wait(0, 0)
    assert len(recorder.listeners) == 1


def test_changes_are_told_to_other_processes() -> None:
    recorder = Recorder()
    bell = ChangeBell(recorder)
    asset_state_change.send("asset")
    assert bell.wait(0, 0) == 1
    assert recorder.published == [Topic.EVENTS]


@pytest.mark.parametrize("make", [ProcessWakeups, lambda: SharedWakeups(None, Topic.JOBS), ChangeBell])
def test_a_bell_needs_no_channel(make: Callable[[], ProcessWakeups]) -> None:
    bell = make()
    bell.ring()
    assert bell.wait(0, 0) == 1
    assert bell.wait(1, 0) == 1


def test_a_channel_does_not_keep_a_bell() -> None:
    recorder = Recorder()
    bell = ChangeBell(recorder)
    bell.wait(0, 0)
    gone = weakref.ref(bell)
    del bell
    gc.collect()
    assert gone() is None
    recorder.ring()


@pytest.mark.parametrize(
    ("url", "channel"),
    [
        ("redis://127.0.0.1:6379/0", "RedisChannel"),
        ("rediss://:hunter2@cache.example:6380?ssl_cert_reqs=none", "RedisChannel"),
        ("unix:///run/redis.sock?db=1", "RedisChannel"),
        ("postgresql://user:hunter2@db.example/app?sslmode=require", "PostgresChannel"),
        ("postgresql+psycopg://user:hunter2@[::1]:5433/app", "PostgresChannel"),
        ("postgresql:///app?host=/run/postgresql", "PostgresChannel"),
    ],
)
def test_the_scheme_chooses_the_channel(url: str, channel: str) -> None:
    opened = open_channel(url)
    assert opened is not None
    assert repr(opened) == f"<{channel}>"
    assert find_url_problem(url) is None


@pytest.mark.parametrize("url", [None, ""])
def test_no_url_is_no_channel(url: str | None) -> None:
    assert open_channel(url) is None


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("mysql://user:hunter2@db.example/app", "has mysql://"),
        ("postgresql+psycopg2://user:hunter2@db.example/app", r"has postgresql\+psycopg2://"),
        ("hunter2@127.0.0.1:6379", "has no scheme"),
        ("127.0.0.1:6379", "has no scheme"),
        ("redis:hunter2@127.0.0.1", "has no //"),
        ("unix://", "no path to a socket"),
        ("redis://user:hunter2@cache.example:port/0", "cannot be read"),
        ("redis://user:hunter2/3@cache.example/0", "cannot be read"),
        ("redis://[::1/hunter2", "cannot be read"),
        ("redis://:hunter2@cache.example/0?socket_timeout=hunter2", "does not understand"),
        ("postgresql://user:hunter2@db.example/app?hunter2=hunter2", "does not understand"),
    ],
)
def test_a_url_that_opens_nothing_is_refused_with_what_to_write(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=f"RINDLE_EVENTS_URL {problem}|RINDLE_EVENTS_URL .*{problem}") as refusal:
        open_channel(url)
    assert "write one such as redis://" in str(refusal.value)
    assert "hunter2" not in str(refusal.value)
    assert refusal.value.__cause__ is None
    assert refusal.value.__context__ is None or refusal.value.__suppress_context__


@pytest.mark.parametrize(
    ("url", "package", "extra"),
    [("redis://127.0.0.1", "redis", "redis"), ("postgresql://127.0.0.1", "psycopg", "postgresql")],
)
def test_a_package_that_is_missing_is_named(
    url: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, f"flask_rindle.events.{extra}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra) as refusal:
        open_channel(url)
    assert (refusal.value.feature, refusal.value.extra) == ("RINDLE_EVENTS_URL", extra)


@pytest.mark.parametrize(("url", "loaded"), [(None, []), ("redis://", ["redis"]), ("postgresql://", ["psycopg"])])
def test_a_client_is_loaded_when_it_is_needed(url: str | None, loaded: list[str]) -> None:
    code = (
        "import sys; from flask_rindle.events import memory, open as opening;"
        f"opening.open_channel({url!r}); print(*({{'redis', 'psycopg'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == loaded


def test_no_two_channels_take_each_other_for_themselves(board: Board) -> None:
    channels = [BoardChannel(board) for _ in range(3)]
    for channel in channels:
        channel.publish(Topic.JOBS)
        channel.publish(Topic.JOBS)
    senders = [payload.partition(" ")[2] for payload in board.sent]
    assert len(set(senders)) == 3
