"""A host app in the test process, and worker processes beside it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from host_app import create_app
from PIL import Image
from sqlalchemy import select

from flask_rindle.models import Asset, Job, ProcessingRun
from flask_rindle.outbox import JobKind, Priority, Queue
from flask_rindle.types import new_id

START_SECONDS = 60


def until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """Wait for a condition that another process brings about; what it gave."""
    ends_at = time.monotonic() + seconds
    pause = threading.Event()
    while not (found := condition()):
        assert time.monotonic() < ends_at, "the condition did not come about"
        pause.wait(0.02)
    return found


def needs(server: str, error: BaseException) -> None:
    if os.environ.get("CI") or os.environ.get("RINDLE_REQUIRE_ALL"):
        raise error
    pytest.skip(f"no {server} server on this machine: {type(error).__name__}")


@dataclass
class Worker:
    """A process that was started, and what it says."""

    name: str
    process: subprocess.Popen[bytes]
    output_path: Path

    @property
    def output(self) -> str:
        return self.output_path.read_text(errors="replace")

    def await_words(self, words: str) -> Worker:
        until(lambda: words in self.output or self.process.poll() is not None, START_SECONDS)
        assert words in self.output, f"{self.name} said {self.output!r}"
        return self

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill_with_children(self) -> None:
        """As a machine dies."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def wait(self, seconds: float = 30) -> int:
        return self.process.wait(seconds)


@dataclass
class Site:
    """A host app in the test process, and the worker processes beside it: one database, one script."""

    directory: Path
    config: dict[str, Any]
    app: Any = None
    workers: list[Worker] = field(default_factory=list)

    def open(self) -> Site:
        for name in ("media", "script"):
            (self.directory / name).mkdir(parents=True)
            self.config[name] = str(self.directory / name)
        self.app = create_app(self.config)
        with self.app.app_context():
            self.app.extensions["sqlalchemy"].create_all()
        return self

    def close(self) -> None:
        for worker in self.workers:
            worker.kill_with_children()
        if self.app is not None:
            self.engine.close()
            with self.app.app_context():
                self.app.extensions["sqlalchemy"].engine.dispose()

    @property
    def engine(self) -> Any:
        return self.app.extensions["rindle"]

    # Work

    def upload(self) -> uuid.UUID:
        picture = BytesIO()
        Image.linear_gradient("L").resize((80, 60)).save(picture, "png")
        picture.seek(0)
        with self.app.app_context():
            asset: Asset = self.rindle.upload("avatar", picture, filename="a.png", content_type="image/png")
        return asset.id

    @property
    def rindle(self) -> Any:
        return self.app.extensions["host_rindle"]

    def add(self, count: int = 1, queue: Queue = Queue.PROCESS, priority: Priority = Priority.FIRST) -> list[uuid.UUID]:
        """Commit scripted jobs, one after the other; their ids."""
        return [self._add(queue, priority) for _ in range(count)]

    def _add(self, queue: Queue, priority: Priority) -> uuid.UUID:
        asset_id = new_id()
        with self.engine.database.transaction() as db_session:
            self.engine.outbox.add(db_session, JobKind.EXPIRE, asset_id, queue=queue, priority=priority)
        with self.engine.database.reading() as db_session:
            return db_session.scalars(select(Job.id).where(Job.asset_id == asset_id)).one()

    # Rows

    def asset(self, asset_id: uuid.UUID) -> Any:
        with self.engine.database.reading() as db_session:
            return db_session.get_one(Asset, asset_id)

    def job(self, job_id: uuid.UUID) -> Any:
        with self.engine.database.reading() as db_session:
            return db_session.get_one(Job, job_id)

    def states(self, job_ids: list[uuid.UUID]) -> Counter[str]:
        with self.engine.database.reading() as db_session:
            return Counter(db_session.scalars(select(Job.state).where(Job.id.in_(job_ids))))

    def are_done(self, job_ids: list[uuid.UUID]) -> bool:
        return self.states(job_ids) == {"succeeded": len(job_ids)}

    def runs(self, job_ids: list[uuid.UUID]) -> list[Any]:
        query = select(ProcessingRun).where(ProcessingRun.job_id.in_(job_ids)).order_by(ProcessingRun.id)
        with self.engine.database.reading() as db_session:
            return list(db_session.scalars(query))

    def runs_of(self, asset_id: uuid.UUID) -> list[Any]:
        query = select(ProcessingRun).where(ProcessingRun.asset_id == asset_id).order_by(ProcessingRun.id)
        with self.engine.database.reading() as db_session:
            return list(db_session.scalars(query))

    def outcomes(self, job_id: uuid.UUID) -> list[str]:
        return [run.outcome for run in self.runs([job_id])]

    # Script

    @contextmanager
    def scripted(self, *words: str) -> Iterator[None]:
        """Scripted jobs "hold", are "deaf" to being stopped, or "fail", while the block runs."""
        paths = [self.directory / "script" / word for word in words]
        for path in paths:
            path.touch()
        try:
            yield
        finally:
            for path in paths:
                path.unlink()

    def log(self) -> list[list[str]]:
        """What scripted jobs told: start or end, job, queue, process, name of the worker."""
        path = self.directory / "script" / "log"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def started(self, job_ids: list[uuid.UUID]) -> list[list[str]]:
        wanted = {str(job_id) for job_id in job_ids}
        return [entry for entry in self.log() if entry[0] == "start" and entry[1] in wanted]

    def notes(self) -> list[str]:
        """What the host's own task was given."""
        path = self.directory / "script" / "notes"
        return path.read_text().splitlines() if path.exists() else []

    # Workers

    def start(self, *command: str, name: str, **config: Any) -> Worker:
        """A process of this site; `config` comes on top of the site's."""
        output = self.directory / f"{name}.out"
        environment = os.environ | {
            "HOST": json.dumps(self.config | config),
            "HOST_NAME": name,
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
            "PYTHONUNBUFFERED": "1",
        }
        with output.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=self.directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        worker = Worker(name, process, output)
        self.workers.append(worker)
        return worker

    def flask_worker(self, *options: str, name: str = "one", **config: Any) -> Worker:
        """A `flask rindle worker` that may have started yet."""
        return self.start("flask", "--app", "host_app:flask_app", "rindle", "worker", *options, name=name, **config)

    def celery_worker(self, *options: str, name: str, **config: Any) -> Worker:
        """A `celery worker` that takes messages."""
        quiet = ("--without-mingle", "--without-gossip", "--without-heartbeat", "-l", "INFO", "-n", f"{name}@rindle")
        command = ("celery", "-A", "host_app:celery_app", "worker", *quiet, *options)
        return self.start(*command, name=name, **config).await_words(" ready.")


@contextmanager
def open_site(directory: Path, **config: Any) -> Iterator[Site]:
    site = Site(directory, config)
    try:
        yield site.open()
    finally:
        site.close()
