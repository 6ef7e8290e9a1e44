"""A crew: threads that share queues, claim due rows and run them, without any broker.

One thread at a time looks for work or waits for news, the others work: however many there are, an idle crew
costs one query, and a new job wakes one thread.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from flask_rindle.errors import RindleError
from flask_rindle.events.base import Wakeups
from flask_rindle.outbox import Claim, Hand, Outbox
from flask_rindle.pipeline.run import Pipeline
from flask_rindle.types import Clock

log = logging.getLogger("flask_rindle.jobs")

# Jobs of other processes, and leases of dead ones, are noticed this late at most.
POLL_SECONDS = 1.0
# A row that is due and cannot be had is somebody's for a moment.
_MOMENT_SECONDS = 0.01
_AFTER_THE_LAST_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """How many threads work on which queues; None is all of them."""

    threads: int
    queues: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """What every crew of a process works with."""

    outbox: Outbox
    pipeline: Pipeline
    context: Callable[[], AbstractContextManager[object]]
    clock: Clock
    wakeups: Wakeups
    tidy: Callable[[], object]


class Shift:
    """A crew at work, from `start` to `stop`."""

    def __init__(self, crew: Crew, workplace: Workplace) -> None:
        self._crew = crew
        self._workplace = workplace
        self._stopping = threading.Event()
        self._turn = threading.Lock()
        self._hand = Hand()  # of whoever has the turn
        self._rings = 0
        self._at_work: set[str] = set()
        self.claims = 0
        self._counting = threading.Lock()
        name = f"{socket.gethostname()}:{os.getpid()}"
        self.threads = [
            threading.Thread(target=self._work, args=(f"{name}:{number}",), name=f"rindle-worker-{number}", daemon=True)
            for number in range(crew.threads)
        ]

    def start(self) -> None:
        """Begin to work."""
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        """Take nothing new, and ask what runs to hand itself back. Does not wait; nudge afterwards."""
        self._stopping.set()

    def join(self, ends_at: float) -> bool:
        """Wait for the threads until `time.monotonic()` is `ends_at`; whether all have ended."""
        for thread in self.threads:
            if thread is not threading.current_thread():
                thread.join(max(ends_at - time.monotonic(), 0))
        return not any(thread.is_alive() for thread in self.threads)

    @property
    def is_idle(self) -> bool:
        """Whether nobody is at work, and nothing is due."""
        if self._at_work:
            return False
        due_at = self._workplace.outbox.next_due_at(self._crew.queues)
        return due_at is None or due_at > self._workplace.clock()

    def _work(self, name: str) -> None:
        while not self._stopping.is_set():
            claim = self._take_up(name)
            if claim is None:
                with self._turn:
                    claim = self._await_claim(name)
            if claim is not None:
                self._run(claim)
                self._at_work.discard(name)

    def _take_up(self, name: str) -> Claim | None:
        """What whoever had the turn saw beside its own job; trouble is for whoever has it next."""
        if not self._hand.is_good:
            return None
        self._at_work.add(name)
        try:
            claim = self._workplace.outbox.claim(name, queues=self._crew.queues, hand=self._hand, without_look=True)
        except Exception:  # noqa: BLE001 - the same trouble comes up at the next look, and is told there
            claim = None
        if claim is None:
            self._at_work.discard(name)
        else:
            self._count()
        return claim

    def _count(self) -> None:
        with self._counting:
            self.claims += 1

    def _await_claim(self, name: str) -> Claim | None:
        """The next job; None when it is time to stop, or trouble passed by."""
        if self._hand.had_the_last:
            # Its thread is about to begin, and a look for more would be in its way. Whatever comes rings.
            self._hand.had_the_last = False
            self._rings = self._workplace.wakeups.wait(self._rings, _AFTER_THE_LAST_SECONDS)
        while not self._stopping.is_set():
            claim, pause = self._look(name)
            if claim is not None:
                return claim
            self._rings = self._workplace.wakeups.wait(self._rings, pause)
        return None

    def _look(self, name: str) -> tuple[Claim | None, float]:
        try:
            self._at_work.add(name)
            claim = self._workplace.outbox.claim(name, queues=self._crew.queues, hand=self._hand)
            if claim is not None:
                self._count()
                return claim, 0
            self._at_work.discard(name)
            self._workplace.tidy()
            return None, self._pause_seconds()
        except RindleError:
            log.warning("a worker could not reach its jobs; trying again")
        except Exception:
            log.exception("a worker met an error of somebody else's; going on")
        self._at_work.discard(name)
        return None, POLL_SECONDS

    def _run(self, claim: Claim) -> None:
        try:
            with self._workplace.context():
                self._workplace.pipeline.run(claim, released=self._stopping.is_set)
        except RindleError:
            log.warning("a worker could not settle job %s; its lease will run out", claim.id)
        except (Exception, SystemExit):  # a listener of the host's may well call sys.exit
            log.exception("a worker met an error of somebody else's; going on")

    def _pause_seconds(self) -> float:
        due_at = self._workplace.outbox.next_due_at(self._crew.queues)
        if due_at is None:
            return POLL_SECONDS
        return min(max((due_at - self._workplace.clock()).total_seconds(), _MOMENT_SECONDS), POLL_SECONDS)
