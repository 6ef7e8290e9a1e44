"""The heart of a process that works: one thread keeps the leases of everything that is being done here.

It also looks, twice a second, whether somebody asked to stop, so that cancelling takes effect at once
and not when a lease is next renewed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from flask_rindle.errors import RindleError
from flask_rindle.forks import renew_after_fork
from flask_rindle.outbox import LEASE_SECONDS, Claim, Outbox, Pulse

log = logging.getLogger("flask_rindle.pipeline")

LOOK_SECONDS = 0.5
HEARTBEAT_SECONDS = LEASE_SECONDS / 4


class Hold:
    """A claim while it is being worked on."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.pulse = Pulse.OURS
        self.renewed_at = time.monotonic()

    @property
    def wants_stop(self) -> bool:
        """Whether the work is to end: it was cancelled, or it is somebody else's by now."""
        return self.pulse is not Pulse.OURS


class Heart:
    """Beats while there is something to hold. Safe to share between threads, and over a fork."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self.start_afresh()
        renew_after_fork(self)

    def start_afresh(self) -> None:
        """Hold nothing: what was held is the work of another process."""
        self._lock = threading.Lock()
        self._holds: dict[Claim, Hold] = {}
        self._thread: threading.Thread | None = None

    @contextmanager
    def hold(self, claim: Claim) -> Iterator[Hold]:
        """Keep the claim's lease while the block runs."""
        held = Hold(claim)
        with self._lock:
            self._holds[claim] = held
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="rindle-heart", daemon=True)
                self._thread.start()
        try:
            yield held
        finally:
            with self._lock:
                self._holds.pop(claim, None)  # forgotten in a process that was forked meanwhile

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            # Most work is done before there is anything to look at.
            pause.wait(LOOK_SECONDS)
            with self._lock:
                holds = list(self._holds.values())
                if not holds:
                    self._thread = None
                    return
            self._beat(holds)

    def _beat(self, holds: list[Hold]) -> None:
        now = time.monotonic()
        tired = [held for held in holds if now - held.renewed_at >= HEARTBEAT_SECONDS]
        others = [held for held in holds if held not in tired]
        try:
            if tired:
                # One whose row somebody holds is not among the answers, and is tried again at the next beat.
                for held in _take_down(tired, self._outbox.heartbeat([held.claim for held in tired])):
                    held.renewed_at = now
            if others:
                _take_down(others, self._outbox.look([held.claim for held in others]))
        except RindleError as error:
            log.warning(
                "jobs that run here cannot be looked at: %s; leases have %s s at most", error.code, LEASE_SECONDS
            )
        except Exception:
            log.exception("running jobs cannot be looked at; leases have %s s at most", LEASE_SECONDS)


def _take_down(holds: list[Hold], pulses: Mapping[Claim, Pulse]) -> list[Hold]:
    """Note what has come back; the holds that there was an answer about."""
    answered = [held for held in holds if held.claim in pulses]
    for held in answered:
        held.pulse = pulses[held.claim]
    return answered
