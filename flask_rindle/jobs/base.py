"""The port of a job backend. The row is the job; a backend is only how its runner hears of it."""

from __future__ import annotations

from typing import Protocol

from flask_rindle.outbox import Notice


class JobBackend(Protocol):
    """Gets committed jobs run. Losing everything that it was told loses no job."""

    def send(self, notice: Notice) -> None:
        """A job was committed that waits, or will be due."""
        ...

    def start(self) -> None:
        """Begin to work in this process, if this backend does; safe to call at every request."""
        ...

    def stop(self) -> object:
        """Hand back what is unfinished, and end. Nothing is lost."""
        ...
