"""The port of a job backend. The row is the job; a backend is only how its runner hears of it."""

from __future__ import annotations

import uuid
from typing import Protocol


class JobBackend(Protocol):
    """Gets committed jobs run. Losing everything that it was told loses no job."""

    def send(self, job_id: uuid.UUID) -> None:
        """A job was committed, or may be due again."""
        ...

    def start(self) -> None:
        """Begin to work in this process, if this backend does; safe to call at every request."""
        ...

    def stop(self) -> None:
        """Hand back what is unfinished, and end. Nothing is lost."""
        ...
