"""Version 1: every table that Rindle begins with. Frozen: changes of the models get a version of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from flask_rindle.models.base import TABLE_OPTIONS, UTCDateTime

if TYPE_CHECKING:
    from alembic.operations import Operations

# Referenced tables first.
TABLES = (
    "rindle_assets",
    "rindle_events",
    "rindle_jobs",
    "rindle_attachments",
    "rindle_processing_runs",
    "rindle_provider_assets",
    "rindle_upload_sessions",
    "rindle_variants",
)


def upgrade(op: Operations) -> None:
    """Create the tables."""
    _create_assets(op)
    _create_events(op)
    _create_jobs(op)
    _create_attachments(op)
    _create_processing_runs(op)
    _create_provider_assets(op)
    _create_upload_sessions(op)
    _create_variants(op)


def downgrade(op: Operations) -> None:
    """Drop the tables, and nothing else."""
    for table in reversed(TABLES):
        op.drop_table(table)


def _create_assets(op: Operations) -> None:
    op.create_table(
        "rindle_assets",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("profile", sa.String(length=64), nullable=False),
        sa.Column("storage", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("storage_key", sa.String(length=512), nullable=True),
        sa.Column("etag", sa.String(length=255), nullable=True),
        sa.Column("filename", sa.String(length=255), nullable=False),
        sa.Column("content_type", sa.String(length=255), nullable=True),
        sa.Column("byte_size", sa.BigInteger(), nullable=True),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.Column("frames", sa.Integer(), nullable=True),
        sa.Column("thumbhash", sa.String(length=64), nullable=True),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("updated_at", UTCDateTime(), nullable=False),
        sa.CheckConstraint("kind IN ('image', 'video', 'audio', 'other')", name=op.f("ck_rindle_assets_kind")),
        sa.CheckConstraint(
            "state IN ('staged', 'validating', 'analyzing', 'promoting', 'available', 'processing', 'transcoding', 'ready', 'degraded', 'quarantined', 'deleted')",
            name=op.f("ck_rindle_assets_state"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rindle_assets")),
        sa.UniqueConstraint("storage_key", name=op.f("uq_rindle_assets_storage_key")),
        **TABLE_OPTIONS,
    )
    op.create_index(op.f("ix_rindle_assets_profile_id"), "rindle_assets", ["profile", "id"], unique=False)
    op.create_index(op.f("ix_rindle_assets_state_id"), "rindle_assets", ["state", "id"], unique=False)


def _create_events(op: Operations) -> None:
    op.create_table(
        "rindle_events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("subject_id", sa.Uuid(), nullable=False),
        sa.Column("asset_id", sa.Uuid(), nullable=True),
        sa.Column("name", sa.String(length=64), nullable=True),
        sa.Column("from_state", sa.String(length=16), nullable=False),
        sa.Column("to_state", sa.String(length=16), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.CheckConstraint(
            "kind IN ('asset', 'variant', 'upload_session', 'provider_asset')", name=op.f("ck_rindle_events_kind")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rindle_events")),
        **TABLE_OPTIONS,
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_rindle_events_asset_id_id"), "rindle_events", ["asset_id", "id"], unique=False)


def _create_jobs(op: Operations) -> None:
    op.create_table(
        "rindle_jobs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("queue", sa.String(length=64), nullable=False),
        sa.Column("asset_id", sa.Uuid(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("live_key", sa.String(length=255), nullable=True),
        sa.Column("rerun", sa.Boolean(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("run_at", UTCDateTime(), nullable=False),
        sa.Column("worker", sa.String(length=255), nullable=True),
        sa.Column("lease", sa.Uuid(), nullable=True),
        sa.Column("lease_expires_at", UTCDateTime(), nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("errors", sa.JSON(), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("started_at", UTCDateTime(), nullable=True),
        sa.Column("finished_at", UTCDateTime(), nullable=True),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name=op.f("ck_rindle_jobs_state")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rindle_jobs")),
        sa.UniqueConstraint("live_key", name=op.f("uq_rindle_jobs_live_key")),
        **TABLE_OPTIONS,
    )
    op.create_index(op.f("ix_rindle_jobs_asset_id"), "rindle_jobs", ["asset_id"], unique=False)
    op.create_index("ix_rindle_jobs_due", "rindle_jobs", ["state", "queue", "run_at", "id"], unique=False)
    op.create_index("ix_rindle_jobs_lease", "rindle_jobs", ["state", "lease_expires_at"], unique=False)


def _create_attachments(op: Operations) -> None:
    op.create_table(
        "rindle_attachments",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("asset_id", sa.Uuid(), nullable=False),
        sa.Column("owner_type", sa.String(length=64), nullable=False),
        sa.Column("owner_id", sa.String(length=255), nullable=False),
        sa.Column("slot", sa.String(length=64), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["asset_id"], ["rindle_assets.id"], name=op.f("fk_rindle_attachments_asset_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rindle_attachments")),
        sa.UniqueConstraint(
            "owner_type",
            "owner_id",
            "slot",
            "position",
            name=op.f("uq_rindle_attachments_owner_type_owner_id_slot_position"),
        ),
        **TABLE_OPTIONS,
    )
    op.create_index(op.f("ix_rindle_attachments_asset_id"), "rindle_attachments", ["asset_id"], unique=False)


def _create_processing_runs(op: Operations) -> None:
    op.create_table(
        "rindle_processing_runs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column("asset_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("worker", sa.String(length=255), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.Column("started_at", UTCDateTime(), nullable=False),
        sa.Column("finished_at", UTCDateTime(), nullable=True),
        sa.CheckConstraint(
            "outcome IN ('running', 'succeeded', 'retried', 'failed', 'cancelled', 'released', 'lost')",
            name=op.f("ck_rindle_processing_runs_outcome"),
        ),
        sa.ForeignKeyConstraint(
            ["job_id"], ["rindle_jobs.id"], name=op.f("fk_rindle_processing_runs_job_id"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rindle_processing_runs")),
        **TABLE_OPTIONS,
    )
    op.create_index(
        op.f("ix_rindle_processing_runs_asset_id_started_at"),
        "rindle_processing_runs",
        ["asset_id", "started_at"],
        unique=False,
    )
    op.create_index(op.f("ix_rindle_processing_runs_job_id"), "rindle_processing_runs", ["job_id"], unique=False)


def _create_provider_assets(op: Operations) -> None:
    op.create_table(
        "rindle_provider_assets",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("asset_id", sa.Uuid(), nullable=False),
        sa.Column("profile", sa.String(length=64), nullable=False),
        sa.Column("provider", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("provider_asset_id", sa.String(length=255), nullable=True),
        sa.Column("provider_upload_id", sa.String(length=255), nullable=True),
        sa.Column("passthrough", sa.String(length=255), nullable=True),
        sa.Column("playback_ids", sa.JSON(), nullable=False),
        sa.Column("playback_policy", sa.String(length=16), nullable=True),
        sa.Column("ingest_mode", sa.String(length=32), nullable=True),
        sa.Column("last_event_id", sa.String(length=255), nullable=True),
        sa.Column("last_event_at", UTCDateTime(), nullable=True),
        sa.Column("last_sync_error", sa.Text(), nullable=True),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("updated_at", UTCDateTime(), nullable=False),
        sa.CheckConstraint(
            "state IN ('pending', 'uploading', 'processing', 'ready', 'errored', 'deleted')",
            name=op.f("ck_rindle_provider_assets_state"),
        ),
        sa.ForeignKeyConstraint(
            ["asset_id"], ["rindle_assets.id"], name=op.f("fk_rindle_provider_assets_asset_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rindle_provider_assets")),
        sa.UniqueConstraint(
            "asset_id", "profile", "provider", name=op.f("uq_rindle_provider_assets_asset_id_profile_provider")
        ),
        sa.UniqueConstraint("provider", "passthrough", name=op.f("uq_rindle_provider_assets_provider_passthrough")),
        sa.UniqueConstraint(
            "provider", "provider_asset_id", name=op.f("uq_rindle_provider_assets_provider_provider_asset_id")
        ),
        sa.UniqueConstraint(
            "provider", "provider_upload_id", name=op.f("uq_rindle_provider_assets_provider_provider_upload_id")
        ),
        **TABLE_OPTIONS,
    )
    op.create_index(
        op.f("ix_rindle_provider_assets_state_updated_at"),
        "rindle_provider_assets",
        ["state", "updated_at"],
        unique=False,
    )


def _create_upload_sessions(op: Operations) -> None:
    op.create_table(
        "rindle_upload_sessions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("asset_id", sa.Uuid(), nullable=True),
        sa.Column("profile", sa.String(length=64), nullable=False),
        sa.Column("storage", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("strategy", sa.String(length=16), nullable=False),
        sa.Column("upload_key", sa.String(length=512), nullable=False),
        sa.Column("filename", sa.String(length=255), nullable=False),
        sa.Column("content_type", sa.String(length=255), nullable=False),
        sa.Column("declared_bytes", sa.BigInteger(), nullable=True),
        sa.Column("received_bytes", sa.BigInteger(), nullable=True),
        sa.Column("checksum", sa.String(length=80), nullable=True),
        sa.Column("etag", sa.String(length=255), nullable=True),
        sa.Column("ticket_id", sa.Uuid(), nullable=True),
        sa.Column("ticket_place", sa.Integer(), nullable=True),
        sa.Column("actor", sa.String(length=255), nullable=True),
        sa.Column("owner_type", sa.String(length=64), nullable=True),
        sa.Column("owner_id", sa.String(length=255), nullable=True),
        sa.Column("slot", sa.String(length=64), nullable=True),
        sa.Column("append", sa.Boolean(), nullable=False),
        sa.Column("expires_at", UTCDateTime(), nullable=False),
        sa.Column("verified_at", UTCDateTime(), nullable=True),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("updated_at", UTCDateTime(), nullable=False),
        sa.CheckConstraint(
            "state IN ('initialized', 'signed', 'resuming', 'uploading', 'uploaded', 'verifying', 'completed', 'aborted', 'expired', 'failed')",
            name=op.f("ck_rindle_upload_sessions_state"),
        ),
        sa.ForeignKeyConstraint(
            ["asset_id"], ["rindle_assets.id"], name=op.f("fk_rindle_upload_sessions_asset_id"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rindle_upload_sessions")),
        sa.UniqueConstraint("ticket_id", "ticket_place", name=op.f("uq_rindle_upload_sessions_ticket_id_ticket_place")),
        sa.UniqueConstraint("upload_key", name=op.f("uq_rindle_upload_sessions_upload_key")),
        **TABLE_OPTIONS,
    )
    op.create_index(op.f("ix_rindle_upload_sessions_asset_id"), "rindle_upload_sessions", ["asset_id"], unique=False)
    op.create_index(
        op.f("ix_rindle_upload_sessions_state_expires_at"),
        "rindle_upload_sessions",
        ["state", "expires_at"],
        unique=False,
    )


def _create_variants(op: Operations) -> None:
    op.create_table(
        "rindle_variants",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("asset_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("recipe_digest", sa.String(length=64), nullable=False),
        sa.Column("storage", sa.String(length=64), nullable=False),
        sa.Column("storage_key", sa.String(length=512), nullable=True),
        sa.Column("etag", sa.String(length=255), nullable=True),
        sa.Column("content_type", sa.String(length=255), nullable=True),
        sa.Column("byte_size", sa.BigInteger(), nullable=True),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.Column("generated_at", UTCDateTime(), nullable=True),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.Column("updated_at", UTCDateTime(), nullable=False),
        sa.CheckConstraint(
            "state IN ('planned', 'queued', 'processing', 'ready', 'stale', 'missing', 'failed', 'cancelled', 'purged')",
            name=op.f("ck_rindle_variants_state"),
        ),
        sa.ForeignKeyConstraint(
            ["asset_id"], ["rindle_assets.id"], name=op.f("fk_rindle_variants_asset_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rindle_variants")),
        sa.UniqueConstraint("asset_id", "name", name=op.f("uq_rindle_variants_asset_id_name")),
        sa.UniqueConstraint("storage_key", name=op.f("uq_rindle_variants_storage_key")),
        **TABLE_OPTIONS,
    )
    op.create_index(op.f("ix_rindle_variants_state_id"), "rindle_variants", ["state", "id"], unique=False)
