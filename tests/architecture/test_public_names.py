"""What users may import is what is written down."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

import flask_rindle


def test_names_are_sorted_and_can_all_be_imported() -> None:
    assert flask_rindle.__all__ == sorted(flask_rindle.__all__)
    assert all(getattr(flask_rindle, name) is not None for name in flask_rindle.__all__)


def test_dir_shows_just_these() -> None:
    assert dir(flask_rindle) == flask_rindle.__all__


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(flask_rindle.__file__).read_text(encoding="utf-8"))
    imported = [
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.If)
        for line in node.body
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
    ]
    assert sorted(imported) == flask_rindle.__all__


def test_a_name_is_the_same_from_its_home() -> None:
    from flask_rindle.extension import Rindle
    from flask_rindle.profiles import Profile

    assert (flask_rindle.Rindle, flask_rindle.Profile) == (Rindle, Profile)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="avatar"):
        _ = flask_rindle.avatar


def test_rows_are_importable_from_the_models() -> None:
    models = importlib.import_module("flask_rindle.models")
    rows = {"Asset", "Variant", "UploadSession", "Attachment", "ProviderAsset", "ProcessingRun", "Job", "Event"}
    assert rows <= set(models.__all__)
    assert models.__all__ == sorted(models.__all__)


@pytest.mark.parametrize(
    "module", sorted(m.name for m in pkgutil.walk_packages(flask_rindle.__path__, "flask_rindle."))
)
def test_every_module_imports_by_itself_and_says_what_it_is_for(module: str) -> None:
    if module.startswith("flask_rindle.processing.child"):
        pytest.skip(
            "a script, which runs when it is imported"
        ) if module == "flask_rindle.processing.child.__main__" else None
    assert (importlib.import_module(module).__doc__ or "").strip()
