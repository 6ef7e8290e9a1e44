"""What a run borrows of the machine, under names of its own: databases, queues, processes. All is given back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self
from urllib.parse import urlsplit

import redis
from jobs_starts import Starts
from sqlalchemy import create_engine, inspect, make_url, text

SERVERS = {
    "postgresql": os.environ.get("BENCH_POSTGRESQL", "postgresql+psycopg://postgres@127.0.0.1:5432/postgres"),
    "mariadb": os.environ.get("BENCH_MARIADB", "mariadb+pymysql://root@127.0.0.1:3306/mysql?charset=utf8mb4"),
}
REDIS = os.environ.get("BENCH_REDIS", "redis://127.0.0.1:6379/0")
RABBITMQ = os.environ.get("BENCH_RABBITMQ", "amqp://guest:guest@127.0.0.1:5672//")
_ORDERS = "RINDLE_BENCH"
_STOP_SECONDS = 15


class WorkerDied(Exception):
    """A process ended that should have worked; with what it said last."""


class Ground:
    """A temporary directory, and whatever is put up from it. Leaving the block takes everything down."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._workers: list[tuple[subprocess.Popen[bytes], Path]] = []

    def __enter__(self) -> Self:
        self.directory = Path(self._stack.enter_context(TemporaryDirectory(prefix="rindle-bench-")))
        self.starts = Starts(self.directory / "starts", self._check)
        self._stack.callback(self.starts.close)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def on_leaving(self, call: Callable[..., object], *args: object) -> None:
        self._stack.callback(call, *args)

    def database(self, kind: str) -> str:
        """The URL of an empty database."""
        name = _new_name()
        if kind == "sqlite":
            return f"sqlite:///{self.directory / name}.db"
        force = " WITH (FORCE)" if kind == "postgresql" else ""
        self.on_leaving(_execute, SERVERS[kind], f"DROP DATABASE IF EXISTS {name}{force}")
        _execute(SERVERS[kind], f"CREATE DATABASE {name}")
        return make_url(SERVERS[kind]).set(database=name).render_as_string(hide_password=False)

    def broker(self, kind: str) -> tuple[str, dict[str, Any]]:
        """The URL of a broker and Celery's transport options, so that no queue is shared with anybody."""
        name = _new_name()
        if kind == "redis":
            self.on_leaving(_forget_keys, name)
            return REDIS, {"global_keyprefix": name}
        server = urlsplit(RABBITMQ)
        self.on_leaving(_rabbitmqctl, "delete_vhost", name)
        _rabbitmqctl("add_vhost", name)
        _rabbitmqctl("set_permissions", "--vhost", name, server.username or "guest", ".*", ".*", ".*")
        return server._replace(path=f"/{name}").geturl(), {}

    def run(self, *command: str, orders: Mapping[str, Any]) -> int:
        """Start a Python command, with orders for the module that it loads, in a process group of its own; its pid."""
        log = self.directory / f"{_new_name()}.log"
        paths = (str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))
        environment = {**os.environ, _ORDERS: json.dumps(orders), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, *command],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self.directory,
                start_new_session=True,  # Ctrl-C is ours to hear, and to pass on
            )
        self._workers.append((process, log))
        self.on_leaving(_end, process)
        return process.pid

    def _check(self) -> None:
        for process, log in self._workers:
            if process.poll() is not None:
                raise WorkerDied(log.read_text(errors="replace")[-3000:])


def is_worker() -> bool:
    return _ORDERS in os.environ


def orders() -> dict[str, Any]:
    """In a worker: what it was started with."""
    return dict(json.loads(os.environ[_ORDERS]))


def analyze(url: str) -> None:
    """Bring the tables into the state that they have when they are older than a minute."""
    engine = create_engine(url)
    statements = ["VACUUM ANALYZE" if engine.dialect.name == "postgresql" else "ANALYZE"]
    if engine.dialect.name in ("mysql", "mariadb"):
        statements = [f"ANALYZE TABLE {table}" for table in inspect(engine).get_table_names()]
    engine.dispose()
    _execute(url, *statements)


def _new_name() -> str:
    return f"rindle_bench_{uuid.uuid4().hex[:12]}"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        print(f"a worker did not stop within {_STOP_SECONDS} s and was killed", file=sys.stderr)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _execute(url: str, *statements: str) -> None:
    admin = create_engine(url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))
    admin.dispose()


def _forget_keys(prefix: str) -> None:
    with redis.Redis.from_url(REDIS) as client:
        for key in client.scan_iter(f"{prefix}*", count=10_000):
            client.delete(key)


def _rabbitmqctl(*arguments: str) -> None:
    subprocess.run(["rabbitmqctl", "--quiet", *arguments], check=True, stdin=subprocess.DEVNULL)  # noqa: S607
