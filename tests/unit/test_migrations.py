"""The versioned DDL makes the tables that the models describe, forth and back, on three databases."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from flask import Flask
from flask_migrate import Migrate
from sqlalchemy import Engine, create_engine, inspect

from flask_rindle import migrations
from flask_rindle.cli.migration import write_revision
from flask_rindle.errors import ConfigurationError
from flask_rindle.migrations.v1 import TABLES
from flask_rindle.models import metadata

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
            run(empty, lambda op: migrations.upgrade(op, to=1))
            assert sorted(inspect(empty).get_table_names()) == sorted(TABLES)
            run(empty, lambda op: migrations.downgrade(op, to=0))
            assert inspect(empty).get_table_names() == []
        empty.dispose()

    def test_checks_and_unique_keys_are_the_models(self, empty: Engine) -> None:
        """Alembic compares no CHECKs; so we do, with what `create_all` makes."""

        def described() -> dict[str, object]:
            found = inspect(empty)
            return {
                table: (
                    sorted((check["name"], check["sqltext"]) for check in found.get_check_constraints(table)),
                    sorted((key["name"], tuple(key["column_names"])) for key in found.get_unique_constraints(table)),
                    sorted(
                        (key["name"], tuple(key["constrained_columns"]), key["options"].get("ondelete"))
                        for key in found.get_foreign_keys(table)
                    ),
                    found.get_pk_constraint(table)["name"],
                    sorted((column["name"], column["nullable"]) for column in found.get_columns(table)),
                )
                for table in TABLES
            }

        run(empty, lambda op: migrations.upgrade(op, to=1))
        migrated = described()
        run(empty, lambda op: migrations.downgrade(op, to=0))
        metadata.create_all(empty)
        assert migrated == described()
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
