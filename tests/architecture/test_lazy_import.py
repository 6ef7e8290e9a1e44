"""The decoder's child process starts without Flask and SQLAlchemy."""

from __future__ import annotations

import subprocess
import sys

import pytest


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_child_loads_no_web_framework_and_no_database() -> None:
    loaded = loaded_by("import flask_rindle.processing.child")
    assert "flask_rindle" in loaded
    assert not loaded & {"flask", "werkzeug", "jinja2", "sqlalchemy", "flask_sqlalchemy", "alembic"}


@pytest.mark.parametrize("statement", ["import flask_rindle", "from flask_rindle import MB, KB, GB"])
def test_the_package_itself_loads_nothing(statement: str) -> None:
    assert not loaded_by(statement) & {"flask", "sqlalchemy", "PIL"}


def test_the_library_does_not_need_flask_migrate() -> None:
    assert not loaded_by("import flask_rindle.extension") & {"flask_migrate", "alembic", "pytest"}


def test_the_web_process_loads_no_decoder() -> None:
    """Only the child opens files of strangers."""
    assert "PIL" not in loaded_by("import flask_rindle.extension")
