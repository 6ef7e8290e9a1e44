"""`flask cohort …`."""

from __future__ import annotations

import click
from flask import current_app
from flask.cli import AppGroup
from werkzeug.routing import Rule

from example.cohort.seed import seed, wait_until_ready

group = AppGroup("cohort", help="The example's own commands.")


@group.command("seed")
def seed_command() -> None:
    """Draw and upload members and posts; quick when they are there."""
    assets = seed()
    if assets:
        click.echo(f"Drew {len(assets)} pictures; making their sizes and formats …")
    wait_until_ready(assets)


@group.command("map")
@click.option("--at", default="http://127.0.0.1:5000", help="Where the site is served.")
def map_command(at: str) -> None:
    """The addresses of the site, and what each shows."""
    rules = sorted(current_app.url_map.iter_rules(), key=lambda rule: rule.rule)
    for title, blueprint in (("Cohort", "pages."), ("flask-rindle, on the same site", "rindle.")):
        click.secho(f"\n{title}", bold=True)
        for rule in rules:
            if rule.endpoint.startswith(blueprint):
                click.echo(f"  {_methods(rule):<7} {rule.rule:<49} {_says(rule)}")
    click.echo(f"\nOpen {at}\n")


def _methods(rule: Rule) -> str:
    return " ".join(sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}))


def _says(rule: Rule) -> str:
    text = (current_app.view_functions[rule.endpoint].__doc__ or "").strip().partition("\n")[0]
    return "The script and the style sheet of the widgets" if rule.endpoint == "rindle.static" else text.rstrip(".")
