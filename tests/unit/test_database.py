"""The library's own transactions: durable or undone, never waiting for themselves, hooks after commit only."""

from __future__ import annotations

import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import Engine, create_engine, func, insert, select, text, update
from sqlalchemy.exc import DatabaseError, DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from flask_rindle.errors import DatabaseBusy, DatabaseUnavailable, OpenTransaction
from flask_rindle.models import Asset, Attachment, metadata
from flask_rindle.models.database import Database, in_transaction, insert_unless_taken, on_commit
from flask_rindle.types import new_id

AddAsset = Callable[..., Asset]


def asset_row(**values: object) -> Asset:
    return Asset(id=new_id(), profile="avatar", storage="default", filename="a.jpg", **values)


def count(database: Database, row: type = Asset) -> int:
    with database.reading() as db_session:
        return db_session.scalar(select(func.count()).select_from(row)) or 0


class TestTransaction:
    def test_is_durable_when_the_block_ends(self, database: Database) -> None:
        with database.transaction() as db_session:
            db_session.add(asset_row())
        assert count(database) == 1

    def test_is_undone_when_the_block_raises(self, database: Database) -> None:
        def fail() -> None:
            with database.transaction() as db_session:
                db_session.add(asset_row())
                db_session.flush()
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert count(database) == 0

    def test_leaves_its_rows_readable(self, database: Database) -> None:
        with database.transaction() as db_session:
            asset = asset_row(width=3)
            db_session.add(asset)
        assert (asset.width, asset.state) == (3, "staged")

    def test_two_that_write_the_same_row_come_after_each_other(self, database: Database, add_asset: AddAsset) -> None:
        """No update is lost: the second reads what the first wrote."""
        asset, start = add_asset(width=0), threading.Barrier(4)

        def widen() -> None:
            start.wait()
            with database.transaction() as db_session:
                db_session.execute(update(Asset).values(width=Asset.width + 1))

        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(widen) for _ in range(4)]:
                done.result()
        with database.reading() as db_session:
            assert db_session.get_one(Asset, asset.id).width == 4

    def test_answers_from_the_present(self, database: Database, add_asset: AddAsset, sql_engine: Engine) -> None:
        """Also where the database's default is to answer from a snapshot: who lost a race must see who won."""
        asset = add_asset(width=1)
        if sql_engine.dialect.name == "sqlite":
            pytest.skip("SQLite has one writer at a time, who sees everything")
        with database.transaction() as mine:
            assert mine.scalar(select(Asset.width)) == 1
            with database.transaction() as other:
                other.execute(update(Asset).values(width=2))
            late = update(Asset).where(Asset.id == asset.id, Asset.width == 1).values(width=9)
            assert mine.execute(late).rowcount == 0
            assert mine.scalar(select(Asset.width)) == 2

    def test_foreign_keys_are_enforced(self, database: Database) -> None:
        orphan = Attachment(id=new_id(), asset_id=new_id(), owner_type="user", owner_id="1", slot="avatar")
        with pytest.raises(IntegrityError), database.transaction() as db_session:
            db_session.add(orphan)


class TestBusy:
    def test_a_lock_that_stays_is_database_busy(self, tmp_path: Path) -> None:
        engine = create_engine(f"sqlite:///{tmp_path / 'busy.db'}")
        metadata.create_all(engine)
        database = Database(lambda: engine, lambda: None, busy_timeout_seconds=0.05)
        other = sqlite3.connect(tmp_path / "busy.db")
        other.execute("BEGIN IMMEDIATE")
        try:
            with pytest.raises(DatabaseBusy), database.transaction() as db_session:
                db_session.add(asset_row())
            assert count(database) == 0, "readers do not wait for writers"
        finally:
            other.close()
        with database.transaction() as db_session:
            db_session.add(asset_row())
        assert count(database) == 1, "and once the lock is gone all is well"
        database.dispose()
        engine.dispose()

    def test_a_row_lock_that_stays_is_database_busy(self, database: Database, add_asset: AddAsset) -> None:
        add_asset()
        dialect = database._binds().writer.dialect.name
        if dialect == "sqlite":
            pytest.skip("SQLite locks the whole file")
        no_wait = (
            "SET LOCAL lock_timeout = 1" if dialect == "postgresql" else "SET SESSION innodb_lock_wait_timeout = 0"
        )

        def collide() -> None:
            with database.transaction() as first, database.transaction() as second:
                first.execute(update(Asset).values(width=1))
                second.execute(text(no_wait))
                second.execute(update(Asset).values(width=2))

        with pytest.raises(DatabaseBusy):
            collide()

    def test_another_error_of_the_database_is_left_alone(self, database: Database, add_asset: AddAsset) -> None:
        asset = add_asset()
        with pytest.raises(IntegrityError), database.transaction() as db_session:
            db_session.add(Asset(id=asset.id, profile="avatar", storage="default", filename="a.jpg"))


