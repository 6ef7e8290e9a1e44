"""The heart of a process: one thread for everything that is being done, through trouble, and over a fork."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from flask_rindle.models.database import Database
from flask_rindle.outbox import LEASE_SECONDS, Claim, JobKind, Outbox, Pulse
from flask_rindle.pipeline import heart as module
from flask_rindle.pipeline.heart import HEARTBEAT_SECONDS, Heart, Hold
from flask_rindle.testing.clock import FrozenClock
from flask_rindle.types import new_id

NOT_FOR_LONG = 10
TROUBLE = OperationalError("UPDATE", {}, Exception("server closed the connection unexpectedly"))


def a_claim() -> Claim:
    return Claim(
        id=new_id(),
        kind=JobKind.PROMOTE,
        queue="rindle_promote",
        priority=0,
        asset_id=new_id(),
        attempt=1,
        max_attempts=20,
        worker="w",
        lease=new_id(),
        run_id=new_id(),
    )


def until(condition: Callable[[], object]) -> None:
    """Wait for what another thread brings about."""
    ends_at, pause = time.monotonic() + NOT_FOR_LONG, threading.Event()
    while not condition():
        assert time.monotonic() < ends_at, "it did not come about"
        pause.wait(0.001)


class Rows:
    """An outbox that answers as it is told, and remembers who asked."""

    def __init__(self) -> None:
        self.pulses: dict[Claim, Pulse] = {}
        self.troubles: list[Exception] = []
        self.looks: list[set[Claim]] = []
        self.heartbeats: list[set[Claim]] = []
        self.threads: set[threading.Thread] = set()

    def look(self, claims: Iterable[Claim]) -> Mapping[Claim, Pulse]:
        return self.answer(self.looks, set(claims))

    def heartbeat(self, claims: Iterable[Claim]) -> Mapping[Claim, Pulse]:
        return self.answer(self.heartbeats, set(claims))

    def answer(self, asked: list[set[Claim]], claims: set[Claim]) -> Mapping[Claim, Pulse]:
        self.threads.add(threading.current_thread())
        asked.append(claims)
        if self.troubles:
            raise self.troubles.pop(0)
        return {claim: self.pulses.get(claim, Pulse.OURS) for claim in claims}


@pytest.fixture
def rows() -> Rows:
    return Rows()


@pytest.fixture
def heart(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> Iterator[Heart]:
    """A heart that looks a thousand times a second."""
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.001)
    heart = Heart(rows)  # type: ignore[arg-type]
    yield heart
    until(lambda: heart._thread is None)


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """`ticks(seconds)`: the time that hearts measure goes on; otherwise it stands still."""
    now = [1000.0]

    class Time:
        def monotonic(self) -> float:
            return now[0]

    def tick(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(module, "time", Time())
    return tick


class TestTrouble:
    @pytest.mark.parametrize("verb", ["look", "heartbeat"])
    def test_is_followed_by_the_next_beat(
        self, heart: Heart, rows: Rows, verb: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Of the database and of anything else."""
        if verb == "heartbeat":
            monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0)
        rows.troubles = [TROUBLE, RuntimeError("odd")]
        claim = a_claim()
        with heart.hold(claim) as held:
            until(lambda: not rows.troubles)
            assert not held.wants_stop, "trouble is no reason to stop"
            rows.pulses[claim] = Pulse.CANCEL
            until(lambda: held.wants_stop)
        assert len([record for record in caplog.records if "cannot be looked at" in record.message]) == 2

    def test_leaves_a_lease_due_at_the_next_beat(self, rows: Rows, ticks: Callable[[float], None]) -> None:
        heart, held = Heart(rows), Hold(a_claim())  # type: ignore[arg-type]
        ticks(HEARTBEAT_SECONDS)
        rows.troubles = [TROUBLE]
        heart._beat([held])
        heart._beat([held])
        heart._beat([held])
        assert (len(rows.heartbeats), len(rows.looks)) == (2, 1)


