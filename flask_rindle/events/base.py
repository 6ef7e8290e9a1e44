"""The ports: rows are the truth, a wake-up only saves the wait for the next look."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Protocol


class Topic(StrEnum):
    """What there may be news of."""

    JOBS = "jobs"
    EVENTS = "events"


class Wakeups(Protocol):
    """Tells waiting threads that rows may have changed. May be late, may be spurious."""

    def ring(self) -> None:
        """There is news."""
        ...

    def nudge(self) -> None:
        """Wake the threads of this process alone."""
        ...

    def wait(self, seen: int, timeout_seconds: float) -> int:
        """Wait until there was a ring after the one numbered `seen`; the number of the last one."""
        ...


class Channel(Protocol):
    """Carries rings between processes. Losing one costs the wait for the next look, and nothing else."""

    def publish(self, topic: Topic) -> None:
        """Ring in all other processes. Never raises, and never holds its caller up for long."""
        ...

    def listen(self, topic: Topic, hear: Callable[[], object]) -> None:
        """Call `hear` in a thread of this process for every ring of another one, and whenever one may be missed.

        Starts that thread where it does not run yet, also after a fork; safe to call again and again.
        """
        ...

    def close(self) -> None:
        """End this process's thread and connections."""
        ...
