"""Jobs at once, in the thread that committed them: for tests."""

from __future__ import annotations

import threading
import uuid
from collections import deque

from flask_rindle.outbox import Notice, Outbox
from flask_rindle.pipeline.run import Pipeline


class InlineJobs:
    """Runs each job when its commit is through; those that it leads to follow one after the other."""

    def __init__(self, outbox: Outbox, pipeline: Pipeline) -> None:
        self._outbox = outbox
        self._pipeline = pipeline
        self._local = threading.local()

    def send(self, notice: Notice) -> None:
        """Run the job now, or after the one that is running. A retry waits for `drain`."""
        waiting: deque[uuid.UUID] | None = getattr(self._local, "waiting", None)
        if waiting is not None:
            waiting.append(notice.job_id)
            return
        self._local.waiting = deque([notice.job_id])
        try:
            while self._local.waiting:
                self._run(self._local.waiting.popleft())
        finally:
            self._local.waiting = None

    def drain(self) -> int:
        """Run everything that is due by now; how many jobs that were."""
        count = 0
        while (claim := self._outbox.claim("inline")) is not None:
            self._pipeline.run(claim)
            count += 1
        return count

    def start(self) -> None:
        """Nothing runs between commits."""

    def stop(self) -> None:
        """Nothing runs between commits."""

    def _run(self, job_id: uuid.UUID) -> None:
        claim = self._outbox.claim("inline", job_id=job_id)
        if claim is not None:
            self._pipeline.run(claim)
