"""The versioned DDL makes the tables that the models describe, forth and back, on three databases."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from flask import Flask
from flask_migrate import Migrate
from sqlalchemy import (
    JSON,
    Boolean,
    CheckConstraint,
    Column,
    Connection,
    Engine,
    Inspector,
    Integer,
    String,
    Table,
    TableClause,
    Uuid,
    column,
    create_engine,
    inspect,
    null,
    select,
    text,
)
from sqlalchemy import table as sql_table

from flask_rindle import migrations
from flask_rindle.cli.migration import write_revision
from flask_rindle.errors import ConfigurationError
from flask_rindle.migrations.v1 import TABLES
from flask_rindle.models import metadata
from flask_rindle.models.base import UTCDateTime

HOST = """
from flask import Flask
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column
from flask_rindle import Profile, Rindle, attached

class Avatar(Profile):
    pass

app = Flask(__name__)
app.config.update(SECRET_KEY="x", SQLALCHEMY_DATABASE_URI={url!r}, RINDLE_JOBS="inline")
db = SQLAlchemy(app)

class User(db.Model):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    avatar = attached("avatar", Avatar)

Rindle(app, db, profiles=[Avatar], owners={{"user": User}})
Migrate(app, db)
"""

# A host with no tables of its own.
BARE = re.sub(r"class User.*?\n\n", "", HOST, flags=re.DOTALL).replace('{{"user": User}}', "{{}}")
LONG_AGO = Path(__file__).parents[2] / "example/migrations"


@pytest.fixture
def project(tmp_path: Path, any_database: str) -> Callable[..., str]:
    """`project("db", "init")`: runs `flask db init` in a project of its own, and gives what it says."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "app.py").write_text(HOST.format(url=any_database))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FLASK_")}

    def flask(*arguments: str, succeeds: bool = True) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "flask", *arguments],
            cwd=folder,
            env={**environment, "PYTHONWARNINGS": "default"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (done.returncode == 0) is succeeds, done.stdout + done.stderr
        return done.stdout + done.stderr

    return flask


def test_a_hosts_history_gets_the_tables_and_alembic_finds_no_difference(
    project: Callable[..., str], tmp_path: Path, any_database: str
) -> None:
    """`flask db check` through the real command line, also after the host's own next revision."""
    project("db", "init")
    assert "Wrote" in project("rindle", "migration")
    project("db", "upgrade")
    project("db", "migrate", "-m", "users")
    project("db", "upgrade")
    assert "No new upgrade operations detected" in project("db", "check")
    assert "up to date" in project("rindle", "migration")
    revisions = [path.read_text() for path in (tmp_path / "project/migrations/versions").glob("*.py")]
    assert sorted("rindle_" in text for text in revisions) == [False, False], "the DDL stays in the package"
    project("db", "downgrade", "base")
    engine = create_engine(any_database)
    assert not [name for name in inspect(engine).get_table_names() if name.startswith("rindle")]
    engine.dispose()


def test_a_host_that_applied_version_1_long_ago_gets_the_rest(
    project: Callable[..., str], tmp_path: Path, any_database: str
) -> None:
    """The example did: its history is one."""
    versions = tmp_path / "project/migrations/versions"
    (tmp_path / "project/app.py").write_text(BARE.format(url=any_database))
    later = shutil.ignore_patterns("*members*", "*rindle_[!1]*", "__pycache__")
    shutil.copytree(LONG_AGO, versions.parent, ignore=later)
    (first,) = versions.glob("*.py")
    assert "since=0, to=1" in first.read_text()
    project("db", "upgrade")
    with sql_engine(any_database) as engine, engine.connect() as connection:
        assert differences(engine), "version 1 is not the latest"
        stored = [light(connection, table) for table in metadata.sorted_tables]
        fill(connection, stored)
        connection.commit()
        before = contents(connection, stored)
    assert "Wrote" in project("rindle", "migration")
    (second,) = set(versions.glob("*.py")) - {first}
    assert f"since=1, to={migrations.LATEST}" in second.read_text()
    project("db", "upgrade")
    assert "No new upgrade operations detected" in project("db", "check")
    with sql_engine(any_database) as engine, engine.connect() as connection:
        assert contents(connection, stored) == before


def test_a_host_that_migrates_first_has_the_tables_in_its_own_words(project: Callable[..., str]) -> None:
    """`flask db migrate` before `flask rindle migration` works too; the second then says what is in its way."""
    project("db", "init")
    project("db", "migrate", "-m", "users")
    project("db", "upgrade")
    assert "No new upgrade operations detected" in project("db", "check")
    refused = project("rindle", "migration", succeeds=False)
    assert "creates Rindle's tables itself" in refused
    assert "Traceback" not in refused


def run(engine: Engine, change: Callable[[Operations], None]) -> None:
    with engine.begin() as connection:
        context = MigrationContext.configure(connection)
        with Operations.context(context) as op:
            change(op)


def differences(engine: Engine) -> list[object]:
    with engine.connect() as connection:
        return compare_metadata(MigrationContext.configure(connection), metadata)


def description(engine: Engine) -> dict[str, Any]:
    """All that a database says of our tables, whatever the order."""
    found = inspect(engine)
    return {table: _description(found, table) for table in TABLES}


def _description(found: Inspector, table: str) -> dict[str, list[Any]]:
    return {
        "columns": sorted(
            (column["name"], str(column["type"]), column["nullable"], str(column["default"]))
            for column in found.get_columns(table)
        ),
        "primary": [found.get_pk_constraint(table)["name"], *found.get_pk_constraint(table)["constrained_columns"]],
        "checks": sorted((str(check["name"]), check["sqltext"]) for check in found.get_check_constraints(table)),
        "unique": sorted((str(key["name"]), *key["column_names"]) for key in found.get_unique_constraints(table)),
        "foreign": sorted(
            (str(key["name"]), *key["constrained_columns"], key["referred_table"], key["options"].get("ondelete"))
            for key in found.get_foreign_keys(table)
        ),
        "indexes": sorted(
            (str(index["name"]), bool(index["unique"]), *map(str, index["column_names"]))
            for index in found.get_indexes(table)
        ),
    }


def description_of_models(engine: Engine) -> dict[str, Any]:
    """The same of what `create_all` makes, in the place of what was there."""
    metadata.drop_all(engine)
    metadata.create_all(engine)
    return description(engine)


@contextmanager
def sql_engine(url: str) -> Iterator[Engine]:
    engine = create_engine(url)
    yield engine
    engine.dispose()


# What each version adds to the rows that were there.
_OF_AN_UPLOAD = ("part_bytes", "multipart_upload_id", "session_uri", "session_uri_expires_at", "writable_until")
ADDED: dict[int, dict[str, Any]] = {
    2: {"rindle_jobs.priority": {0}},
    3: {f"rindle_upload_sessions.{name}": {None} for name in _OF_AN_UPLOAD},
}


def light(connection: Connection, table: Table) -> TableClause:
    """The table as it is in the database at this version, and without the models' defaults."""
    there = {column["name"] for column in inspect(connection).get_columns(table.name)}
    return sql_table(table.name, *[column(of.name, of.type) for of in table.columns if of.name in there])


def fill(connection: Connection, tables: Sequence[TableClause]) -> None:
    """Two rows in each table: one with everything, and one with nothing that may be left out."""
    for table in tables:
        for number, is_full in ((1, True), (2, False)):
            declared = metadata.tables[table.name].columns
            values = {
                name: value(declared[name], number) if is_full or not declared[name].nullable else null()
                for name in table.columns.keys()  # noqa: SIM118 - it is no dictionary
            }
            connection.execute(table.insert().values(values))


def value(of: Column[Any], number: int) -> Any:
    """What a row with this number has in a column; keys point at rows with the same number."""
    check = next((check for check in checks(of.table) if check.startswith(f"{of.name} IN ")), None)
    if check is not None:
        return check.split("'")[1]
    makers: dict[type, Any] = {
        Uuid: uuid.UUID(int=number),
        String: f"{number} ü {of.name}"[: getattr(of.type, "length", None)],
        Boolean: True,
        Integer: number,
        UTCDateTime: datetime(2026, 3, 1, 12, 0, number, 123456, tzinfo=UTC),
        JSON: [{"attempt": number}],
    }
    return next(made for kind, made in makers.items() if isinstance(of.type, kind))


def checks(table: Table) -> list[str]:
    return [str(found.sqltext) for found in table.constraints if isinstance(found, CheckConstraint)]


def contents(connection: Connection, tables: Sequence[TableClause]) -> dict[str, list[Any]]:
    return {table.name: list(connection.execute(select(table).order_by(table.c.id))) for table in tables}


def added(connection: Connection, old: Sequence[TableClause], new: Sequence[TableClause]) -> dict[str, set[Any]]:
    """The columns that were not there before, and what they hold."""
    return {
        f"{after.name}.{name}": set(connection.scalars(select(after.c[name])))
        for before, after in zip(old, new, strict=True)
        for name in set(after.columns.keys()) - set(before.columns.keys())
    }


@pytest.fixture
def empty(any_database: str) -> Engine:
    return create_engine(any_database)


class TestVersions:
    def test_up_makes_what_the_models_describe(self, empty: Engine) -> None:
        run(empty, lambda op: migrations.upgrade(op, to=migrations.LATEST))
        assert differences(empty) == []
        empty.dispose()

    def test_down_leaves_nothing_and_up_again_works(self, empty: Engine) -> None:
        for _ in range(2):
            run(empty, lambda op: migrations.upgrade(op, to=migrations.LATEST))
            assert sorted(inspect(empty).get_table_names()) == sorted(TABLES)
            run(empty, lambda op: migrations.downgrade(op, to=0))
            assert inspect(empty).get_table_names() == []
        empty.dispose()

    @pytest.mark.parametrize("version", range(2, migrations.LATEST + 1))
    def test_each_goes_up_and_down_and_up_again_with_rows_in_every_table(self, empty: Engine, version: int) -> None:
        with empty.begin() as connection:
            connection.execute(text("CREATE TABLE hosts (id INTEGER PRIMARY KEY)"))
            connection.execute(text("INSERT INTO hosts VALUES (7)"))
        run(empty, lambda op: migrations.upgrade(op, to=version - 1))
        with empty.begin() as connection:
            old = [light(connection, table) for table in metadata.sorted_tables]
            fill(connection, old)
            before, lower = contents(connection, old), description(empty)
        for _ in range(2):
            run(empty, lambda op: migrations.upgrade(op, since=version - 1, to=version))
            with empty.connect() as connection:
                assert contents(connection, old) == before
                new = [light(connection, table) for table in metadata.sorted_tables]
                assert added(connection, old, new) == ADDED[version]
            run(empty, lambda op: migrations.downgrade(op, since=version, to=version - 1))
            with empty.connect() as connection:
                assert contents(connection, old) == before
            assert description(empty) == lower
        run(empty, lambda op: migrations.upgrade(op, since=version - 1, to=version))
        run(empty, lambda op: migrations.downgrade(op, since=version, to=0))
        assert inspect(empty).get_table_names() == ["hosts"]
        with empty.connect() as connection:
            assert connection.scalar(text("SELECT id FROM hosts")) == 7
        empty.dispose()

    def test_each_has_its_test_with_rows(self) -> None:
        assert sorted(ADDED) == list(range(2, migrations.LATEST + 1))

    def test_everything_is_the_models(self, empty: Engine) -> None:
        """Alembic compares no CHECKs, and little of indexes and defaults; so we do, with what `create_all` makes."""
        run(empty, lambda op: migrations.upgrade(op, to=migrations.LATEST))
        assert description(empty) == description_of_models(empty)
        empty.dispose()

    @pytest.mark.parametrize(
        ("since", "to"), [(0, migrations.LATEST + 1), (1, 0), (-1, 1)], ids=["too new", "backwards", "negative"]
    )
    def test_that_are_not_there_are_refused(self, since: int, to: int) -> None:
        with pytest.raises(ConfigurationError, match="update flask-rindle"):
            migrations.upgrade(SimpleNamespace(), since=since, to=to)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="update flask-rindle"):
            migrations.downgrade(SimpleNamespace(), since=to, to=since)  # type: ignore[arg-type]


class TestRefusals:
    def test_without_flask_migrate(self, app: Flask) -> None:
        result = app.test_cli_runner().invoke(args=["rindle", "migration"])
        assert result.exit_code == 1
        assert "call Migrate(app, db)" in result.output

    def test_without_a_folder(self, app: Flask, tmp_path: Path) -> None:
        Migrate(app, app.extensions["host"].db)
        result = app.test_cli_runner().invoke(args=["rindle", "migration", "-d", str(tmp_path / "nowhere")])
        assert result.exit_code == 1
        assert f"there are no migrations in {tmp_path / 'nowhere'}; run flask db init" in result.output

    def test_are_errors_of_ours(self, app: Flask) -> None:
        with app.app_context(), pytest.raises(ConfigurationError):
            write_revision()
