"""One world for one run: a folder with the files, the database, the clock and what the client remembers.

Everything that several processes of a run share is here, on disk, so that any of them may die.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Row, String, select
from sqlalchemy.orm import Mapped, mapped_column

from flask_rindle import MB, Profile, Rindle, attached, image
from flask_rindle.models import Job
from flask_rindle.types import utcnow

LIVE = ("queued", "running")
USERS = ("Ada", "Bob", "Carl")
PATIENCE_SECONDS = 30
IDLE_SECONDS = 2
A_MOMENT = timedelta(minutes=5)  # longer than a lease and the first delays, shorter than an upload may take


class Picture(Profile):
    allow_mime = {"image/jpeg", "image/png"}  # noqa: RUF012 - as users write it
    max_bytes = 1 * MB
    max_pixels = 1_000_000
    variants = {"small": image.fit(40, 40), "wide": image.fit(80, 80)}  # noqa: RUF012


@dataclass(frozen=True)
class World:
    """Where one run takes place."""

    folder: Path
    database_url: str
    broker_url: str | None = None  # with one, jobs run in a Celery worker; without, in the process of the app

    @property
    def jobs(self) -> str:
        return "embedded" if self.broker_url is None else "celery"

    @property
    def media(self) -> Path:
        return self.folder / "media"

    @property
    def temp(self) -> Path:
        """What the processes of this run have for a system's temporary directory."""
        return self.folder / "tmp"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def now(self) -> datetime:
        """The time in this world, the same for all its processes."""
        return utcnow() + timedelta(seconds=float(self.read("clock", "0")))

    def jump(self, by: timedelta) -> None:
        """Let the time go on."""
        self.write("clock", str(float(self.read("clock", "0")) + by.total_seconds()))

    def read(self, name: str, default: str = "") -> str:
        try:
            return (self.folder / name).read_text()
        except FileNotFoundError:
            return default

    def write(self, name: str, text: str) -> None:
        """Replace a file as a whole: whoever dies over it leaves the old text or the new one."""
        staged = self.folder / f"{name}.{os.getpid()}"
        staged.write_text(text)
        staged.replace(self.folder / name)

    def note(self, name: str, line: str) -> None:
        """Add a line to a file; processes may do so at once."""
        with (self.folder / name).open("a") as file:
            file.write(f"{line}\n")

    def recall(self) -> dict[str, Any]:
        """What the client remembers, as the browser of a user does when the server dies."""
        memory: dict[str, Any] = json.loads(self.read("memory", "{}"))
        return memory

    def remember(self, **facts: Any) -> None:
        self.write("memory", json.dumps({**self.recall(), **facts}))

    def make_app(self) -> Flask:
        """The host's app, as each of its processes makes it anew."""
        app = Flask("host", instance_path=str(self.folder / "instance"))
        app.config.update(
            SECRET_KEY="a long random value for tests",
            SQLALCHEMY_DATABASE_URI=self.database_url,
            RINDLE_JOBS=self.jobs,
            RINDLE_STORAGES={"default": {"backend": "local", "root": self.media}},
            PROPAGATE_EXCEPTIONS=True,
        )
        if self.jobs == "embedded":
            app.config["RINDLE_WORKERS"] = 1
        db = SQLAlchemy(app)

        class User(db.Model):
            __tablename__ = "users"
            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[str] = mapped_column(String(100), unique=True)
            mood: Mapped[str] = mapped_column(String(100), default="new")
            picture = attached("picture", Picture)

        rindle = Rindle()
        rindle.init_app(app, db, profiles=[Picture], owners={"user": User}, clock=self.now)
        app.extensions["host"] = {"db": db, "rindle": rindle, "User": User}
        if self.broker_url is not None:
            app.extensions["celery"] = self._make_celery(app)
        return app

    def _make_celery(self, app: Flask) -> Any:
        from celery import Celery

        from flask_rindle.jobs.celery import install_tasks

        celery: Any = Celery("host", broker=self.broker_url, set_as_current=False)
        # A broker keeps what it has when processes die, so each world has its own part of it.
        celery.conf.broker_transport_options = {"global_keyprefix": f"{self.folder.name}:"}
        celery.conf.update(broker_connection_retry_on_startup=True, worker_hijack_root_logger=False)
        celery.conf.update(worker_redirect_stdouts=False, worker_prefetch_multiplier=1)
        install_tasks(celery, app)
        return celery

    def found(self) -> None:
        """Make the tables and the users, before anything can go wrong."""
        app = self.make_app()
        db, user = app.extensions["host"]["db"], app.extensions["host"]["User"]
        with app.app_context():
            db.create_all()
            db.session.add_all([user(name=name) for name in USERS])
            db.session.commit()
            db.session.remove()
            app.extensions["rindle"].close()
            db.engine.dispose()

    def settle(self, app: Flask, within: timedelta = A_MOMENT) -> None:
        """Wait until no job is left that is due within this time; where all wait for the time, it jumps."""
        horizon, ends_at = self.now() + within, time.monotonic() + PATIENCE_SECONDS
        knock_at = time.monotonic() + IDLE_SECONDS
        pause = threading.Event()
        while jobs := self._live_jobs(app, horizon):
            first = min(jobs, key=lambda job: (job.state == "queued", job.run_at))
            if first.state == "queued" and (first.run_at > self.now() or time.monotonic() > knock_at):
                self._knock(app, first)
                knock_at = time.monotonic() + IDLE_SECONDS
            if time.monotonic() > ends_at:
                msg = f"after {PATIENCE_SECONDS} s there is still work: {jobs}"
                raise TimeoutError(msg)
            pause.wait(0.02)

    def _live_jobs(self, app: Flask, horizon: datetime) -> Sequence[Row[Any]]:
        live = select(Job.kind, Job.state, Job.attempt, Job.run_at, Job.errors).where(Job.state.in_(LIVE))
        with app.extensions["rindle"].database.reading() as db_session:
            return db_session.execute(live.where(Job.run_at <= horizon)).all()

    def _knock(self, app: Flask, job: Row[Any]) -> None:
        """Go on to a job's time, and do what a schedule does then."""
        engine: Any = app.extensions["rindle"]
        self.jump(max(job.run_at - self.now(), timedelta(0)))
        if self.broker_url is None:
            engine.workplace.wakeups.ring()
        else:
            self.jump(timedelta(seconds=20))  # so that it is overdue, and not on its way
            engine.jobs.republish()
