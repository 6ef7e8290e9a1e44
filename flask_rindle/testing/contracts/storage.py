"""What every storage promises, each promise one function.

With pytest, four lines run them all against an adapter:

    class TestMyStorage(StorageContract):
        @pytest.fixture
        def storage(self):
            return MyStorage("media")

Without it, `lint_storage(storage)` gives a list of broken promises. Either works under keys of its own,
`rindle-contract/...`, and removes them, so a storage that is in use can be checked too.
"""

from __future__ import annotations

from collections.abc import Callable
from unittest import SkipTest

import flask_rindle.testing.contracts.links
import flask_rindle.testing.contracts.parts
import flask_rindle.testing.contracts.promotion
import flask_rindle.testing.contracts.resumable
import flask_rindle.testing.contracts.verbs  # noqa: F401 - each of them puts its promises on the list
from flask_rindle.storage.base import Storage
from flask_rindle.testing.contracts.trial import CHECKS, Check
from flask_rindle.testing.contracts.trial import FakeLinks as FakeLinks


def lint_storage(storage: Storage) -> list[str]:
    """One sentence for each promise that the storage breaks."""
    problems = (problem(check, storage) for check in CHECKS if check.applies_to(storage))
    return [sentence for sentence in problems if sentence]


def problem(check: Check, storage: Storage) -> str | None:
    try:
        check.run(storage)
    except AssertionError as error:
        return f"{check.name}: {error}"
    except Exception as error:  # noqa: BLE001 - adapters may raise anything; that is what is looked for
        return f"{check.name}: {type(error).__name__} came out"  # its text might hold a signed URL
    return None


class StorageContract:
    """Tests of every promise; a subclass gives them a `storage` fixture with a fresh adapter."""


def as_test(check: Check) -> Callable[[StorageContract, Storage], None]:
    def test(_: StorageContract, storage: Storage) -> None:
        if not check.applies_to(storage):
            message = f"{storage!r} does not declare it"
            raise SkipTest(message)
        check.run(storage)

    test.__doc__ = check.body.__doc__
    return test


for each in CHECKS:
    setattr(StorageContract, f"test_{each.name}", as_test(each))