class TestUnavailable:
    @pytest.mark.parametrize("driver", ["postgresql+psycopg", "mariadb+pymysql"])
    def test_a_server_that_is_away_has_a_name(self, driver: str) -> None:
        """Nobody listens on port 1."""
        engine = create_engine(f"{driver}://nobody@127.0.0.1:1/nowhere")
        database = Database(lambda: engine, lambda: None)
        with pytest.raises(DatabaseUnavailable) as caught, database.reading() as db_session:
            db_session.execute(text("SELECT 1"))
        assert isinstance(caught.value.__cause__, DBAPIError)
        assert caught.value.public_message == "The server is busy at the moment. Try again in a few seconds."
        database.dispose()

    def test_a_pool_that_is_empty_is_a_busy_database(self, any_database: str) -> None:
        if any_database.startswith("sqlite"):
            pytest.skip("SQLite's file needs no pool")
        engine = create_engine(any_database, pool_size=1, max_overflow=0, pool_timeout=0.01)
        database = Database(lambda: engine, lambda: None)
        try:
            with database.reading() as first:
                first.execute(text("SELECT 1"))
                with pytest.raises(DatabaseBusy), database.reading() as second:
                    second.execute(text("SELECT 1"))
        finally:
            database.dispose()


@pytest.fixture
def patient(make_app: Callable[..., Flask]) -> Iterator[Flask]:
    """An app on SQLite that would wait a minute for a lock: what it refuses, it refuses at once."""
    app = make_app(SQLALCHEMY_ENGINE_OPTIONS={"connect_args": {"timeout": 60}})
    with app.app_context():
        yield app


class TestTheCallersOwnTransaction:
    def test_with_uncommitted_changes_is_refused_at_once(self, patient: Flask) -> None:
        host, database = patient.extensions["host"], patient.extensions["rindle"].database
        host.db.session.add(host.User(name="ann"))
        host.db.session.flush()
        with pytest.raises(OpenTransaction), database.transaction() as db_session:
            db_session.add(asset_row())
        host.db.session.commit()
        with database.transaction() as db_session:
            db_session.add(asset_row())
        assert count(database) == 1
        assert host.db.session.query(host.User).count() == 1

    def test_may_go_on_reading_ours(self, patient: Flask) -> None:
        host, database = patient.extensions["host"], patient.extensions["rindle"].database
        host.db.session.add(host.User(name="ann"))
        host.db.session.flush()
        assert count(database) == 0

    def test_that_has_only_read_is_no_hindrance(self, patient: Flask) -> None:
        host, database = patient.extensions["host"], patient.extensions["rindle"].database
        assert host.db.session.query(host.User).count() == 0
        with database.transaction() as db_session:
            db_session.add(asset_row())
        assert count(database) == 1

    def test_keeps_the_busy_timeout_for_others(self, patient: Flask) -> None:
        """A refusal does not leave a connection behind that no longer waits."""
        host, database = patient.extensions["host"], patient.extensions["rindle"].database
        host.db.session.add(host.User(name="ann"))
        host.db.session.flush()
        with pytest.raises(OpenTransaction), database.transaction() as db_session:
            db_session.add(asset_row())
        host.db.session.rollback()
        with database.transaction() as db_session:
            assert db_session.execute(text("PRAGMA busy_timeout")).scalar() == 60_000

    def test_does_not_keep_the_file_from_wal_for_ever(self, patient: Flask) -> None:
        """The switch is refused while the host writes, and made by the next connection."""
        host, database = patient.extensions["host"], patient.extensions["rindle"].database
        host.db.session.add(host.User(name="ann"))
        host.db.session.flush()
        assert count(database) == 0
        host.db.session.rollback()
        database.dispose()
        with database.reading() as db_session:
            assert db_session.execute(text("PRAGMA journal_mode")).scalar() == "wal"

    def test_on_a_server_is_no_hindrance(self, make_app: Callable[..., Flask], any_database: str) -> None:
        if any_database.startswith("sqlite"):
            pytest.skip("SQLite has one writer")
        app = make_app(database_url=any_database)
        host, database = app.extensions["host"], app.extensions["rindle"].database
        with app.app_context():
            host.db.session.add(host.User(name="ann"))
            host.db.session.flush()
            with database.transaction() as db_session:
                db_session.add(asset_row())
            assert count(database) == 1


