"""The blueprint: parse, call one verb, answer."""

from __future__ import annotations

from flask import Blueprint
from werkzeug.exceptions import HTTPException

from flask_rindle.errors import RindleError
from flask_rindle.web import errors, events, files, form, uploads


def make_blueprint(url_prefix: str) -> Blueprint:
    """The routes, templates and static files of Rindle under a prefix."""
    blueprint = Blueprint(
        "rindle",
        "flask_rindle",
        url_prefix=url_prefix,
        static_folder="static/rindle",
        static_url_path="/static",
        template_folder="templates",
    )
    uploads.add_routes(blueprint)
    form.add_routes(blueprint)
    files.add_routes(blueprint)
    events.add_routes(blueprint)
    blueprint.register_error_handler(RindleError, errors.answer)
    blueprint.register_error_handler(HTTPException, errors.answer_http)
    return blueprint
