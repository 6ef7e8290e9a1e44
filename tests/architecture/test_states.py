"""States change in one place: read from the code itself, so that nobody can forget."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import flask_rindle
from flask_rindle import models

PACKAGE = Path(flask_rindle.__file__).parent
DOORS = {"lifecycle.py", "outbox/claims.py", "outbox/outbox.py"}
SOURCES = sorted(
    path
    for path in PACKAGE.rglob("*.py")
    if path.relative_to(PACKAGE).as_posix() not in DOORS and "testing" not in path.parts
)
ROWS = {name for name in models.__all__ if name[0].isupper()}


def is_state(target: ast.expr | None) -> bool:
    """Whether it is a row's state; errors have one too, and set it on themselves."""
    written = isinstance(target, ast.Attribute) and target.attr in ("state", "outcome")
    return written and ast.unparse(target.value) != "self"


def breaches(source: str) -> Iterator[int]:
    """The lines that write a state: an assignment, or a constructor's or an update's keyword."""
    for node in ast.walk(ast.parse(source)):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)):
            yield from (target.lineno for target in targets if is_state(target))
        if isinstance(node, ast.Call) and any(word.arg in ("state", "outcome") for word in node.keywords):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            if name in ROWS | {"values", "update", "insert"}:
                yield node.lineno
            if name == "setattr":
                yield node.lineno


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_nobody_but_lifecycle_and_outbox_writes_a_state(path: Path) -> None:
    assert list(breaches(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "line",
    [
        "asset.state = 'ready'",
        "asset.state: str = 'ready'",
        "a = b.state = 'ready'",
        "Asset(id=1, state='ready')",
        "update(Asset).values(state='ready')",
        "models.Job(state='queued')",
    ],
)
def test_the_search_finds_what_it_looks_for(line: str) -> None:
    assert list(breaches(line)) == [1]


def test_only_promotion_makes_an_asset_available() -> None:
    """The gate is in front of it; whoever else moved an asset there would go around the gate."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "move":
                words = {ast.unparse(argument) for argument in [*node.args, *(word.value for word in node.keywords)]}
                if words & {"AssetState.AVAILABLE", "'available'", "_A.AVAILABLE"}:
                    found.add(path.relative_to(PACKAGE).as_posix())
    assert found == {"pipeline/promote.py"}


def test_only_one_function_updates_rows_with_states() -> None:
    tree = ast.parse((PACKAGE / "lifecycle.py").read_text(encoding="utf-8"))
    writers = {
        function.name
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "update"
    }
    assert writers == {"_compare_and_set"}
