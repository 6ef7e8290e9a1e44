"""Jobs in threads of this process: the default, with nothing else to start, and what a worker process runs."""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Sequence

from flask_rindle.forks import renew_after_fork
from flask_rindle.jobs.crew import Crew, Shift, Workplace
from flask_rindle.outbox import Notice

STOP_SECONDS = 10.0


class EmbeddedJobs:
    """Crews that start with the first request or job of a process, also after a fork."""

    def __init__(self, workplace: Workplace, crews: Sequence[Crew]) -> None:
        self._workplace = workplace
        self._crews = tuple(crews)
        self.start_afresh()
        renew_after_fork(self)
        self._stopped = False
        self._pid = 0
        self._shifts: tuple[Shift, ...] = ()

    def start_afresh(self) -> None:
        """Whoever was just starting did so in another process."""
        self._lock = threading.Lock()

    def send(self, notice: Notice) -> None:
        """Wake a worker, here and elsewhere."""
        if not self._stopped:
            self.start()
        self._workplace.wakeups.ring()

    def start(self) -> None:
        """Start the workers of this process, unless they run."""
        if self._pid == os.getpid():
            return
        with self._lock:
            if self._pid == os.getpid():
                return
            self._pid = os.getpid()
            self._stopped = False
            self._shifts = tuple(Shift(crew, self._workplace) for crew in self._crews)
            for shift in self._shifts:
                shift.start()
        atexit.register(self.stop)

    def stop(self, seconds: float = STOP_SECONDS) -> bool:
        """Hand unfinished jobs back and wait for the workers; whether all have ended in time."""
        atexit.unregister(self.stop)
        self._stopped = True
        if self._pid != os.getpid():
            return True
        for shift in self._shifts:
            shift.stop()
        self._workplace.wakeups.nudge()
        ends_at = time.monotonic() + seconds
        late = [shift for shift in self._shifts if not shift.join(ends_at)]
        return not late

    @property
    def claims(self) -> int:
        """How many jobs were taken on in this process."""
        return sum(shift.claims for shift in self._shifts)

    @property
    def is_idle(self) -> bool:
        """Whether nobody is at work and nothing is due, while nothing was taken on."""
        before = self.claims
        return all(shift.is_idle for shift in self._shifts) and self.claims == before
