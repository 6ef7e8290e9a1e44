"""The host app of these tests, built alike in the test and in the worker processes that it starts.

A process is told who it is by `HOST`, a JSON object. The step of `expire` jobs is scripted by files in a directory:
it tells when it starts and ends, and blocks or fails for as long as a file says so.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from celery import Celery
from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from flask_rindle import MB, Profile, Rindle, image
from flask_rindle.errors import Cancelled, HostTrouble
from flask_rindle.events import redis
from flask_rindle.jobs import crew
from flask_rindle.jobs.celery import REPUBLISH, install_tasks
from flask_rindle.outbox import JobKind
from flask_rindle.types import utcnow


class Avatar(Profile):
    allow_mime = {"image/png", "image/jpeg"}  # noqa: RUF012 - as users write it
    max_bytes = 8 * MB
    variants = {"thumb": image.fit(64, 64)}  # noqa: RUF012


class Script:
    """What `expire` jobs do, in every process that shares the directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def run(self, claim: Any, stop: Callable[[], bool]) -> None:
        self._tell("start", claim)
        try:
            self._play(stop)
        finally:
            self._tell("end", claim)

    def give_up(self, claim: object, error: Exception) -> None:
        """Nothing."""

    def _play(self, stop: Callable[[], bool]) -> None:
        if (self._directory / "fail").exists():
            raise HostTrouble("the script says so")
        pause = threading.Event()
        while (self._directory / "hold").exists():
            # "deaf" is work that does not look whether it should stop.
            if stop() and not (self._directory / "deaf").exists():
                raise Cancelled
            pause.wait(0.01)

    def _tell(self, what: str, claim: Any) -> None:
        line = f"{what} {claim.id} {claim.queue} {os.getpid()} {os.environ.get('HOST_NAME', 'test')}\n"
        with (self._directory / "log").open("a") as log:
            log.write(line)


def create_app(config: Mapping[str, Any]) -> Flask:
    """`config`: database, media, script, jobs, and where it matters workers, events_url, offset (in seconds)."""
    app = Flask("host", instance_path=str(config["media"]))
    app.config.update(
        SECRET_KEY="a long random value for tests",
        SQLALCHEMY_DATABASE_URI=config["database"],
        RINDLE_JOBS=config["jobs"],
        RINDLE_WORKERS=config.get("workers", 2),
        RINDLE_EVENTS_URL=config.get("events_url"),
        RINDLE_STORAGES={"default": {"backend": "local", "root": config["media"]}},
    )
    db = SQLAlchemy(app)
    offset = timedelta(seconds=config.get("offset", 0))
    rindle = Rindle()
    rindle.init_app(app, db, profiles=[Avatar], clock=lambda: utcnow() + offset)
    app.extensions["host_rindle"] = rindle
    app.extensions["rindle"].pipeline._steps[JobKind.EXPIRE] = Script(Path(config["script"]))
    return app


def create_celery(config: Mapping[str, Any], *apps: Flask, **conf: Any) -> Celery:
    """A host's Celery app, with a queue and a schedule of its own, after `install_tasks` for each app."""
    celery = Celery("host", broker=config["broker"], set_as_current=False)
    celery.conf.update(
        broker_transport_options=config.get("transport", {}),
        broker_connection_retry_on_startup=True,
        task_default_queue="host_default",
        worker_hijack_root_logger=False,
        **conf,
    )
    for app in apps:
        install_tasks(celery, app)
    return celery


def __getattr__(name: str) -> Any:
    """`flask_app` and `celery_app` of the process that `HOST` describes: made when they are asked for."""
    if name not in ("flask_app", "celery_app"):
        raise AttributeError(name)
    config = json.loads(os.environ["HOST"])
    crew.POLL_SECONDS = config.get("poll", crew.POLL_SECONDS)
    redis.NAME = config.get("channel", redis.NAME)
    if name == "flask_app":
        made: Any = create_app(config)
    else:
        # An app factory that runs twice leaves the second app.
        earlier = [create_app(config["earlier"])] if "earlier" in config else []
        made = create_celery(config, *earlier, create_app(config))
        _add_host_tasks(made, Path(config["script"]))
        made.conf.beat_schedule[REPUBLISH]["schedule"] = config.get("republish", 15.0)
    globals()[name] = made
    return made


def _add_host_tasks(celery: Celery, directory: Path) -> None:
    @celery.task(name="host.note")
    def note(text: str) -> None:
        with (directory / "notes").open("a") as notes:
            notes.write(f"{text}\n")
