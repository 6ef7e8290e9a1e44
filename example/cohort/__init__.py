"""Cohort: a small course-and-community site that shows flask-rindle at work."""

from __future__ import annotations

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from flask import Flask, Response, g, has_request_context, session
from sqlalchemy import URL

from example.cohort.cli import group
from example.cohort.models import Member, Post, db, migrate, rindle
from example.cohort.profiles import Avatar, PostImage
from example.cohort.views import pages

EXAMPLE = Path(__file__).resolve().parent.parent
# Scripts, styles and pictures come from this site alone, and nothing stands inside the pages.
POLICY = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"


def create_app() -> Flask:
    """The site. COHORT_INSTANCE names the folder for its database, uploads and key."""
    instance = Path(os.environ.get("COHORT_INSTANCE") or EXAMPLE / "instance").resolve()
    instance.mkdir(mode=0o700, parents=True, exist_ok=True)
    app = Flask(__name__, instance_path=str(instance))
    app.config.update(
        SECRET_KEY=_secret_key(instance / "secret_key"),
        SESSION_COOKIE_SAMESITE="Lax",  # forms of other sites come without it, so they cannot write here
        SQLALCHEMY_DATABASE_URI=URL.create("sqlite", database=str(instance / "cohort.db")),
    )

    db.init_app(app)
    migrate.init_app(app, db, directory=str(EXAMPLE / "migrations"))
    rindle.init_app(app, db, profiles=[Avatar, PostImage], owners={"member": Member, "post": Post}, actor=_signed_in_id)

    app.register_blueprint(pages)
    app.cli.add_command(group)
    app.before_request(_find_member)
    app.after_request(_add_headers)
    app.context_processor(lambda: {"me": g.get("member")})
    return app


def _signed_in_id() -> str | None:
    """Who is asking. Upload tickets are made out to them, so nobody else can use one."""
    return session.get("member") if has_request_context() else None


def _find_member() -> None:
    member_id = _signed_in_id()
    g.member = None if member_id is None else db.session.get(Member, int(member_id))


def _add_headers(response: Response) -> Response:
    """Strict everywhere; the files of members come with a stricter policy of their own."""
    response.headers.setdefault("Content-Security-Policy", POLICY)
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Referrer-Policy", "same-origin")
    return response


def _secret_key(path: Path) -> str:
    """The key of this installation, made on its first start; readable by its owner alone."""
    if not path.exists():
        with tempfile.NamedTemporaryFile("w", dir=path.parent) as fresh:  # made with mode 0600
            fresh.write(secrets.token_urlsafe(48))
            fresh.flush()
            with suppress(FileExistsError):  # another process was first
                os.link(fresh.name, path)  # appears whole
    return path.read_text(encoding="ascii")
