"""Jobs in threads of this process: the default, with nothing else to start."""

from __future__ import annotations

import atexit
import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager

from flask_rindle.errors import RindleError
from flask_rindle.events.memory import ProcessWakeups
from flask_rindle.outbox import Claim, Outbox
from flask_rindle.pipeline.run import Pipeline
from flask_rindle.types import Clock

log = logging.getLogger("flask_rindle.jobs")

# Jobs of other processes, and leases of dead ones, are noticed this late at most.
POLL_SECONDS = 5.0
STOP_SECONDS = 10.0


class EmbeddedJobs:
    """Worker threads that start with the first request or job of a process, also after a fork."""

    def __init__(
        self,
        outbox: Outbox,
        pipeline: Pipeline,
        *,
        context: Callable[[], AbstractContextManager[object]],
        workers: int,
        clock: Clock,
    ) -> None:
        """`context`: what every job runs in, such as the app's context."""
        self._outbox = outbox
        self._pipeline = pipeline
        self._context = context
        self._workers = workers
        self._clock = clock
        self._lock = threading.Lock()
        self._reset()

    def _reset(self) -> None:
        self._pid = 0
        self._stopping = threading.Event()
        self._bell = ProcessWakeups()
        self._threads: list[threading.Thread] = []

    def send(self, job_id: uuid.UUID) -> None:
        """Wake a worker."""
        if not self._stopping.is_set():
            self.start()
            self._bell.ring()

    def start(self) -> None:
        """Start the workers of this process, unless they run."""
        if self._pid == os.getpid():
            return
        with self._lock:
            if self._pid == os.getpid():
                return
            self._reset()
            self._pid = os.getpid()
            self._threads = [
                threading.Thread(target=self._work, args=(f"{socket.gethostname()}:{self._pid}:{n}",), daemon=True)
                for n in range(self._workers)
            ]
            for thread in self._threads:
                thread.start()
        atexit.register(self.stop)

    def stop(self) -> None:
        """Hand unfinished jobs back and wait for the workers, ten seconds at most."""
        atexit.unregister(self.stop)
        self._stopping.set()
        self._bell.ring()
        if self._pid == os.getpid():
            for thread in self._threads:
                if thread is not threading.current_thread():
                    thread.join(STOP_SECONDS)

    def _work(self, name: str) -> None:
        rings = 0
        while not self._stopping.is_set():
            try:
                with self._context():
                    claim = self._outbox.claim(name)
                    if claim is not None:
                        self._run(claim)
                        continue
                    pause = self._pause_seconds()
            except RindleError:
                log.warning("a worker could not reach its jobs; trying again")
                pause = POLL_SECONDS
            except Exception:
                log.exception("a worker met an error of somebody else's; going on")
                pause = POLL_SECONDS
            rings = self._bell.wait(rings, pause)

    def _run(self, claim: Claim) -> None:
        self._pipeline.run(claim, released=self._stopping.is_set)

    def _pause_seconds(self) -> float:
        due_at = self._outbox.next_due_at()
        if due_at is None:
            return POLL_SECONDS
        return min(max((due_at - self._clock()).total_seconds(), 0.01), POLL_SECONDS)
