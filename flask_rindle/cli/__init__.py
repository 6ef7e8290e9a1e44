"""The command line: `flask rindle …`."""

from __future__ import annotations

from flask.cli import AppGroup

from flask_rindle.cli import migration

group = AppGroup("rindle", help="Uploads, variants and what they need.")
group.add_command(migration.migration)
