"""`flask rindle cancel`: call off what is being made of an asset."""

from __future__ import annotations

import json

import click
from flask.cli import with_appcontext

from flask_rindle.engine import current_engine
from flask_rindle.errors import RindleError
from flask_rindle.slots import asset_id_of


@click.command()
@click.argument("asset")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@with_appcontext
def cancel(asset: str, *, as_json: bool) -> None:
    """Call off every variant of ASSET that is not made yet, also one that is being made."""
    try:
        names = current_engine().repair.cancel_processing(asset_id_of(asset))
    except RindleError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps({"asset": asset, "cancelled": names}))
    else:
        click.echo(f"Cancelled {', '.join(names)}." if names else "There was nothing to cancel.")
