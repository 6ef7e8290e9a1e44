"""Jobs as rows, and one row for every attempt at one."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import cast

from sqlalchemy import ForeignKey, Index, SmallInteger, String, Table
from sqlalchemy.orm import Mapped, mapped_column

from flask_rindle.models.base import (
    TABLE_OPTIONS,
    Base,
    Created,
    Id,
    Json,
    Label,
    Moment,
    Name,
    OptionalName,
    Prose,
    UTCDateTime,
    one_of,
)
from flask_rindle.models.states import JobState, RunOutcome


class Job(Base):
    """Work that is due because of a commit; written in the same transaction as its reason."""

    __tablename__ = "rindle_jobs"
    __table_args__ = (
        one_of("state", JobState),
        Index("ix_rindle_jobs_due", "state", "queue", "priority", "run_at", "id"),
        Index("ix_rindle_jobs_lease", "state", "lease_expires_at"),
        Index(None, "asset_id"),
        Index(None, "finished_at"),
        TABLE_OPTIONS,
    )

    id: Mapped[Id]
    kind: Mapped[Name]
    queue: Mapped[Name]
    # The lower goes first.
    priority: Mapped[int] = mapped_column(SmallInteger, default=0, server_default="0")
    asset_id: Mapped[uuid.UUID]
    state: Mapped[str] = mapped_column(String(16), default=JobState.QUEUED)
    # Set while the job is live and NULL afterwards: one live job for each key, on every database.
    live_key: Mapped[str | None] = mapped_column(String(255), unique=True)
    # The same work was asked for again while it ran; it runs once more instead of ending.
    rerun: Mapped[bool] = mapped_column(default=False)
    attempt: Mapped[int] = mapped_column(default=0)
    max_attempts: Mapped[int]
    run_at: Mapped[datetime] = mapped_column(UTCDateTime)
    worker: Mapped[Label]
    lease: Mapped[uuid.UUID | None]
    lease_expires_at: Mapped[Moment]
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    errors: Mapped[Json] = mapped_column(default=list)
    created_at: Mapped[Created]
    started_at: Mapped[Moment]
    finished_at: Mapped[Moment]


class ProcessingRun(Base):
    """One attempt: who made it, when, and how it ended."""

    __tablename__ = "rindle_processing_runs"
    __table_args__ = (
        one_of("outcome", RunOutcome),
        Index(None, "asset_id", "started_at"),
        Index(None, "job_id"),
        Index(None, "finished_at"),
        TABLE_OPTIONS,
    )

    id: Mapped[Id]
    job_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("rindle_jobs.id", ondelete="SET NULL"))
    asset_id: Mapped[uuid.UUID]
    kind: Mapped[Name]
    worker: Mapped[str] = mapped_column(String(255))
    attempt: Mapped[int]
    outcome: Mapped[str] = mapped_column(String(16), default=RunOutcome.RUNNING)
    error_code: Mapped[OptionalName]
    error_detail: Mapped[Prose]
    started_at: Mapped[datetime] = mapped_column(UTCDateTime)
    finished_at: Mapped[Moment]


# For statements that run for every job, where the mapper would cost more than the database.
JOBS = cast("Table", Job.__table__)
RUNS = cast("Table", ProcessingRun.__table__)
