"""Rindle's DDL in versions. A host's own revision calls `upgrade(op, since=…, to=…)`.

`flask rindle migration` writes that revision.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

from flask_rindle.errors import ConfigurationError
from flask_rindle.migrations import v1, v2, v3

if TYPE_CHECKING:
    from alembic.operations import Operations

_VERSIONS: tuple[ModuleType, ...] = (v1, v2, v3)
LATEST = len(_VERSIONS)


def upgrade(op: Operations, *, to: int, since: int = 0) -> None:
    """Bring the tables from version `since` to version `to`, in the revision's own transaction."""
    _check(since, to)
    for version in _VERSIONS[since:to]:
        version.upgrade(op)


def downgrade(op: Operations, *, to: int, since: int = LATEST) -> None:
    """Take the tables back from version `since` to version `to`."""
    _check(to, since)
    for version in reversed(_VERSIONS[to:since]):
        version.downgrade(op)


def _check(lower: int, upper: int) -> None:
    if not 0 <= lower <= upper <= LATEST:
        raise ConfigurationError(
            [f"there are versions 0 to {LATEST} of the tables, not {lower} to {upper}; update flask-rindle"]
        )
