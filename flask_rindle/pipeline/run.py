"""Running one claimed job: the step, its heartbeat, and what an error means for it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Protocol

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from flask_rindle import signals
from flask_rindle.errors import (
    Cancelled,
    DatabaseUnavailable,
    Discarded,
    HostTrouble,
    LostRace,
    RindleError,
    SandboxFailed,
    Snoozed,
)
from flask_rindle.outbox import Claim, JobKind, Outbox, error_code
from flask_rindle.pipeline.expire import Expiry
from flask_rindle.pipeline.heart import Heart
from flask_rindle.pipeline.promote import Promotion
from flask_rindle.pipeline.purge import Purge
from flask_rindle.pipeline.tools import Tools
from flask_rindle.pipeline.variants import VariantWork
from flask_rindle.processing.base import Stop, never

log = logging.getLogger("flask_rindle.pipeline")

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
        self._heart = Heart(tools.outbox)
        self._steps: Mapping[JobKind, Step] = {
            JobKind.PROMOTE: Promotion(tools),
            JobKind.VARIANTS: VariantWork(tools),
            JobKind.PURGE: Purge(tools),
            JobKind.EXPIRE: Expiry(tools),
        }

    def run(self, claim: Claim, *, released: Stop = never) -> None:
        """Do the work of a claim and settle it. `released()` true hands unfinished work back."""
        step = self._steps[claim.kind]
        with self._heart.hold(claim) as held:
            try:
                self._attempt(step, claim, lambda: released() or held.wants_stop)
            except Cancelled:
                (self._outbox.call_off if held.wants_stop else self._outbox.release)(claim)
            except Snoozed as snoozed:
                self._outbox.snooze(claim, snoozed.delay, snoozed)
            except Discarded as reason:
                self._outbox.call_off(claim, reason)
            except Exception as error:  # noqa: BLE001 - here it is decided what any error means
                self._judge(step, claim, _named(error))
            else:
                self._outbox.succeed(claim)
        _tell(claim)

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


def _tell(claim: Claim) -> None:
    try:
        signals.job_stop.send(claim.kind.value, job_id=claim.id, asset_id=claim.asset_id, attempt=claim.attempt)
    except Exception:
        # The job is settled: a listener's error must not keep what follows from being done.
        log.exception("a listener to the end of job %s failed", claim.id)


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
