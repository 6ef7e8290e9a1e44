"""Running one claimed job: the step, its heartbeat, and what an error means for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Protocol, Self

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from flask_rindle import signals
from flask_rindle.errors import (
    Cancelled,
    DatabaseUnavailable,
    HostTrouble,
    LostRace,
    RindleError,
    SandboxFailed,
)
from flask_rindle.outbox import LEASE_SECONDS, Claim, JobKind, Outbox, Pulse, error_code
from flask_rindle.pipeline.expire import Expiry
from flask_rindle.pipeline.promote import Promotion
from flask_rindle.pipeline.purge import Purge
from flask_rindle.pipeline.tools import Tools
from flask_rindle.pipeline.variants import VariantWork
from flask_rindle.processing.base import Stop, never

log = logging.getLogger("flask_rindle.pipeline")

HEARTBEAT_SECONDS = LEASE_SECONDS / 4
# A mistake in code does not pass by with time as trouble does; a deploy between two attempts may mend it.
MAX_ATTEMPTS_AT_A_BUG = 3


class Step(Protocol):
    """One kind of work. Its first lines decide whether there is work left."""

    def run(self, claim: Claim, stop: Stop) -> None: ...

    def give_up(self, claim: Claim, error: Exception) -> None: ...


class Pipeline:
    """Runs jobs. The only place that decides between another attempt and giving up."""

    def __init__(self, tools: Tools) -> None:
        self._outbox: Outbox = tools.outbox
        self._steps: Mapping[JobKind, Step] = {
            JobKind.PROMOTE: Promotion(tools),
            JobKind.VARIANTS: VariantWork(tools),
            JobKind.PURGE: Purge(tools),
            JobKind.EXPIRE: Expiry(tools),
        }

    def run(self, claim: Claim, *, released: Stop = never) -> None:
        """Do the work of a claim and settle it. `released()` true hands unfinished work back."""
        step = self._steps[claim.kind]
        with _Heartbeat(lambda: self._outbox.heartbeat(claim)) as heart:
            try:
                self._attempt(step, claim, lambda: released() or heart.wants_stop)
            except Cancelled:
                (self._outbox.call_off if heart.wants_stop else self._outbox.release)(claim)
            except Exception as error:  # noqa: BLE001 - here it is decided what any error means
                self._judge(step, claim, _named(error))
            else:
                self._outbox.succeed(claim)
        signals.job_stop.send(claim.kind.value, job_id=claim.id, asset_id=claim.asset_id, attempt=claim.attempt)

    def _attempt(self, step: Step, claim: Claim, stop: Stop) -> None:
        if claim.attempt > claim.max_attempts:
            # Its last worker died over it, and so may we.
            raise SandboxFailed("worker lost")
        step.run(claim, stop)

    def _judge(self, step: Step, claim: Claim, error: Exception) -> None:
        if self._is_worth_another(claim, error):
            log.warning("job %s (%s) failed and will be tried again: %s", claim.id, claim.kind, error_code(error))
            self._outbox.retry(claim, error)
            return
        log.error("job %s (%s) failed for good: %s", claim.id, claim.kind, error_code(error), exc_info=error)
        step.give_up(claim, error)
        self._outbox.fail(claim, error)

    def _is_worth_another(self, claim: Claim, error: Exception) -> bool:
        if isinstance(error, RindleError):
            return (error.retryable or isinstance(error, LostRace)) and not claim.is_last_attempt
        return claim.bugs + 1 < MAX_ATTEMPTS_AT_A_BUG and not claim.is_last_attempt


def _named(error: Exception) -> Exception:
    """Trouble of the world around us by a name of ours, because it passes; a bug as it is."""
    named: RindleError
    if isinstance(error, (DBAPIError, PoolTimeout)):
        named = DatabaseUnavailable(type(error).__name__)
    elif isinstance(error, OSError):
        named = HostTrouble(error.strerror or type(error).__name__)
    else:
        return error
    named.__cause__ = error
    return named


class _Heartbeat:
    """Keeps a lease while the block runs, and hears whether to stop."""

    def __init__(self, beat: Callable[[], Pulse]) -> None:
        self._beat = beat
        self._over = threading.Event()
        self._pulse = Pulse.OURS
        self._thread = threading.Thread(target=self._run, name="rindle-heartbeat", daemon=True)

    @property
    def wants_stop(self) -> bool:
        return self._pulse is not Pulse.OURS

    def _run(self) -> None:
        while not self._over.wait(HEARTBEAT_SECONDS):
            try:
                self._pulse = self._beat()
            except Exception:
                log.exception("a heartbeat could not be written; the lease has %s s left at most", LEASE_SECONDS)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
