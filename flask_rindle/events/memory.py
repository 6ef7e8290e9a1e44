"""Wake-ups between the threads of one process, and on to other processes where there is a channel."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

from flask_rindle import signals
from flask_rindle.events.base import Channel, Topic
from flask_rindle.forks import renew_after_fork


class ProcessWakeups:
    """A bell with a counter, so that a ring between two waits is not missed."""

    def __init__(self) -> None:
        self._rings = 0
        self.start_afresh()
        renew_after_fork(self)

    def start_afresh(self) -> None:
        """Nobody waits in a new process, and nobody holds the bell there."""
        self._condition = threading.Condition()

    def ring(self) -> None:
        """Wake everybody who waits, and whoever waits next."""
        self.nudge()

    def nudge(self) -> None:
        """Wake the threads of this process alone."""
        with self._condition:
            self._rings += 1
            self._condition.notify_all()

    def wait(self, seen: int, timeout_seconds: float) -> int:
        """Wait until there was a ring after the one numbered `seen`; the number of the last one."""
        with self._condition:
            self._condition.wait_for(lambda: self._rings > seen, timeout=timeout_seconds)
            return self._rings


class SharedWakeups(ProcessWakeups):
    """A bell that is heard in other processes too, where there is a channel; without one, in this process."""

    def __init__(self, channel: Channel | None, topic: Topic) -> None:
        super().__init__()
        self._channel = channel
        self._topic = topic
        self._hear = _quiet_ring(self)

    def ring(self) -> None:
        """Wake everybody who waits in this process, and then all other processes."""
        self.nudge()
        if self._channel is not None:
            self._channel.publish(self._topic)

    def wait(self, seen: int, timeout_seconds: float) -> int:
        """Wait until there was a ring, here or elsewhere, after the one numbered `seen`; the number of the last one."""
        if self._channel is not None:
            self._channel.listen(self._topic, self._hear)
        return super().wait(seen, timeout_seconds)


class ChangeBell(SharedWakeups):
    """A bell that every change of state rings that this process commits."""

    def __init__(self, channel: Channel | None = None) -> None:
        super().__init__(channel, Topic.EVENTS)
        for signal in signals.ALL.values():
            if signal.name.endswith(".state_change"):
                signal.connect(self._on_change)  # held weakly, so the bell can go when its reader goes

    def _on_change(self, _sender: object, **_facts: object) -> None:
        self.ring()


def _quiet_ring(bell: ProcessWakeups) -> Callable[[], None]:
    """Ring in this process alone; a channel that holds this does not keep the bell."""
    reference = weakref.ref(bell)

    def hear() -> None:
        living = reference()
        if living is not None:
            living.nudge()

    return hear
