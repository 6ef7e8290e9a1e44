"""A clock that stands still until it is told to go on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any


class FrozenClock:
    """Give it as `clock=` to `init_app`; `clock.tick(minutes=16)` instead of sleeping."""

    def __init__(self, start: datetime = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)) -> None:
        self.set(start)

    def __call__(self) -> datetime:
        return self._now

    def tick(self, **by: Any) -> datetime:
        """Go on by what `timedelta(**by)` says, and tell the time then."""
        self._now += timedelta(**by)
        return self._now

    def set(self, moment: datetime) -> None:
        """Go to a moment, which must be aware."""
        if moment.tzinfo is None:
            msg = f"{moment!r} has no time zone; write datetime(..., tzinfo=UTC)"
            raise ValueError(msg)
        self._now = moment
