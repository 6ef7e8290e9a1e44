"""Jobs as rows: what there is to do, and the one door through which it is added, claimed and settled."""

from __future__ import annotations

from flask_rindle.outbox.claims import Claim, Hand, Pulse
from flask_rindle.outbox.kinds import LEASE_SECONDS, POLICIES, JobKind, JobPolicy, Priority, Queue, variants_queue
from flask_rindle.outbox.outbox import Notice, Outbox
from flask_rindle.outbox.reasons import error_code, error_text

__all__ = [
    "LEASE_SECONDS",
    "POLICIES",
    "Claim",
    "Hand",
    "JobKind",
    "JobPolicy",
    "Notice",
    "Outbox",
    "Priority",
    "Pulse",
    "Queue",
    "error_code",
    "error_text",
    "variants_queue",
]
