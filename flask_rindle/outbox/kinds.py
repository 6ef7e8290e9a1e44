"""The kinds of jobs, their queues, and how often each is tried."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum, StrEnum

LEASE_SECONDS = 60


class Queue(StrEnum):
    """Where jobs wait. Workers may be bound to some of them, so that long work does not hold up short work."""

    PROMOTE = "rindle_promote"
    PROCESS = "rindle_process"  # pictures
    MEDIA = "rindle_media"  # video and audio: minutes, not seconds
    PURGE = "rindle_purge"
    MAINTENANCE = "rindle_maintenance"
    PROVIDER = "rindle_provider"


def variants_queue(asset_kind: str) -> Queue:
    """Where the variants of an asset of this kind are made."""
    return Queue.MEDIA if asset_kind in ("video", "audio") else Queue.PROCESS


class Priority(IntEnum):
    """Within a queue, the lower goes first."""

    FIRST = 0  # somebody waits for it
    AGAIN = 1  # it was there before, and is made anew


class JobKind(StrEnum):
    """What there is to do. Every kind works on one asset."""

    PROMOTE = "promote"
    VARIANTS = "variants"
    PURGE = "purge"
    EXPIRE = "expire"


@dataclass(frozen=True, slots=True)
class JobPolicy:
    """Where a kind runs and how often it is tried."""

    queue: Queue
    max_attempts: int
    first_delay: timedelta = timedelta(seconds=2)
    longest_delay: timedelta = timedelta(hours=1)

    def delay(self, attempt: int) -> timedelta:
        """How long to wait after this attempt: doubling, with a quarter of it left to chance."""
        doubled: timedelta = min(self.first_delay * 2 ** min(attempt - 1, 20), self.longest_delay)
        return doubled * random.uniform(0.75, 1)  # noqa: S311 - spreads load, keeps no secret


POLICIES: Mapping[JobKind, JobPolicy] = {
    JobKind.PROMOTE: JobPolicy(Queue.PROMOTE, max_attempts=20),
    JobKind.VARIANTS: JobPolicy(Queue.PROCESS, max_attempts=8),
    JobKind.PURGE: JobPolicy(Queue.PURGE, max_attempts=30),
    JobKind.EXPIRE: JobPolicy(Queue.MAINTENANCE, max_attempts=30),
}
