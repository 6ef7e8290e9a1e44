"""Version 2: jobs have a priority, and what has ended can be found by its age."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from alembic.operations import Operations


def upgrade(op: Operations) -> None:
    """Add the column, and lay the queue's index anew."""
    op.add_column("rindle_jobs", sa.Column("priority", sa.SmallInteger(), nullable=False, server_default="0"))
    op.drop_index("ix_rindle_jobs_due", "rindle_jobs")
    op.create_index("ix_rindle_jobs_due", "rindle_jobs", ["state", "queue", "priority", "run_at", "id"], unique=False)
    op.create_index(op.f("ix_rindle_jobs_finished_at"), "rindle_jobs", ["finished_at"], unique=False)
    op.create_index(op.f("ix_rindle_processing_runs_finished_at"), "rindle_processing_runs", ["finished_at"])


def downgrade(op: Operations) -> None:
    """Back to the order of version 1; the rows stay."""
    op.drop_index(op.f("ix_rindle_processing_runs_finished_at"), "rindle_processing_runs")
    op.drop_index(op.f("ix_rindle_jobs_finished_at"), "rindle_jobs")
    op.drop_index("ix_rindle_jobs_due", "rindle_jobs")
    op.create_index("ix_rindle_jobs_due", "rindle_jobs", ["state", "queue", "run_at", "id"], unique=False)
    op.drop_column("rindle_jobs", "priority")
