"""Version 3: uploads that go to a storage in parts, or in requests that can be resumed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from flask_rindle.models.base import UTCDateTime

if TYPE_CHECKING:
    from alembic.operations import Operations

_TABLE = "rindle_upload_sessions"


def upgrade(op: Operations) -> None:
    """Add the columns."""
    op.add_column(_TABLE, sa.Column("part_bytes", sa.BigInteger(), nullable=True))
    op.add_column(_TABLE, sa.Column("multipart_upload_id", sa.Text(), nullable=True))
    op.add_column(_TABLE, sa.Column("session_uri", sa.Text(), nullable=True))
    op.add_column(_TABLE, sa.Column("session_uri_expires_at", UTCDateTime(), nullable=True))
    op.add_column(_TABLE, sa.Column("writable_until", UTCDateTime(), nullable=True))


def downgrade(op: Operations) -> None:
    """Remove the columns; uploads that are under way cannot be resumed."""
    for column in ("writable_until", "session_uri_expires_at", "session_uri", "multipart_upload_id", "part_bytes"):
        op.drop_column(_TABLE, column)
