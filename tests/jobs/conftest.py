"""Databases and brokers of our own, and sites that end with their test."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import OperationalError

# Its modules import each other by name, also in the processes that they start.
sys.path.insert(0, str(Path(__file__).parent))

from host_brokers import Broker, rabbitmq_broker, redis_broker
from host_site import Site, needs

SERVERS = {
    "postgresql": "postgresql+psycopg://postgres@127.0.0.1:5432/postgres",
    "mariadb": "mariadb+pymysql://root@127.0.0.1:3306/mysql?charset=utf8mb4",
}


@pytest.fixture(scope="session")
def new_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """`new_database(kind)`: the URL of an empty database that nobody else has; dropped at the end."""
    made: list[tuple[str, str]] = []

    def execute(kind: str, statement: str) -> None:
        admin = create_engine(SERVERS[kind], isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 3})
        try:
            with admin.connect() as connection:
                connection.execute(text(statement))
        finally:
            admin.dispose()

    def make(kind: str) -> str:
        name = f"rindle_jobs_{uuid.uuid4().hex[:12]}"
        if kind == "sqlite":
            return f"sqlite:///{tmp_path_factory.mktemp('database') / 'app.db'}"
        try:
            execute(kind, f"CREATE DATABASE {name}")
        except OperationalError as error:
            needs(kind, error)
        made.append((kind, name))
        return make_url(SERVERS[kind]).set(database=name).render_as_string(hide_password=False)

    yield make
    for kind, name in made:
        execute(kind, f"DROP DATABASE {name}{' WITH (FORCE)' if kind == 'postgresql' else ''}")


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """`make_site(database=, jobs=, ...)`: one that ends with the test."""
    made: list[Site] = []

    def make(**config: Any) -> Site:
        made.append(Site(tmp_path / f"site{len(made)}", config))
        return made[-1].open()

    yield make
    for site in made:
        site.close()


@pytest.fixture(scope="module")
def redis_server() -> Iterator[Broker]:
    """Redis, under a prefix of our own."""
    with redis_broker() as broker:
        yield broker


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """Each broker in turn."""
    with redis_broker() if request.param == "redis" else rabbitmq_broker() as broker:
        yield broker
