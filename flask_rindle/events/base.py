"""The port: rows are the truth, a wake-up only saves the wait for the next look."""

from __future__ import annotations

from typing import Protocol


class Wakeups(Protocol):
    """Tells waiting threads that rows may have changed. May be late, may be spurious."""

    def ring(self) -> None: ...

    def wait(self, seen: int, timeout_seconds: float) -> int:
        """Wait until there was a ring after the one numbered `seen`; the number of the last one."""
        ...
