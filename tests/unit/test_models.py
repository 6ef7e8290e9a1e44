"""The database itself refuses rows that must not be, on all three."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import Engine, ForeignKey, create_engine, inspect, select, text
from sqlalchemy.exc import DatabaseError, IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from flask_rindle.models import Asset, Attachment, Event, Job, ProcessingRun, ProviderAsset, UploadSession, Variant
from flask_rindle.models.base import Base
from flask_rindle.models.database import Database
from flask_rindle.types import new_id

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ASSET = uuid.UUID(int=1)


def asset(**values: Any) -> Asset:
    return Asset(**{"id": new_id(), "profile": "p", "storage": "s", "filename": "f", **values})


def variant(**values: Any) -> Variant:
    return Variant(**{"asset_id": ASSET, "name": "thumb", "recipe_digest": "d", "storage": "s", **values})


def session(**values: Any) -> UploadSession:
    given = {"profile": "p", "storage": "s", "strategy": "form", "upload_key": str(new_id()), "filename": "f"}
    return UploadSession(**{**given, "content_type": "a/b", "expires_at": NOW, **values})


def attachment(**values: Any) -> Attachment:
    return Attachment(**{"asset_id": ASSET, "owner_type": "user", "owner_id": "1", "slot": "avatar", **values})


def provider_asset(**values: Any) -> ProviderAsset:
    return ProviderAsset(**{"asset_id": ASSET, "profile": "p", "provider": "mux", **values})


def job(**values: Any) -> Job:
    return Job(**{"kind": "purge", "queue": "q", "asset_id": ASSET, "max_attempts": 3, "run_at": NOW, **values})


def attempt(**values: Any) -> ProcessingRun:
    return ProcessingRun(**{"asset_id": ASSET, "kind": "k", "worker": "w", "attempt": 1, "started_at": NOW, **values})


def event(**values: Any) -> Event:
    return Event(**{"kind": "asset", "subject_id": ASSET, "from_state": "a", "to_state": "b", **values})


MAKERS: list[Callable[..., Base]] = [asset, variant, session, attachment, provider_asset, job, attempt, event]


@pytest.fixture
def store(database: Database) -> Callable[..., None]:
    def add(*rows: Base) -> None:
        with database.transaction() as db_session:
            db_session.add_all(rows)

    add(asset(id=ASSET))
    return add


@pytest.mark.parametrize("make", MAKERS)
def test_a_good_row_is_taken(store: Callable[..., None], make: Callable[..., Base]) -> None:
    store(make())


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (asset, {"state": "avaliable"}),
        (asset, {"state": "READY"}),
        (asset, {"kind": "document"}),
        (variant, {"state": "deleted"}),
        (session, {"state": "ready"}),
        (provider_asset, {"state": "purged"}),
        (job, {"state": "done"}),
        (attempt, {"outcome": "queued"}),
        (event, {"kind": "user"}),
        (variant, {"asset_id": uuid.UUID(int=9)}),
        (attachment, {"asset_id": uuid.UUID(int=9)}),
        (provider_asset, {"asset_id": uuid.UUID(int=9)}),
        (session, {"asset_id": uuid.UUID(int=9)}),
        (attempt, {"job_id": uuid.UUID(int=9)}),
        (asset, {"filename": None}),
        (attachment, {"owner_id": None}),
        (job, {"run_at": None}),
    ],
)
def test_a_bad_row_is_refused(store: Callable[..., None], make: Callable[..., Base], wrong: dict[str, Any]) -> None:
    # MariaDB calls a failed CHECK an operational error.
    with pytest.raises(DatabaseError, match=r"(?i)constraint|null"):
        store(make(**wrong))


@pytest.mark.parametrize(
    ("make", "same"),
    [
        (asset, {"storage_key": "a/b"}),
        (variant, {}),
        (session, {"upload_key": "incoming/a"}),
        (session, {"ticket_id": uuid.UUID(int=5), "ticket_place": 0}),
        (attachment, {}),
        (provider_asset, {}),
        (job, {"live_key": "purge:1"}),
    ],
)
def test_what_is_unique_is_so_in_the_database(
    store: Callable[..., None], make: Callable[..., Base], same: dict[str, Any]
) -> None:
    store(make(**same))
    with pytest.raises(IntegrityError):
        store(make(**same))


@pytest.mark.parametrize("column", ["provider_asset_id", "provider_upload_id", "passthrough"])
def test_a_providers_ids_name_one_asset(store: Callable[..., None], column: str) -> None:
    other = asset()
    store(other)
    store(provider_asset(**{column: "x"}))
    with pytest.raises(IntegrityError):
        store(provider_asset(asset_id=other.id, **{column: "x"}))


@pytest.mark.parametrize(
    ("make", "same"),
    [
        (asset, {"storage_key": None}),
        (session, {"ticket_id": uuid.UUID(int=5), "ticket_place": None}),
        (job, {"live_key": None}),
        (event, {}),
    ],
)
def test_what_is_let_go_may_be_there_again(
    store: Callable[..., None], make: Callable[..., Base], same: dict[str, Any]
) -> None:
    """A key that is NULL is free: old jobs, refused uploads, assets without bytes."""
    store(make(**same), make(**same))


def test_words_are_told_apart_by_letter_case(store: Callable[..., None], database: Database) -> None:
    store(attachment(owner_id="A"), attachment(owner_id="a"))
    with database.reading() as db_session:
        assert len(db_session.scalars(select(Attachment).where(Attachment.owner_id == "A")).all()) == 1


def test_what_hangs_on_an_asset_goes_with_it(store: Callable[..., None], database: Database) -> None:
    store(variant(), attachment(), provider_asset(), kept := session(asset_id=ASSET), event())
    with database.transaction() as db_session:
        db_session.execute(text("DELETE FROM rindle_assets"))
    with database.reading() as db_session:
        for gone in (Variant, Attachment, ProviderAsset):
            assert db_session.scalars(select(gone)).all() == []
        assert db_session.get_one(UploadSession, kept.id).asset_id is None
        assert len(db_session.scalars(select(Event)).all()) == 1, "the trail outlives what it speaks of"


def test_an_attempt_outlives_its_job(store: Callable[..., None], database: Database) -> None:
    store(gone := job())
    store(attempt(job_id=gone.id))
    with database.transaction() as db_session:
        db_session.execute(text("DELETE FROM rindle_jobs"))
    with database.reading() as db_session:
        assert db_session.scalars(select(ProcessingRun)).one().job_id is None


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC),
        datetime(2026, 3, 1, 12, 0, 0, 999999, tzinfo=timezone(timedelta(hours=-7))),
        datetime(2026, 10, 25, 2, 30, tzinfo=timezone(timedelta(hours=2))),
    ],
)
def test_times_keep_their_microseconds_and_come_back_in_utc(
    store: Callable[..., None], database: Database, moment: datetime
) -> None:
    store(variant(generated_at=moment))
    with database.reading() as db_session:
        found = db_session.scalars(select(Variant)).one().generated_at
        assert found == moment
        assert found.tzinfo == UTC
        assert len(db_session.scalars(select(Variant).where(Variant.generated_at == moment)).all()) == 1


def test_times_are_compared_as_moments(store: Callable[..., None], database: Database) -> None:
    store(job(run_at=NOW.astimezone(timezone(timedelta(hours=9)))))
    with database.reading() as db_session:
        assert db_session.scalars(select(Job).where(Job.run_at <= NOW)).one().run_at == NOW
        assert db_session.scalars(select(Job).where(Job.run_at < NOW)).all() == []


def test_byte_counts_are_64_bit(store: Callable[..., None], database: Database) -> None:
    store(variant(byte_size=2**40))
    with database.reading() as db_session:
        assert db_session.scalars(select(Variant)).one().byte_size == 2**40


def test_names_of_every_script_come_back(store: Callable[..., None], database: Database) -> None:
    store(row := asset(filename="Übung 写真 🎉.jpg"))
    with database.reading() as db_session:
        assert db_session.get_one(Asset, row.id).filename == "Übung 写真 🎉.jpg"


def test_an_event_id_is_never_given_twice(store: Callable[..., None], database: Database) -> None:
    """A browser that saw the highest id must see the next event too."""
    store(first := event())
    with database.transaction() as db_session:
        db_session.execute(text("DELETE FROM rindle_events"))
    store(second := event())
    assert second.id > first.id


def test_columns_that_are_searched_have_an_index(sql_engine: Engine) -> None:
    found = inspect(sql_engine)
    for table, columns in (
        ("rindle_jobs", ["state", "queue", "priority", "run_at", "id"]),
        ("rindle_jobs", ["state", "lease_expires_at"]),
        ("rindle_jobs", ["finished_at"]),
        ("rindle_processing_runs", ["finished_at"]),
        ("rindle_upload_sessions", ["state", "expires_at"]),
        ("rindle_attachments", ["asset_id"]),
        ("rindle_events", ["asset_id", "id"]),
    ):
        assert columns in [index["column_names"] for index in found.get_indexes(table)]


class TestInAHost:
    def test_create_all_makes_the_tables(self, make_app: Callable[..., Flask], any_database: str) -> None:
        make_app(database_url=any_database)
        engine = create_engine(any_database)
        assert {table.name for table in Base.metadata.sorted_tables} <= set(inspect(engine).get_table_names())
        engine.dispose()

    def test_rows_work_in_the_hosts_session(self, make_app: Callable[..., Flask], any_database: str) -> None:
        app = make_app(database_url=any_database)
        db = app.extensions["host"].db
        with app.app_context():
            db.session.add_all([row := asset(), attachment(asset_id=row.id)])
            db.session.commit()
            assert db.session.scalars(select(Attachment)).one().asset.filename == "f"

    def test_may_be_pointed_at_by_the_hosts_foreign_keys(
        self, make_app: Callable[..., Flask], any_database: str
    ) -> None:
        app = make_app(database_url=any_database)
        db = app.extensions["host"].db

        class Page(db.Model):  # type: ignore[name-defined,misc]
            id: Mapped[int] = mapped_column(primary_key=True)
            cover_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("rindle_assets.id"))

        with app.app_context():
            db.create_all()
            db.session.add(row := asset())
            db.session.flush()
            db.session.add(Page(cover_id=row.id))
            db.session.commit()
            assert db.session.scalars(select(Page)).one().cover_id == row.id
            if not any_database.startswith("sqlite"):
                db.session.add(Page(cover_id=new_id()))
                with pytest.raises(IntegrityError):
                    db.session.commit()
                db.session.rollback()


@pytest.mark.parametrize("make", MAKERS)
def test_no_row_shows_a_key_in_its_repr(make: Callable[..., Base]) -> None:
    row = make()
    for column in ("storage_key", "upload_key", "provider_asset_id", "lease"):
        if hasattr(row, column):
            setattr(row, column, "s3cret")
    assert "s3cret" not in repr(row)
