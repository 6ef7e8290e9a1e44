"""The command line: `flask rindle …`."""

from __future__ import annotations

from flask.cli import AppGroup

from flask_rindle.cli import cancel, cors, migration, worker

group = AppGroup("rindle", help="Uploads, variants and what they need.")
for command in (cancel.cancel, cors.cors, migration.migration, worker.worker):
    group.add_command(command)
