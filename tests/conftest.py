"""What all tests share: an app with a host's model, a clock that stands still, pictures, and three databases."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from PIL import Image
from sqlalchemy import String, create_engine, make_url, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Mapped, mapped_column

from flask_rindle import MB, Profile, Rindle, attached, image
from flask_rindle.engine import Engine
from flask_rindle.testing.clock import FrozenClock
from flask_rindle.testing.transactions import no_io_in_transaction

SERVERS = {
    "postgresql": "postgresql+psycopg://postgres@127.0.0.1:5432/postgres",
    "mariadb": "mariadb+pymysql://root@127.0.0.1:3306/mysql?charset=utf8mb4",
}


class Avatar(Profile):
    allow_mime = {"image/png", "image/jpeg", "image/webp"}  # noqa: RUF012 - as users write it
    max_bytes = 8 * MB
    max_pixels = 50_000_000
    variants = {"thumb": image.fit(128, 128), "large": image.fit(1024, 1024, format="webp", quality=85)}  # noqa: RUF012


@dataclass
class Host:
    """`app.extensions["host"]`: what the host app of a test has."""

    db: SQLAlchemy
    rindle: Rindle
    User: type[Any]


@pytest.fixture(autouse=True)
def _no_io_in_transaction() -> Iterator[None]:
    with no_io_in_transaction():
        yield


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
def make_app(tmp_path: Path, clock: FrozenClock) -> Iterator[Callable[..., Flask]]:
    """An app with a `User` who has an avatar, and `app.extensions["host"]`; `config` comes on top."""
    apps: list[Flask] = []

    def make(
        profiles: Sequence[type[Profile]] = (Avatar,),
        *,
        owners: Mapping[str, type] | None = None,
        jobs: str = "inline",
        storages: Mapping[str, Mapping[str, Any]] | None = None,
        database_url: str | None = None,
        actor: Callable[[], str | None] | None = None,
        clock: Callable[[], Any] = clock,
        **config: Any,
    ) -> Flask:
        app = Flask(f"host{len(apps)}", instance_path=str(tmp_path / "instance"))
        app.config.update(
            TESTING=True,
            SECRET_KEY="a long random value for tests",
            SQLALCHEMY_DATABASE_URI=database_url or f"sqlite:///{tmp_path / 'app.db'}",
            RINDLE_JOBS=jobs,
            RINDLE_STORAGES=storages or {"default": {"backend": "local", "root": tmp_path / "media"}},
        )
        app.config.update(config)
        db = SQLAlchemy(app)

        class User(db.Model):
            __tablename__ = "users"
            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[str | None] = mapped_column(String(100))
            avatar = attached("avatar", profiles[0] if profiles else Avatar)

        rindle = Rindle()
        rindle.init_app(app, db, profiles=profiles, owners=owners or {"user": User}, actor=actor, clock=clock)
        app.extensions["host"] = Host(db, rindle, User)
        apps.append(app)
        with app.app_context():
            db.create_all()
        return app

    yield make
    for app in apps:
        app.extensions["rindle"].close()
        with app.app_context():
            app.extensions["host"].db.session.remove()
            app.extensions["host"].db.drop_all()
            app.extensions["host"].db.engine.dispose()


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    return make_app()


@pytest.fixture
def host(app: Flask) -> Host:
    return app.extensions["host"]


@pytest.fixture
def db(host: Host) -> SQLAlchemy:
    return host.db


@pytest.fixture
def rindle(host: Host) -> Rindle:
    return host.rindle


@pytest.fixture
def engine(app: Flask) -> Engine:
    return app.extensions["rindle"]


@pytest.fixture
def photo() -> Callable[..., bytes]:
    """`photo(width, height, format, mode=, **save_options)`: the bytes of a real picture, a gradient."""

    def draw(width: int = 64, height: int = 48, format: str = "jpeg", *, mode: str = "RGB", **options: Any) -> bytes:  # noqa: A002
        ramp = Image.linear_gradient("L").resize((width, height))
        picture = Image.merge("RGB", (ramp, ramp.rotate(180), ramp)).convert(mode)
        out = BytesIO()
        picture.save(out, format=format, **options)
        return out.getvalue()

    return draw


@pytest.fixture(scope="session")
def databases() -> Iterator[Callable[[str], str]]:
    """`databases(kind)`: the URL of an empty database of our own on that server; dropped at the end."""
    name, used = f"rindle_{uuid.uuid4().hex[:12]}", set[str]()

    def execute(kind: str, *statements: str) -> None:
        admin = create_engine(SERVERS[kind], isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 3})
        with admin.connect() as connection:
            for statement in statements:
                connection.execute(text(statement))
        admin.dispose()

    def empty(kind: str) -> str:
        force = " WITH (FORCE)" if kind == "postgresql" else ""
        execute(kind, f"DROP DATABASE IF EXISTS {name}{force}", f"CREATE DATABASE {name}")
        used.add(kind)
        return make_url(SERVERS[kind]).set(database=name).render_as_string(hide_password=False)

    yield empty
    for kind in used:
        execute(kind, f"DROP DATABASE IF EXISTS {name}")


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def any_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, on each of the three in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'any.db'}"
    try:
        return request.getfixturevalue("databases")(request.param)
    except OperationalError as error:
        if os.environ.get("CI") or os.environ.get("RINDLE_REQUIRE_ALL"):
            raise
        pytest.skip(f"no {request.param} server on this machine: {error.orig}")
