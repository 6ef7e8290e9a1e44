"""The floors of the package, as pyproject.toml draws them, are kept."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import flask_rindle

ROOT = Path(flask_rindle.__file__).parents[1]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    return subprocess.run(
        [*command, "--no-cache", "--config", str(ROOT / "pyproject.toml")],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": ""},
        capture_output=True,
        text=True,
    )


def test_modules_import_lower_floors_only() -> None:
    """import-linter's contracts: floors, independent adapters, ports only, Flask at the edge."""
    pytest.importorskip("importlinter")
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Contracts: \d+ kept, 0 broken", done.stdout)


def test_nothing_in_the_package_imports_its_testing_tools() -> None:
    for path in (ROOT / "flask_rindle").rglob("*.py"):
        if "testing" not in path.parts:
            imports = re.findall(r"^\s*(?:from|import) flask_rindle\.testing", path.read_text(encoding="utf-8"), re.M)
            assert not imports, path


def test_no_module_has_a_name_that_says_nothing() -> None:
    names = {path.stem for path in (ROOT / "flask_rindle").rglob("*.py")}
    assert not names & {"utils", "helpers", "common", "misc", "manager", "service", "impl"}
