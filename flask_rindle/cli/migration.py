"""`flask rindle migration`: a revision in the host's own history that brings Rindle's tables up to date."""

from __future__ import annotations

import re
from pathlib import Path

import click
from flask import current_app
from flask.cli import with_appcontext

from flask_rindle import migrations
from flask_rindle.errors import ConfigurationError, MissingExtra

_CREATES = re.compile(r"create_table\(\s*['\"]rindle_")
_UPGRADE = re.compile(r"migrations\.upgrade\(op, since=\d+, to=(\d+)\)")


@click.command()
@click.option("-d", "--directory", help="The folder of the host's migrations; Flask-Migrate's setting by default.")
@with_appcontext
def migration(directory: str | None) -> None:
    """Write a revision that creates or updates Rindle's tables."""
    try:
        path = write_revision(directory)
    except ConfigurationError as error:
        raise click.ClickException("; ".join(error.problems)) from error
    click.echo("Rindle's tables are up to date in the migrations." if path is None else f"Wrote {path}")


def write_revision(directory: str | None = None) -> Path | None:
    """The path of the new revision, or None when the host's history has everything. Raises ConfigurationError."""
    try:
        from alembic.script import ScriptDirectory
        from alembic.util import rev_id
        from flask_migrate import Config
    except ImportError as error:
        raise MissingExtra("flask rindle migration", "migrate") from error
    if "migrate" not in current_app.extensions:
        raise ConfigurationError(["this app has no Flask-Migrate; call Migrate(app, db)"])
    config: Config = current_app.extensions["migrate"].migrate.get_config(directory)
    folder = Path(config.get_main_option("script_location") or "migrations")
    if not (folder / "env.py").exists():
        raise ConfigurationError([f"there are no migrations in {folder}; run flask db init"])
    _check_history(folder / "versions")
    since = _applied(folder / "versions")
    if since == migrations.LATEST:
        return None
    script = ScriptDirectory.from_config(config).generate_revision(
        rev_id(),
        f"flask-rindle {migrations.LATEST}",
        head="head",
        refresh=True,
        imports="from flask_rindle import migrations",
        upgrades=f"migrations.upgrade(op, since={since}, to={migrations.LATEST})",
        downgrades=f"migrations.downgrade(op, since={migrations.LATEST}, to={since})",
    )
    return None if script is None else Path(script.path)


def _applied(versions: Path) -> int:
    """The highest version that a revision of the host's brings."""
    texts = (path.read_text(encoding="utf-8") for path in versions.glob("*.py"))
    return max((int(version) for text in texts for version in _UPGRADE.findall(text)), default=0)


def _check_history(versions: Path) -> None:
    """Raises ConfigurationError when a revision of the host's makes our tables itself."""
    for path in versions.glob("*.py"):
        if _CREATES.search(path.read_text(encoding="utf-8")):
            raise ConfigurationError(
                [
                    f"{path.name} creates Rindle's tables itself, because flask db migrate ran first; take everything "
                    "about rindle_ out of it (or delete it, if it was never applied) and run this again"
                ]
            )
