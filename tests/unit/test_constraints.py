"""Every CHECK, key and NOT NULL that the models declare is held by each of the three databases.

The cases come from the metadata: a new constraint is tried by itself, and one of a new kind fails here.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest
from sqlalchemy import (
    JSON,
    Boolean,
    CheckConstraint,
    Column,
    Connection,
    Constraint,
    Engine,
    ForeignKeyConstraint,
    Integer,
    PrimaryKeyConstraint,
    String,
    Table,
    UniqueConstraint,
    Uuid,
    create_engine,
    delete,
    insert,
    null,
    select,
)
from sqlalchemy.exc import DatabaseError, OperationalError

from flask_rindle.models import metadata
from flask_rindle.models.base import UTCDateTime
from flask_rindle.models.database import Database

ONE_OF = re.compile(r"(\w+) IN \(('\w+'(?:, '\w+')*)\)")
NUMBERS = count(1)


def constraints(*kinds: type[Constraint]) -> list[Any]:
    found = [found for table in metadata.sorted_tables for found in table.constraints if isinstance(found, kinds)]
    return [
        pytest.param(constraint, id=str(constraint.name)) for constraint in sorted(found, key=lambda c: str(c.name))
    ]


CHECKS = constraints(CheckConstraint)
UNIQUE = constraints(UniqueConstraint)
PRIMARY = constraints(PrimaryKeyConstraint)
FOREIGN = constraints(ForeignKeyConstraint)
NEEDED = [
    pytest.param(column, id=str(column))
    for table in metadata.sorted_tables
    for column in table.columns
    if not column.nullable and column is not table.autoincrement_column
]


def words(check: CheckConstraint) -> tuple[str, list[str]]:
    """The column of a CHECK, and what it may hold."""
    match = ONE_OF.fullmatch(str(check.sqltext))
    assert match is not None, f"{check.name} is a CHECK of a new kind, which nothing here tries"
    return match[1], re.findall(r"'(\w+)'", match[2])


def words_of(column: Column[Any]) -> list[str]:
    checks = [words(found) for found in column.table.constraints if isinstance(found, CheckConstraint)]
    return next((allowed for name, allowed in checks if name == column.name), [])


def value(column: Column[Any]) -> Any:
    """Something that the column can hold, and that no other row has."""
    number = next(NUMBERS)
    allowed = words_of(column)
    if allowed:
        return allowed[0]
    makers: dict[type, Callable[[], Any]] = {
        Uuid: lambda: uuid.UUID(int=number),
        String: lambda: f"w{number}",
        Boolean: lambda: True,
        Integer: lambda: number,
        UTCDateTime: lambda: datetime(2026, 3, 1, microsecond=number % 1_000_000, tzinfo=UTC),
        JSON: lambda: [number],
    }
    return next(make() for kind, make in makers.items() if isinstance(column.type, kind))


class Rows:
    """Writes rows that are good but for what a test says; each writing is a transaction within the test's own."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def good(self, table: Table, **given: Any) -> dict[str, Any]:
        """The values of a new row, with the rows that it points at."""
        values = {column.name: value(column) for column in table.columns if column is not table.autoincrement_column}
        for key in table.foreign_keys:
            if key.parent.name not in given:
                values[key.parent.name] = self.add(key.column.table)[key.column.name]
        return {**values, **given}

    def add(self, table: Table, **given: Any) -> dict[str, Any]:
        row = self.good(table, **given)
        with self._connection.begin_nested():
            self._connection.execute(insert(table).values(row))
        return row

    def refused(self, constraint: Constraint, row: dict[str, Any]) -> None:
        """That the row cannot be written, because of this constraint."""
        table = constraint.table
        with pytest.raises(DatabaseError) as caught, self._connection.begin_nested():
            self._connection.execute(insert(table).values(row))
        assert any(name in str(caught.value.orig) for name in self._names(constraint)), str(caught.value.orig)

    def _names(self, constraint: Any) -> list[str]:
        """How the database may call a constraint. SQLite names the columns of a key, and no foreign key."""
        if self._connection.dialect.name != "sqlite" or isinstance(constraint, CheckConstraint):
            return [
                str(constraint.name),
                f"for key '{'PRIMARY' if constraint.name.startswith('pk') else constraint.name}'",
            ]
        if isinstance(constraint, ForeignKeyConstraint):
            return ["FOREIGN KEY constraint failed"]
        return [", ".join(f"{column.table.name}.{column.name}" for column in constraint.columns)]

    def delete(self, table: Table, row: dict[str, Any]) -> None:
        self._connection.execute(delete(table).where(table.c.id == row["id"]))

    def find(self, table: Table, row: dict[str, Any]) -> Any:
        return self._connection.execute(select(table).where(table.c.id == row["id"])).mappings().one_or_none()


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "mariadb"])
def writer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The library's own connections to a database with its tables."""
    try:
        sqlite = f"sqlite:///{tmp_path_factory.mktemp('constraints') / 'a.db'}"
        url = sqlite if request.param == "sqlite" else request.getfixturevalue("databases")(request.param)
    except OperationalError as error:
        if os.environ.get("CI") or os.environ.get("RINDLE_REQUIRE_ALL"):
            raise
        pytest.skip(f"no {request.param} server on this machine: {error.orig}")
    engine = create_engine(url)
    metadata.create_all(engine)
    database = Database(lambda: engine, lambda: None)
    yield database._binds().writer
    database.dispose()
    engine.dispose()


