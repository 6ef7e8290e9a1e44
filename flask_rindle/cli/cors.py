"""`flask rindle cors`: what browsers need to send to a storage of another origin."""

from __future__ import annotations

import json

import click
from flask.cli import with_appcontext

from flask_rindle.engine import current_engine
from flask_rindle.errors import RindleError
from flask_rindle.storage.base import ConfiguresCors, require


@click.command()
@click.option("--storage", required=True, help="A name in RINDLE_STORAGES.")
@click.option("--origin", "origins", multiple=True, required=True, help="Such as https://example.org; may be repeated.")
@click.option("--live", is_flag=True, help="Replace the storage's rules by these.")
@click.option("--json", "as_json", is_flag=True, help="Print the rules alone.")
@with_appcontext
def cors(storage: str, origins: tuple[str, ...], *, live: bool, as_json: bool) -> None:
    """Print the CORS rules that uploads from these origins need, or apply them with --live."""
    try:
        adapter = require(current_engine().storages[storage], ConfiguresCors)
        rules = adapter.cors_rules(origins)
        if live:
            adapter.apply_cors(origins)
    except (RindleError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(json.dumps(rules, indent=2))
    if not as_json:
        click.echo(f"Storage {storage!r} has these rules now." if live else "Nothing was changed; --live applies them.")