class TestHolding:
    def test_many_takes_one_thread(self, heart: Heart, rows: Rows) -> None:
        before = threading.active_count()
        first, second, third = (a_claim() for _ in range(3))
        with heart.hold(first), heart.hold(second):
            until(lambda: rows.looks[-1:] == [{first, second}])
            with heart.hold(third):
                until(lambda: rows.looks[-1:] == [{first, second, third}])
            until(lambda: rows.looks[-1:] == [{first, second}])
            assert threading.active_count() == before + 1
        assert len(rows.threads) == 1

    def test_nothing_takes_no_thread(self, heart: Heart, rows: Rows) -> None:
        assert heart._thread is None
        for _ in range(2):
            with heart.hold(a_claim()):
                until(lambda: rows.looks)
            until(lambda: heart._thread is None)
            rows.looks.clear()
        assert len(rows.threads) == 2
        until(lambda: not any(thread.is_alive() for thread in rows.threads))

    def test_ends_with_work_that_fails(self, heart: Heart) -> None:
        with pytest.raises(ZeroDivisionError), heart.hold(a_claim()):
            raise ZeroDivisionError
        until(lambda: heart._thread is None)

    @pytest.mark.parametrize("pulse", [Pulse.CANCEL, Pulse.LOST])
    def test_tells_those_whom_it_concerns(self, heart: Heart, rows: Rows, pulse: Pulse) -> None:
        stays, ends = a_claim(), a_claim()
        with heart.hold(stays) as kept, heart.hold(ends) as stopped:
            rows.pulses[ends] = pulse
            until(lambda: stopped.wants_stop)
            assert (stopped.pulse, kept.pulse) == (pulse, Pulse.OURS)


class TestLeases:
    def test_are_renewed_when_a_quarter_of_them_is_over(self, rows: Rows, ticks: Callable[[float], None]) -> None:
        """Until then, and of those that are younger, it only looks."""
        assert HEARTBEAT_SECONDS * 4 == LEASE_SECONDS
        heart, old = Heart(rows), Hold(a_claim())  # type: ignore[arg-type]
        ticks(10)
        young = Hold(a_claim())
        heart._beat([old, young])
        assert (rows.heartbeats, rows.looks) == ([], [{old.claim, young.claim}])
        ticks(HEARTBEAT_SECONDS - 10)
        heart._beat([old, young])
        assert (rows.heartbeats, rows.looks[1:]) == ([{old.claim}], [{young.claim}])
        heart._beat([old, young])
        assert (rows.heartbeats[1:], rows.looks[2:]) == ([], [{old.claim, young.claim}])

    @pytest.mark.parametrize("any_database", ["sqlite"], indirect=True)
    def test_last_as_long_as_the_work_does(
        self, database: Database, clock: FrozenClock, ticks: Callable[[float], None]
    ) -> None:
        """An hour, in its second half with every other beat lost."""
        outbox = Outbox(database, clock)
        with database.transaction() as db_session:
            outbox.add(db_session, JobKind.VARIANTS, new_id())
        claim = outbox.claim("w")
        assert claim is not None
        heart, held, beats = Heart(outbox), Hold(claim), count()
        heartbeat, written = outbox.heartbeat, list[Any]()

        def unsteady(claims: Iterable[Claim]) -> Mapping[Claim, Pulse]:
            written.append(clock())
            if clock() - written[0] > timedelta(minutes=30) and next(beats) % 2:
                raise TROUBLE
            return heartbeat(claims)

        outbox.heartbeat = unsteady  # type: ignore[method-assign]
        outbox.look = lambda claims: dict.fromkeys(claims, Pulse.OURS)  # type: ignore[method-assign]
        for second in range(0, 3600, 3):
            clock.tick(seconds=3)
            ticks(3)
            heart._beat([held])
            due_at = outbox.next_due_at() if second % 60 == 0 else None
            assert due_at is None or due_at > clock()
        assert outbox.claim("other") is None
        assert heartbeat([claim]) == {claim: Pulse.OURS}
        assert len(written) < 2 * 3600 / HEARTBEAT_SECONDS


class TestFork:
    def test_leaves_the_child_a_heart_of_its_own(self, heart: Heart, rows: Rows) -> None:
        """Its first threads come at the same moment, and find no lock that a thread of the parent holds."""
        claim = a_claim()

        def child() -> bool:
            rows.looks.clear()
            mine, start = [a_claim() for _ in range(4)], threading.Barrier(4)

            def work(own: Claim) -> None:
                start.wait()
                with heart.hold(own):
                    until(lambda: rows.looks[-1:] == [set(mine)])
                    start.wait()

            threads = [threading.Thread(target=work, args=(own,)) for own in mine]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(NOT_FOR_LONG)
            return not any(claim in looked for looked in rows.looks) and len(rows.looks) > 0

        with heart.hold(claim) as held:
            until(lambda: rows.looks)
            with heart._lock:
                assert in_a_fork(child)
            rows.pulses[claim] = Pulse.CANCEL
            until(lambda: held.wants_stop)

    def test_in_the_middle_of_work_ends_it_quietly_in_the_child(self, heart: Heart) -> None:
        def child() -> bool:
            held.__exit__(None, None, None)
            return heart._thread is None

        held = heart.hold(a_claim())
        held.__enter__()
        assert in_a_fork(child)
        held.__exit__(None, None, None)


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
