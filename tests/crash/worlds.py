"""Where worlds come from: new ones on SQLite, and new ones on PostgreSQL with Celery."""

from __future__ import annotations

import itertools
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import redis
from sqlalchemy import create_engine, make_url, text
from world import World

SERVER = "postgresql+psycopg://postgres@127.0.0.1:5432/postgres"
BROKER = "redis://127.0.0.1:6379/0"
# Processes die here, never the server: it need not wait for its disk.
UNHURRIED = {"options": "-csynchronous_commit=off"}

NewWorld = Callable[[], AbstractContextManager[World]]


class Folders:
    """Folders with names that no other run has either."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._run = uuid.uuid4().hex[:8]
        self._numbers = itertools.count()

    def new(self) -> Path:
        folder = self._base / f"rindle_crash_{self._run}_{next(self._numbers)}"
        (folder / "tmp").mkdir(parents=True)
        return folder


@contextmanager
def on_sqlite(folders: Folders) -> Iterator[NewWorld]:
    """Jobs run in the process of the app."""
    founded = folders.new() / "app.db"
    World(founded.parent, f"sqlite:///{founded}").found()

    @contextmanager
    def new_world() -> Iterator[World]:
        folder = folders.new()
        shutil.copy(founded, folder / "app.db")
        yield World(folder, f"sqlite:///{folder / 'app.db'}")

    yield new_world


@contextmanager
def on_celery(folders: Folders) -> Iterator[NewWorld]:
    """Jobs run in a Celery worker. Raises what the drivers do when there is no PostgreSQL or no Redis."""

    @contextmanager
    def new_world() -> Iterator[World]:
        folder = folders.new()
        with _database(folder.name, founded.name) as url, _part_of_broker(folder.name):
            yield World(folder, url, BROKER)

    founded = folders.new()
    with _database(founded.name) as url, _part_of_broker(founded.name):
        World(founded, url).found()
        yield new_world


@contextmanager
def _database(name: str, template: str = "template1") -> Iterator[str]:
    _execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        url = make_url(SERVER).set(database=name).update_query_dict(UNHURRIED)
        yield url.render_as_string(hide_password=False)
    finally:
        _execute(f"DROP DATABASE {name} WITH (FORCE)")


def _execute(statement: str) -> None:
    admin = create_engine(SERVER, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 3})
    with admin.connect() as connection:
        connection.execute(text(statement))
    admin.dispose()


@contextmanager
def _part_of_broker(name: str) -> Iterator[None]:
    with redis.Redis.from_url(BROKER, socket_connect_timeout=3) as broker:
        broker.ping()
        try:
            yield
        finally:
            for key in broker.scan_iter(f"{name}:*"):
                broker.delete(key)