class TestHooks:
    @pytest.fixture
    def session(self, database: Database) -> Iterator[Session]:
        with Session(database._binds().writer) as session:
            yield session

    @pytest.fixture
    def ran(self) -> list[str]:
        return []

    def test_run_once_after_the_commit_in_order(self, database: Database, session: Session, ran: list[str]) -> None:
        session.add(asset_row())
        on_commit(session, lambda: ran.append(f"first saw {count(database)}"))
        on_commit(session, lambda: ran.append("second"))
        assert ran == []
        session.commit()
        session.commit()
        assert ran == ["first saw 1", "second"]

    def test_are_outside_of_the_transaction(self, database: Database) -> None:
        seen: list[bool] = []
        with database.transaction() as db_session:
            on_commit(db_session, lambda: seen.append(in_transaction()))
        assert seen == [False]

    @pytest.mark.parametrize("end", ["rollback", "close"])
    def test_never_run_when_the_transaction_is_undone(self, session: Session, ran: list[str], end: str) -> None:
        session.add(asset_row())
        session.flush()
        on_commit(session, lambda: ran.append("undone"))
        getattr(session, end)()
        session.add(asset_row())
        session.commit()
        assert ran == []

    def test_of_a_released_savepoint_wait_for_the_outermost_commit(self, session: Session, ran: list[str]) -> None:
        session.add(asset_row())
        with session.begin_nested(), session.begin_nested():
            session.add(asset_row())
            on_commit(session, lambda: ran.append("inner"))
        assert ran == []
        session.commit()
        assert ran == ["inner"]

    def test_of_a_savepoint_that_is_undone_are_dropped_and_no_others(self, session: Session, ran: list[str]) -> None:
        session.add(asset_row())
        on_commit(session, lambda: ran.append("before"))
        savepoint = session.begin_nested()
        on_commit(session, lambda: ran.append("undone"))
        with session.begin_nested():
            on_commit(session, lambda: ran.append("undone with its parent"))
        savepoint.rollback()
        on_commit(session, lambda: ran.append("after"))
        session.commit()
        assert ran == ["before", "after"]

    def test_of_a_released_savepoint_in_a_transaction_that_is_undone_never_run(
        self, session: Session, ran: list[str]
    ) -> None:
        with session.begin_nested():
            session.add(asset_row())
            on_commit(session, lambda: ran.append("undone"))
        session.rollback()
        session.add(asset_row())
        session.commit()
        assert ran == []

    def test_that_fails_neither_undoes_the_commit_nor_stops_the_others(
        self, database: Database, ran: list[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail() -> None:
            raise ZeroDivisionError

        with database.transaction() as db_session:
            db_session.add(asset_row())
            on_commit(db_session, fail)
            on_commit(db_session, lambda: ran.append("next"))
        assert (ran, count(database)) == (["next"], 1)
        assert "ZeroDivisionError" in caplog.text

    def test_run_when_the_connection_is_back(self, database: Database) -> None:
        """A hook that needs a connection must not wait for the one that its own transaction has had."""
        seen: list[int] = []
        pool: Any = database._binds().writer.pool
        with database.transaction() as db_session:
            db_session.add(asset_row())
            db_session.flush()
            assert pool.checkedout() == 1
            on_commit(db_session, lambda: seen.append(pool.checkedout()))
        assert seen == [0]

    def test_may_use_the_session_that_was_committed(self, database: Database, session: Session) -> None:
        seen: list[int] = []
        session.add(asset_row())
        on_commit(session, lambda: seen.append(session.scalar(select(func.count()).select_from(Asset)) or 0))
        session.commit()
        assert seen == [1]

    def test_may_use_the_database(self, database: Database, ran: list[str]) -> None:
        def hook() -> None:
            with database.transaction() as db_session:
                db_session.add(asset_row())
                on_commit(db_session, lambda: ran.append("nested"))
            ran.append("outer")

        with database.transaction() as db_session:
            db_session.add(asset_row())
            on_commit(db_session, hook)
        assert ran == ["nested", "outer"]
        assert count(database) == 2


def place(asset_id: uuid.UUID, /, **values: object) -> dict[str, object]:
    given = {"owner_type": "user", "owner_id": "1", "slot": "avatar", "position": 0, "asset_id": asset_id}
    return {"id": new_id(), **given, **values}


class TestInsertUnlessTaken:
    def test_inserts_where_nothing_stands(self, database: Database, add_asset: AddAsset) -> None:
        asset = add_asset()
        with database.transaction() as db_session:
            assert insert_unless_taken(db_session, Attachment, place(asset.id))
            assert insert_unless_taken(db_session, Attachment, place(asset.id, position=1))
        assert count(database, Attachment) == 2

    def test_leaves_what_stands_there(self, database: Database, add_asset: AddAsset) -> None:
        asset, first = add_asset(), place(add_asset().id)
        with database.transaction() as db_session:
            assert insert_unless_taken(db_session, Attachment, first)
        with database.transaction() as db_session:
            assert not insert_unless_taken(db_session, Attachment, place(asset.id))
        with database.reading() as db_session:
            assert db_session.scalars(select(Attachment)).one().id == first["id"]

    def test_sees_rows_that_are_not_flushed_yet(self, database: Database, add_asset: AddAsset) -> None:
        asset = add_asset()
        with database.transaction() as db_session:
            db_session.add(Attachment(**place(asset.id)))
            assert not insert_unless_taken(db_session, Attachment, place(asset.id))

    @pytest.mark.parametrize(
        "wrong",
        [
            pytest.param({"asset_id": uuid.UUID(int=1)}, id="no such asset"),
            pytest.param({"slot": None}, id="a column that must be there"),
        ],
    )
    def test_hides_no_other_mistake(self, database: Database, add_asset: AddAsset, wrong: dict[str, object]) -> None:
        asset = add_asset()
        with pytest.raises(DatabaseError), database.transaction() as db_session:
            insert_unless_taken(db_session, Attachment, place(asset.id, **wrong))
        assert count(database, Attachment) == 0

    def test_never_shortens_a_name(self, database: Database, add_asset: AddAsset, sql_engine: Engine) -> None:
        """An owner whose id is too long must not become another owner."""
        if sql_engine.dialect.name == "sqlite":
            pytest.skip("SQLite keeps texts of any length")
        asset = add_asset()
        with pytest.raises(DatabaseError), database.transaction() as db_session:
            insert_unless_taken(db_session, Attachment, place(asset.id, owner_id="x" * 300))
        assert count(database, Attachment) == 0

    def test_of_many_at_once_exactly_one_inserts(self, database: Database, add_asset: AddAsset) -> None:
        asset, start = add_asset(), threading.Barrier(4)

        def race() -> bool:
            start.wait()
            with database.transaction() as db_session:
                return insert_unless_taken(db_session, Attachment, place(asset.id))

        with ThreadPoolExecutor(4) as pool:
            outcomes = [done.result() for done in [pool.submit(race) for _ in range(4)]]
        assert sorted(outcomes) == [False, False, False, True]
        assert count(database, Attachment) == 1


def test_the_hosts_connections_keep_their_own_settings(make_app: Callable[..., Flask]) -> None:
    """Foreign keys are switched on for ours; what the host did without stays possible for it."""
    app = make_app()
    host = app.extensions["host"]
    with app.app_context(), app.extensions["rindle"].database.reading():
        assert host.db.session.execute(text("PRAGMA foreign_keys")).scalar() == 0


def test_closing_leaves_the_hosts_engine_usable(make_app: Callable[..., Flask]) -> None:
    app = make_app()
    database = app.extensions["rindle"].database
    with database.reading():
        pass
    database.dispose()
    with app.app_context():
        app.extensions["host"].db.session.execute(insert(app.extensions["host"].User).values(name="ann"))
