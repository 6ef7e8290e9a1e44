"""flask-rindle's own ways. The app whose no-op they run is made here, for this process and for the workers'."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from celery import Celery
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from jobs_celery import make_celery, run_celery
from jobs_ground import REDIS, Ground, analyze, is_worker, orders
from jobs_starts import reporter
from jobs_ways import Way

from flask_rindle import Rindle
from flask_rindle.engine import Engine
from flask_rindle.outbox import Claim, JobKind
from flask_rindle.processing.base import Stop
from flask_rindle.types import new_id

_NUMBER_BITS = 32


class Noop:
    """A step that says that it has started, and has nothing to do."""

    def __init__(self, report: Callable[[int], None]) -> None:
        self._report = report

    def run(self, claim: Claim, stop: Stop) -> None:
        self._report(claim.asset_id.int & ((1 << _NUMBER_BITS) - 1))

    def give_up(self, claim: Claim, error: Exception) -> None:
        raise error


def make_app(work: dict[str, Any]) -> Flask:
    """An app in which `JobKind.EXPIRE` is a no-op."""
    app = Flask("bench", instance_path=work["directory"])
    app.config.from_mapping(work["config"])
    Rindle(app, SQLAlchemy(app))
    steps: Any = engine_of(app).pipeline._steps  # the library has no such door, and needs none
    steps[JobKind.EXPIRE] = Noop(reporter(work["starts"]))
    return app


def engine_of(app: Flask) -> Engine:
    engine: Engine = app.extensions["rindle"]
    return engine


class Host:
    """An app on an empty database, as a web process has it."""

    def __init__(self, ground: Ground, database: str, **config: Any) -> None:
        self.url = ground.database(database)
        if config.get("RINDLE_EVENTS_URL") == "the database":
            config["RINDLE_EVENTS_URL"] = self.url
        self.orders = {
            "app": "rindle",
            "directory": str(ground.directory),
            "starts": str(ground.starts.path),
            "config": {"SECRET_KEY": "of a benchmark", "SQLALCHEMY_DATABASE_URI": self.url, **config},
        }
        self.app = make_app(self.orders)
        self.engine = engine_of(self.app)
        self.db: SQLAlchemy = self.app.extensions["sqlalchemy"]
        with self.app.app_context():
            self.db.create_all()

    def add(self, *numbers: int) -> None:
        """Commit jobs in the host's own session."""
        with self.app.app_context():
            for number in numbers:
                self.engine.outbox.add(self.db.session(), JobKind.EXPIRE, _asset_id(number))
            self.db.session.commit()

    def add_silently(self, *numbers: int) -> None:
        """The same, and tell nobody, so that nobody starts to work."""
        outbox = self.engine.outbox
        send, outbox.send = outbox.send, lambda _: None
        self.add(*numbers)
        outbox.send = send

    def close(self) -> None:
        self.engine.close()
        with self.app.app_context():
            self.db.engine.dispose()


class Embedded(Way):
    """Worker threads in the process that produces."""

    def __init__(self, ground: Ground, database: str, concurrency: int, **config: Any) -> None:
        self._ground = ground
        self._concurrency = concurrency
        self.host = Host(ground, database, **{"RINDLE_JOBS": "embedded", "RINDLE_WORKERS": concurrency, **config})

    def produce(self, number: int) -> None:
        self.host.add(number)

    def queue(self, numbers: range) -> None:
        self.host.add_silently(*numbers)
        analyze(self.host.url)

    def start(self) -> None:
        self.host.engine.jobs.start()

    def stop(self) -> None:
        self.host.close()


class Worker(Embedded):
    """`flask rindle worker`, woken through PostgreSQL or Redis; this process has no threads of its own."""

    pid = 0

    def __init__(self, ground: Ground, wakeups: str, concurrency: int) -> None:
        url = REDIS if wakeups == "redis" else "the database"
        super().__init__(ground, "postgresql", concurrency, RINDLE_WORKERS=0, RINDLE_EVENTS_URL=url)

    def start(self) -> None:
        command = ("-m", "flask", "--app", "jobs_rindle:create_app", "rindle", "worker")
        self.pid = self._ground.run(*command, f"--concurrency={self._concurrency}", orders=self.host.orders)


class ThroughCelery(Embedded):
    """Rows on PostgreSQL, and Celery's prefork worker to run them."""

    def __init__(self, ground: Ground, broker: str, concurrency: int) -> None:
        super().__init__(ground, "postgresql", concurrency, RINDLE_JOBS="celery")
        url, options = ground.broker(broker)
        self.host.orders |= {"app": "rindle celery", "broker": url, "options": options}
        self._celery = _install(self.host.app, self.host.orders)

    def queue(self, numbers: range) -> None:
        self.host.add(*numbers)
        analyze(self.host.url)

    def start(self) -> None:
        run_celery(self._ground, "jobs_rindle", self._concurrency, self.host.orders)

    def stop(self) -> None:
        super().stop()
        self._celery.close()


def create_app() -> Flask:
    """The app of a worker."""
    return make_app(orders())


def _install(app: Flask, work: dict[str, Any]) -> Celery:
    from flask_rindle.jobs.celery import install_tasks

    celery = make_celery(work["broker"], work["options"])
    install_tasks(celery, app)
    return celery


def _asset_id(number: int) -> uuid.UUID:
    """An asset's id as they are, a UUIDv7, that ends in the job's number."""
    return uuid.UUID(int=(new_id().int >> _NUMBER_BITS << _NUMBER_BITS) | number)


if is_worker() and orders()["app"] == "rindle celery":
    worker = _install(create_app(), orders())
