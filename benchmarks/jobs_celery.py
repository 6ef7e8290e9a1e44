"""Celery with a no-op: bare, without any rows, as its own worker runs it."""

from __future__ import annotations

from typing import Any

from celery import Celery
from jobs_ground import Ground, is_worker, orders
from jobs_starts import reporter
from jobs_ways import Way

_QUIET = ("--loglevel=WARNING", "--without-gossip", "--without-mingle")


def make_celery(broker: str, options: dict[str, Any]) -> Celery:
    """Celery as it is by default, without results, and without what it announces to other workers."""
    celery = Celery("bench", broker=broker)
    celery.conf.update(
        task_ignore_result=True,
        worker_enable_remote_control=False,
        broker_connection_retry_on_startup=True,
        broker_transport_options=options,
    )
    return celery


def run_celery(ground: Ground, module: str, concurrency: int, work: dict[str, Any]) -> None:
    """Start a prefork worker of the app that a module calls `worker`."""
    command = ("-m", "celery", "-A", f"{module}:worker", "worker", f"--concurrency={concurrency}", *_QUIET)
    ground.run(*command, orders=work)


class BareCelery(Way):
    """A prefork worker that acknowledges early, as Celery does by default."""

    def __init__(self, ground: Ground, broker: str, concurrency: int) -> None:
        self._ground = ground
        self._concurrency = concurrency
        url, options = ground.broker(broker)
        self._orders = {"app": "bare", "broker": url, "options": options, "starts": str(ground.starts.path)}
        self._celery = make_celery(url, options)

    def produce(self, number: int) -> None:
        self._celery.send_task("noop", (number,))

    def start(self) -> None:
        run_celery(self._ground, "jobs_celery", self._concurrency, self._orders)

    def stop(self) -> None:
        self._celery.close()


def _worker(work: dict[str, Any]) -> Celery:
    celery = make_celery(work["broker"], work["options"])
    celery.task(reporter(work["starts"]), name="noop")
    return celery


if is_worker() and orders()["app"] == "bare":
    worker = _worker(orders())
