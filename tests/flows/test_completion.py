"""Completion on three databases: from two threads, from two processes, against cancellation."""

from __future__ import annotations

import io
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from flask_rindle.errors import RindleError
from flask_rindle.models import Asset, Event, Job, UploadSession


@pytest.fixture
def app(make_app: Callable[..., Flask], any_database: str) -> Flask:
    app = make_app(database_url=any_database)
    app.extensions["rindle"].outbox.send = lambda _: None
    return app


@pytest.fixture
def session(app: Flask, photo: Callable[..., bytes]) -> UploadSession:
    engine = app.extensions["rindle"]
    with app.app_context():
        found = app.extensions["host"].rindle.initiate_upload(
            "avatar", filename="a.jpg", content_type="image/jpeg", byte_size=len(photo())
        )
    engine.storages["default"].put(found.upload_key, io.BytesIO(photo()))
    return found


def rows(app: Flask, model: type[Any]) -> list[Any]:
    with app.extensions["rindle"].database.reading() as db_session:
        return list(db_session.scalars(select(model)))


def together(*calls: Callable[[], Any]) -> list[Any]:
    """Run the calls at the same moment; their results, or the errors of ours that they raised."""
    barrier = threading.Barrier(len(calls))
    results: list[Any] = [None] * len(calls)

    def run(n: int, call: Callable[[], Any]) -> None:
        barrier.wait()
        try:
            results[n] = call()
        except RindleError as error:
            results[n] = error

    threads = [threading.Thread(target=run, args=(n, call)) for n, call in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_completing_at_once_from_many_threads_gives_one_result(app: Flask, session: UploadSession) -> None:
    uploads = app.extensions["rindle"].uploads
    results = together(*[lambda: uploads.complete(session.id)] * 6)
    assert {result.asset.id for result in results} == {session.asset_id}
    assert len(rows(app, Job)) == 1
    completions = [e for e in rows(app, Event) if (e.kind, e.to_state) == ("upload_session", "completed")]
    assert len(completions) == 1


@pytest.mark.parametrize("moment", ["live", "_stat", "_record_completion"])
def test_a_second_completion_between_any_two_steps_changes_nothing(
    app: Flask, session: UploadSession, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Somebody completes, and the pipeline moves the bytes on, just before each step of ours."""
    engine = app.extensions["rindle"]
    uploads = engine.uploads
    step = getattr(uploads, moment)

    def overtaken(*args: Any) -> Any:
        monkeypatch.undo()
        uploads.complete(session.id)
        engine.jobs.drain()
        return step(*args)

    monkeypatch.setattr(uploads, moment, overtaken)
    assert uploads.complete(session.id).asset.id == session.asset_id
    assert [asset.state for asset in rows(app, Asset)] == ["ready"]


def test_completing_against_cancelling_has_one_winner(app: Flask, session: UploadSession) -> None:
    uploads = app.extensions["rindle"].uploads
    together(lambda: uploads.complete(session.id), lambda: uploads.cancel(session.id))
    state = rows(app, UploadSession)[0].state
    assets = [asset.state for asset in rows(app, Asset)]
    assert (state, assets) in [("completed", ["validating"]), ("aborted", ["deleted"])]
    kinds = {job.kind for job in rows(app, Job) if job.state == "queued"}
    assert kinds == ({"promote"} if state == "completed" else {"purge"})


def test_a_ticket_for_one_file_opens_one_session_from_many_threads(app: Flask) -> None:
    engine = app.extensions["rindle"]
    from flask_rindle.uploads.announcement import Announcement
    from flask_rindle.uploads.tickets import Ticket

    ticket = Ticket(profile="avatar")
    announced = Announcement.of("a.jpg", "image/jpeg", 3, None)
    results = together(*[lambda: engine.uploads.open(ticket, announced)] * 6)
    opened = [result for result in results if isinstance(result, UploadSession)]
    assert len(opened) == 1
    assert {result.code for result in results if isinstance(result, RindleError)} == {"ticket_used"}
    assert (len(rows(app, UploadSession)), len(rows(app, Asset))) == (1, 1)


def test_the_whole_way_works_on_this_database(app: Flask, session: UploadSession, photo: Callable[..., bytes]) -> None:
    engine = app.extensions["rindle"]
    engine.uploads.complete(session.id)
    engine.jobs.drain()
    (asset,) = rows(app, Asset)
    assert (asset.state, asset.byte_size) == ("ready", len(photo()))


def test_completing_from_two_processes_gives_one_result(
    make_app: Callable[..., Flask], photo: Callable[..., bytes], tmp_path: Path
) -> None:
    app = make_app()
    engine = app.extensions["rindle"]
    engine.outbox.send = lambda _: None
    with app.app_context():
        session = app.extensions["host"].rindle.initiate_upload(
            "avatar", filename="a.jpg", content_type="image/jpeg", byte_size=len(photo())
        )
    engine.storages["default"].put(session.upload_key, io.BytesIO(photo()))
    script = textwrap.dedent(f"""
        from flask import Flask
        from flask_sqlalchemy import SQLAlchemy
        from flask_rindle import Profile, Rindle
        from datetime import datetime, UTC

        class Avatar(Profile):
            pass

        app = Flask("other", instance_path={str(tmp_path)!r})
        app.config.update(
            SECRET_KEY="x", SQLALCHEMY_DATABASE_URI={app.config["SQLALCHEMY_DATABASE_URI"]!r}, RINDLE_JOBS="inline",
            RINDLE_STORAGES={{"default": {{"backend": "local", "root": {str(tmp_path / "media")!r}}}}},
        )
        db = SQLAlchemy(app)
        rindle = Rindle()
        rindle.init_app(app, db, profiles=[Avatar], clock=lambda: datetime(2026, 3, 1, 12, 0, tzinfo=UTC))
        app.extensions["rindle"].outbox.send = lambda _: None
        input()
        with app.app_context():
            print(rindle.verify_completion({str(session.id)!r}).asset.id)
    """)
    processes = [
        subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate()[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert answers == [str(session.asset_id)] * 2
    assert len(rows(app, Job)) == 1
