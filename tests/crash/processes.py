"""What the processes of a run do, each from its birth to its end or its death."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from datetime import timedelta

from boundaries import Boundaries
from checker import find_stuck
from flask import Flask
from sqlalchemy.orm import configure_mappers
from story import CHAPTERS, Teller
from world import World

# Longer than a lease, so that whatever a dead worker held is free; longer than an upload may take.
LEASES_OVER = timedelta(minutes=2)
UPLOADS_OVER = timedelta(hours=25)

configure_mappers()  # once, for all processes that are forked from this one


def tell(world: World, armed: str | None) -> None:
    """The story from its beginning, to its end or to the passage that is armed."""
    _come_to(world)
    Boundaries(world, CHAPTERS, armed=armed).install()
    app = world.make_app()
    Teller(world, app).tell()
    _leave(app)


def work(world: World, armed: str | None, *, watched: bool) -> None:
    """A Celery worker, until it is told to stop or comes to the passage that is armed."""
    _come_to(world)
    if watched:
        Boundaries(world, CHAPTERS, armed=armed).install()
    app = world.make_app()
    plain = ("--without-mingle", "--without-gossip", "--without-heartbeat")
    app.extensions["celery"].worker_main(["--quiet", "worker", "--pool", "solo", "--loglevel", "WARNING", *plain])
    _leave(app)


def recover(world: World) -> None:
    """A new process some time later: its workers find what is left, and the client goes on."""
    _come_to(world)
    world.write("chapter", "")
    world.jump(LEASES_OVER)
    app = world.make_app()
    engine = app.extensions["rindle"]
    engine.jobs.start()
    if world.broker_url is not None:
        engine.jobs.republish()
    world.settle(app)
    for fault in find_stuck(world):
        world.note("stuck", fault)
    Teller(world, app).tell()
    world.settle(app, UPLOADS_OVER)
    engine.leftovers.remove()  # as workers do once an hour
    _leave(app)


def _come_to(world: World) -> None:
    """Be a process of this world: its temporary directory, its log."""
    os.environ["TMPDIR"] = str(world.temp)
    tempfile.tempdir = str(world.temp)
    sys.stdout.flush()
    log = os.open(world.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    logging.basicConfig(level=logging.WARNING, force=True, format="%(levelname)s %(name)s: %(message)s")


def _leave(app: Flask) -> None:
    app.extensions["rindle"].close()
    with app.app_context():
        app.extensions["host"]["db"].engine.dispose()
