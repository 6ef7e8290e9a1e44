"""Procrastinate: its asynchronous worker on a PostgreSQL of its own tables. Run as a script, it is the worker.

An asynchronous no-op runs in the worker's loop, which is its fastest; a synchronous one, as a Flask app would write
it, in a thread.
"""

from __future__ import annotations

import logging

from jobs_ground import Ground, analyze, orders
from jobs_starts import reporter
from jobs_ways import Way
from procrastinate import App, PsycopgConnector, SyncPsycopgConnector
from sqlalchemy import make_url


def _conninfo(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


class Procrastinate(Way):
    """One worker process, woken by NOTIFY, as it is by default."""

    def __init__(self, ground: Ground, kind: str, concurrency: int) -> None:
        self._ground = ground
        self._url = ground.database("postgresql")
        self._orders = {
            "conninfo": _conninfo(self._url),
            "kind": kind,
            "concurrency": concurrency,
            "starts": str(ground.starts.path),
        }
        self._app = App(connector=SyncPsycopgConnector(conninfo=_conninfo(self._url)))
        self._app.open()
        self._app.schema_manager.apply_schema()
        self._task = self._app.configure_task("noop")

    def produce(self, number: int) -> None:
        self._task.defer(number=number)

    def queue(self, numbers: range) -> None:
        self._task.batch_defer(*({"number": number} for number in numbers))
        analyze(self._url)

    def start(self) -> None:
        self._ground.run(__file__, orders=self._orders)

    def stop(self) -> None:
        self._app.close()


def _work() -> None:
    logging.basicConfig(level=logging.WARNING)
    app = App(connector=PsycopgConnector(conninfo=orders()["conninfo"]))
    report = reporter(orders()["starts"])

    async def in_the_loop(number: int) -> None:
        report(number)

    def in_a_thread(number: int) -> None:
        report(number)

    app.task(name="noop")(in_the_loop if orders()["kind"] == "async" else in_a_thread)
    app.run_worker(concurrency=orders()["concurrency"])


if __name__ == "__main__":
    _work()
