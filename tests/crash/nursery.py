"""Where processes are born, watched and buried.

Each is a fork of one process that has imported everything and done nothing, so that a life begins
within milliseconds and shares no connection, thread or lock with another.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from threading import Lock
from typing import Any
from unittest.mock import patch

import processes
from checker import dump, find_faults
from world import World

LIFE_SECONDS = 60
# What a process would import when it needs it, which is nearly all that its beginning takes.
IMPORTED = (
    processes.__name__,
    "flask.testing",
    "psycopg",
    "celery.app.amqp",
    "celery.app.trace",
    "celery.bin.celery",
    "celery.concurrency.solo",
    "celery.worker.consumer",
    "celery.worker.control",
    "celery.worker.strategy",
    "kombu.transport.redis",
)


class Nursery:
    """Starts the processes of worlds. Can be used from several threads at once."""

    def __init__(self) -> None:
        # Whoever starts a process asks all others how they ended, and an ending can be read only once.
        self._asking = Lock()
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(IMPORTED))
        path = [str(Path(__file__).parent), *(entry for entry in sys.path if entry)]
        with patch.dict(os.environ, {"PYTHONPATH": os.pathsep.join(path)}):
            self._context.Process(target=int).start()

    def tell(self, world: World, armed: str | None = None) -> int:
        """How the first process to end of a story ended; none is left then."""
        return self._live(
            world, (processes.tell, (world, armed), {}), (processes.work, (world, armed), {"watched": True})
        )

    def recover(self, world: World) -> int:
        """How a recovery ended."""
        return self._live(world, (processes.recover, (world,), {}), (processes.work, (world, None), {"watched": False}))

    def kill_at(self, point: str, world: World) -> list[str]:
        """Everything that is wrong after a process was killed at this point and all was recovered, twice."""
        ended = self.tell(world, point)
        if ended != -signal.SIGKILL:
            return [f"nobody died at this point; the story ended with {ended}", world.read("log")]
        if ended := self.recover(world):
            return [f"the recovery ended with {ended}", world.read("log")]
        faults, recovered = find_faults(world), dump(world)
        if ended := self.recover(world):
            return [*faults, f"the second recovery ended with {ended}", world.read("log")]
        return [*world.read("stuck").splitlines(), *faults, *_differences(recovered, dump(world))]

    def _live(self, world: World, *lives: tuple[Callable[..., None], tuple[Any, ...], dict[str, Any]]) -> int:
        """Begin one life for the story, and with Celery one for its worker beside it."""
        cast = lives if world.broker_url is not None else lives[:1]
        started = [self._context.Process(target=work, args=args, kwargs=more) for work, args, more in cast]
        with self._asking:
            for process in started:
                process.start()
        story, *workers = started
        try:
            _await_any(started)
            ended = next((process for process in started if self._how_it_ended(process) is not None), None)
            if ended is None:
                return -signal.SIGALRM
            if ended is story and self._how_it_ended(story) == 0:
                for worker in workers:
                    worker.terminate()
                    _await_any([worker])
            return self._how_it_ended(ended) or 0
        finally:
            for process in started:
                process.kill()
                _await_any([process])
                with self._asking:
                    process.join()
                    process.close()

    def _how_it_ended(self, process: ForkServerProcess) -> int | None:
        with self._asking:
            return process.exitcode


def _await_any(processes: list[ForkServerProcess]) -> None:
    wait([process.sentinel for process in processes], LIFE_SECONDS)


def _differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What a recovery changed that had nothing to do."""
    return [
        f"the second recovery changed {name}: {was} became {after[kind].get(name)}"
        for kind, parts in before.items()
        for name, was in parts.items()
        if after[kind].get(name) != was
    ] + [
        f"the second recovery made {name}"
        for kind, parts in after.items()
        for name in parts.keys() - before[kind].keys()
    ]
