"""What a forked process makes anew: locks that another thread held, threads and connections that stayed behind."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Renewable(Protocol):
    """Something that does not survive a fork as it is."""

    def start_afresh(self) -> None:
        """Forget what belongs to the process that was forked."""
        ...


_things: weakref.WeakSet[Renewable] = weakref.WeakSet()


def renew_after_fork(thing: Renewable) -> None:
    """Have it start afresh in every process that is forked from this one."""
    _things.add(thing)


def _renew() -> None:
    for thing in list(_things):
        thing.start_afresh()


os.register_at_fork(after_in_child=_renew)
