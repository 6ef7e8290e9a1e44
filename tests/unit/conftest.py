"""The library's own tables on each of the three databases, without an app."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine, create_engine

from flask_rindle.models import Asset, metadata
from flask_rindle.models.database import Database
from flask_rindle.testing.clock import FrozenClock
from flask_rindle.types import new_id


@pytest.fixture
def sql_engine(any_database: str) -> Iterator[Engine]:
    engine = create_engine(any_database)
    metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def database(sql_engine: Engine) -> Iterator[Database]:
    database = Database(lambda: sql_engine, lambda: None)
    yield database
    database.dispose()


@pytest.fixture
def add_asset(database: Database, clock: FrozenClock) -> Callable[..., Asset]:
    """`add_asset(state=, **columns)`: a committed row."""

    def add(**columns: object) -> Asset:
        values = {"profile": "avatar", "storage": "default", "filename": "a.jpg", "state": "ready", "kind": "image"}
        asset = Asset(id=new_id(), created_at=clock(), updated_at=clock(), **{**values, **columns})
        with database.transaction() as db_session:
            db_session.add(asset)
        return asset

    return add