@pytest.fixture
def rows(writer: Engine) -> Iterator[Rows]:
    with writer.connect() as connection:
        yield Rows(connection)
        connection.rollback()


def test_there_is_no_constraint_of_another_kind() -> None:
    found = [str(constraint.name) for table in metadata.sorted_tables for constraint in table.constraints]
    tried = [case.id for case in [*CHECKS, *UNIQUE, *PRIMARY, *FOREIGN]]
    assert sorted(found) == sorted(tried)
    assert not [index.name for table in metadata.sorted_tables for index in table.indexes if index.unique]


@pytest.mark.parametrize("table", metadata.sorted_tables, ids=str)
def test_a_row_with_everything_and_one_with_nothing_that_may_be_left_out(rows: Rows, table: Table) -> None:
    rows.add(table)
    rows.add(table, **{column.name: None for column in table.columns if column.nullable})


@pytest.mark.parametrize("check", CHECKS)
def test_a_check_takes_its_words_and_no_other(rows: Rows, check: CheckConstraint) -> None:
    column, allowed = words(check)
    for word in allowed:
        rows.add(check.table, **{column: word})
    for word in ("nonsense", allowed[0].upper(), ""):
        rows.refused(check, rows.good(check.table, **{column: word}))


@pytest.mark.parametrize("key", [*UNIQUE, *PRIMARY])
def test_a_key_is_given_once(rows: Rows, key: UniqueConstraint) -> None:
    names = [column.name for column in key.columns]
    counted = key.table.autoincrement_column
    first = rows.add(key.table, **({} if counted is None else {counted.name: 7}))
    same = {name: first[name] for name in names}
    rows.refused(key, rows.good(key.table, **same))
    for name in names:
        others = {other: first[other] for other in names if other != name}
        rows.add(key.table, **others)


@pytest.mark.parametrize("key", UNIQUE)
def test_a_key_that_is_null_is_free(rows: Rows, key: UniqueConstraint) -> None:
    first = rows.add(key.table)
    for column in key.columns:
        if column.nullable:
            same = {other.name: first[other.name] for other in key.columns}
            for _ in range(2):
                rows.add(key.table, **{**same, column.name: None})


@pytest.mark.parametrize("key", FOREIGN)
def test_a_foreign_key_points_at_a_row(rows: Rows, key: ForeignKeyConstraint) -> None:
    (column,) = key.columns
    rows.refused(key, rows.good(key.table, **{column.name: uuid.UUID(int=2**100)}))


@pytest.mark.parametrize("key", FOREIGN)
def test_a_foreign_key_does_what_it_says_when_that_row_goes(rows: Rows, key: ForeignKeyConstraint) -> None:
    (column,) = key.columns
    parent, other = rows.add(key.referred_table), rows.add(key.referred_table)
    child, kept = (rows.add(key.table, **{column.name: pointed["id"]}) for pointed in (parent, other))
    rows.delete(key.referred_table, parent)
    if key.ondelete == "CASCADE":
        assert rows.find(key.table, child) is None
    else:
        assert key.ondelete == "SET NULL", f"{key.name} does something that nothing here tries"
        assert rows.find(key.table, child)[column.name] is None
    assert rows.find(key.table, kept)[column.name] == other["id"]


@pytest.mark.parametrize("column", NEEDED)
def test_what_must_be_there_may_not_be_null(rows: Rows, column: Column[Any]) -> None:
    row = {**rows.good(column.table), column.name: null()}
    with pytest.raises(DatabaseError, match=rf"(?i){column.name}.*null|null.*{column.name}"):
        rows._connection.execute(insert(column.table).values(row))
