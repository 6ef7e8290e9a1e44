"""Wake-ups between the threads of one process."""

from __future__ import annotations

import threading

from flask_rindle import signals


class ProcessWakeups:
    """A bell with a counter, so that a ring between two waits is not missed."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._rings = 0

    def ring(self) -> None:
        """Wake everybody who waits, and whoever waits next."""
        with self._condition:
            self._rings += 1
            self._condition.notify_all()

    def wait(self, seen: int, timeout_seconds: float) -> int:
        """Wait until there was a ring after the one numbered `seen`; the number of the last one."""
        with self._condition:
            self._condition.wait_for(lambda: self._rings > seen, timeout=timeout_seconds)
            return self._rings


class ChangeBell(ProcessWakeups):
    """A bell that every change of state rings that this process commits."""

    def __init__(self) -> None:
        super().__init__()
        for signal in signals.ALL.values():
            if signal.name.endswith(".state_change"):
                signal.connect(self._on_change)  # held weakly, so the bell can go when its reader goes

    def _on_change(self, _sender: object, **_facts: object) -> None:
        self.ring()
