"""Attachments change beside the host's own rows; what nobody shows any more is purged, and nothing else."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import Engine, event, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from flask_rindle.attachments import Attachments, OwnerKey, Owners
from flask_rindle.errors import NotDeliverable, NotFound, OwnerUnsaved, UnknownName
from flask_rindle.models import Asset, Attachment, Job, Variant
from flask_rindle.models.database import Database
from flask_rindle.outbox import JobKind, Outbox
from flask_rindle.testing.clock import FrozenClock
from flask_rindle.types import new_id

AddAsset = Callable[..., Asset]
ANN = OwnerKey("user", "1")
BOB = OwnerKey("user", "2")


@pytest.fixture
def outbox(database: Database, clock: FrozenClock) -> Outbox:
    return Outbox(database, clock)


@pytest.fixture
def attachments(outbox: Outbox, clock: FrozenClock) -> Attachments:
    return Attachments(outbox, clock)


@pytest.fixture
def host(sql_engine: Engine) -> Iterator[Session]:
    """The host's session: its own engine, with the database's own isolation."""
    with Session(sql_engine) as session:
        yield session


@pytest.fixture
def purges(database: Database) -> Callable[[], set[uuid.UUID]]:
    def committed() -> set[uuid.UUID]:
        with database.reading() as db_session:
            return set(db_session.scalars(select(Job.asset_id).where(Job.kind == "purge")))

    return committed


def state(database: Database, asset: Asset) -> str:
    with database.reading() as db_session:
        return db_session.get_one(Asset, asset.id).state


def standing(database: Database) -> list[tuple[str, str, int, uuid.UUID]]:
    with database.reading() as db_session:
        rows = db_session.scalars(
            select(Attachment).order_by(Attachment.owner_id, Attachment.slot, Attachment.position)
        )
        return [(row.owner_id, row.slot, row.position, row.asset_id) for row in rows]


class TestAttach:
    def test_tells_which_asset_stands_there_now(
        self, attachments: Attachments, host: Session, add_asset: AddAsset
    ) -> None:
        old, new = add_asset(), add_asset()
        assert attachments.attach(host, old.id, ANN, "avatar").asset.id == old.id
        assert attachments.attach(host, new.id, ANN, "avatar").asset.id == new.id

    def test_puts_the_asset_there_when_the_host_commits(
        self, attachments: Attachments, host: Session, database: Database, add_asset: AddAsset, clock: FrozenClock
    ) -> None:
        asset = add_asset()
        attachment = attachments.attach(host, asset.id, ANN, "avatar")
        assert (attachment.asset.id, attachment.created_at) == (asset.id, clock())
        host.commit()
        assert standing(database) == [("1", "avatar", 0, asset.id)]

    def test_leaves_nothing_when_the_host_rolls_back(
        self, attachments: Attachments, host: Session, database: Database, add_asset: AddAsset
    ) -> None:
        attachments.attach(host, add_asset().id, ANN, "avatar")
        host.rollback()
        assert standing(database) == []

    def test_replaces_and_purges_in_the_same_transaction(
        self,
        attachments: Attachments,
        outbox: Outbox,
        host: Session,
        database: Database,
        add_asset: AddAsset,
        purges: Callable[[], set[uuid.UUID]],
    ) -> None:
        old, new, sent = add_asset(), add_asset(), []
        attachments.attach(host, old.id, ANN, "avatar")
        host.commit()
        outbox.send = sent.append
        attachments.attach(host, new.id, ANN, "avatar")
        assert sent == []
        host.commit()
        assert standing(database) == [("1", "avatar", 0, new.id)]
        assert (state(database, old), state(database, new)) == ("deleted", "ready")
        assert (purges(), len(sent)) == ({old.id}, 1)

    def test_that_is_rolled_back_replaces_and_purges_nothing(
        self,
        attachments: Attachments,
        outbox: Outbox,
        host: Session,
        database: Database,
        add_asset: AddAsset,
        purges: Callable[[], set[uuid.UUID]],
    ) -> None:
        old, sent = add_asset(), []
        attachments.attach(host, old.id, ANN, "avatar")
        host.commit()
        outbox.send = sent.append
        attachments.attach(host, add_asset().id, ANN, "avatar")
        host.rollback()
        assert standing(database) == [("1", "avatar", 0, old.id)]
        assert (state(database, old), purges(), sent) == ("ready", set(), [])

    def test_keeps_what_somebody_else_shows(
        self,
        attachments: Attachments,
        host: Session,
        database: Database,
        add_asset: AddAsset,
        purges: Callable[[], set[uuid.UUID]],
    ) -> None:
        shared, new = add_asset(), add_asset()
        attachments.attach(host, shared.id, ANN, "avatar")
        attachments.attach(host, shared.id, BOB, "avatar")
        attachments.attach(host, new.id, ANN, "avatar")
        host.commit()
        assert (state(database, shared), purges()) == ("ready", set())
        attachments.attach(host, new.id, BOB, "avatar")
        host.commit()
        assert (state(database, shared), purges()) == ("deleted", {shared.id})

    def test_of_the_same_asset_again_changes_nothing(
        self,
        attachments: Attachments,
        host: Session,
        database: Database,
        add_asset: AddAsset,
        purges: Callable[[], set[uuid.UUID]],
        clock: FrozenClock,
    ) -> None:
        asset, begun = add_asset(), clock()
        first = attachments.attach(host, asset.id, ANN, "avatar").id
        host.commit()
        clock.tick(hours=1)
        again = attachments.attach(host, asset.id, ANN, "avatar")
        assert (again.id, again.created_at) == (first, begun)
        host.commit()
        assert (state(database, asset), purges()) == ("ready", set())

    def test_at_other_positions_stands_beside(
        self, attachments: Attachments, host: Session, database: Database, add_asset: AddAsset
    ) -> None:
        first, second = add_asset(), add_asset()
        attachments.attach(host, first.id, ANN, "gallery", position=1)
        attachments.attach(host, second.id, ANN, "gallery")
        attachments.attach(host, second.id, ANN, "avatar")
        host.commit()
        assert standing(database) == [
            ("1", "avatar", 0, second.id),
            ("1", "gallery", 0, second.id),
            ("1", "gallery", 1, first.id),
        ]

    @pytest.mark.parametrize("dead", ["quarantined", "deleted"])
    def test_of_a_dead_asset_is_refused(
        self, attachments: Attachments, host: Session, add_asset: AddAsset, dead: str
    ) -> None:
        asset = add_asset(state=dead)
        with pytest.raises(NotDeliverable) as caught:
            attachments.attach(host, asset.id, ANN, "avatar")
        assert (caught.value.id, caught.value.state) == (asset.id, dead)

    def test_of_no_asset_is_refused(self, attachments: Attachments, host: Session) -> None:
        with pytest.raises(NotFound):
            attachments.attach(host, new_id(), ANN, "avatar")

    def test_replaces_what_stands_there_now_and_not_what_was_seen(
        self,
        attachments: Attachments,
        host: Session,
        database: Database,
        add_asset: AddAsset,
        purges: Callable[[], set[uuid.UUID]],
    ) -> None:
        """A replacement by somebody else, after this session looked, is purged in its turn."""
        first, second, third = add_asset(), add_asset(), add_asset()
        attachments.attach(host, first.id, ANN, "avatar")
        host.commit()
        seen = host.scalars(select(Attachment)).one()
        assert seen.asset_id == first.id
        host.connection().connection.dbapi_connection.commit()  # the rows stay in the session, no snapshot does
        with database.transaction() as other:
            attachments.attach(other, second.id, ANN, "avatar")
        attachments.attach(host, third.id, ANN, "avatar")
        host.commit()
        assert standing(database) == [("1", "avatar", 0, third.id)]
        assert purges() == {first.id, second.id}

    def test_keeps_what_somebody_else_began_to_show_meanwhile(
        self,
        attachments: Attachments,
        host: Session,
        database: Database,
        add_asset: AddAsset,
        purges: Callable[[], set[uuid.UUID]],
        sql_engine: Engine,
    ) -> None:
        """Also in a host's transaction that goes on seeing what was there when it began."""
        if sql_engine.dialect.name == "sqlite":
            pytest.skip("SQLite has one writer, who sees everything")
        shared, new = add_asset(), add_asset()
        attachments.attach(host, shared.id, ANN, "avatar")
        host.commit()
        assert len(host.scalars(select(Attachment)).all()) == 1
        with database.transaction() as other:
            attachments.attach(other, shared.id, BOB, "avatar")
        attachments.attach(host, new.id, ANN, "avatar")
        host.commit()
        assert (state(database, shared), purges()) == ("ready", set())

    def test_neither_waits_for_who_stops_showing_the_same_nor_counts_on_it(
        self,
        attachments: Attachments,
        host: Session,
        database: Database,
        add_asset: AddAsset,
        purges: Callable[[], set[uuid.UUID]],
        sql_engine: Engine,
    ) -> None:
        """Two owners who replace one shared asset at the same time would wait for each other."""
        if sql_engine.dialect.name == "sqlite":
            pytest.skip("SQLite has one writer at a time")
        shared, first, second = add_asset(), add_asset(), add_asset()
        for owner in (ANN, BOB):
            attachments.attach(host, shared.id, owner, "avatar")
        host.commit()
        limit = (
            "SET lock_timeout = 500" if sql_engine.dialect.name == "postgresql" else "SET innodb_lock_wait_timeout = 1"
        )
        with Session(sql_engine) as other:
            mine = other.scalars(select(Attachment).filter_by(owner_id=BOB.id)).one()
            mine.asset_id = second.id
            other.flush()
            host.execute(text(limit))
            attachments.attach(host, first.id, ANN, "avatar")
            host.commit()
            assert (state(database, shared), purges()) == ("ready", set()), "the other may still roll back"
            attachments._let_go(other, shared.id)
            other.commit()
        assert (state(database, shared), purges()) == ("deleted", {shared.id})

    def test_calls_off_the_work_on_what_it_replaces(
        self, attachments: Attachments, outbox: Outbox, host: Session, database: Database, add_asset: AddAsset
    ) -> None:
        old, new = add_asset(state="processing"), add_asset()
        with database.transaction() as db_session:
            outbox.add(db_session, JobKind.VARIANTS, old.id)
        attachments.attach(host, old.id, ANN, "avatar")
        attachments.attach(host, new.id, ANN, "avatar")
        host.commit()
        with database.reading() as db_session:
            states = {job.kind: job.state for job in db_session.scalars(select(Job))}
        assert states == {"variants": "cancelled", "purge": "queued"}

    def test_by_two_at_once_leaves_one_and_purges_the_other(
        self,
        attachments: Attachments,
        sql_engine: Engine,
        database: Database,
        add_asset: AddAsset,
        purges: Callable[[], set[uuid.UUID]],
    ) -> None:
        assets, start = [add_asset(), add_asset()], threading.Barrier(2)

        def race(asset: Asset) -> None:
            with Session(sql_engine) as session:
                start.wait()
                attachments.attach(session, asset.id, ANN, "avatar")
                session.commit()

        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(race, asset) for asset in assets]:
                done.result()
        ((_, _, _, winner),) = standing(database)
        (loser,) = {asset.id for asset in assets} - {winner}
        assert purges() == {loser}

    def test_tells_owners_apart_whose_ids_differ_in_letter_case(
        self, attachments: Attachments, host: Session, database: Database, add_asset: AddAsset
    ) -> None:
        upper, lower = add_asset(), add_asset()
        attachments.attach(host, upper.id, OwnerKey("user", "A"), "avatar")
        attachments.attach(host, lower.id, OwnerKey("user", "a"), "avatar")
        attachments.attach(host, lower.id, OwnerKey("user", "ä"), "avatar")
        host.commit()
        assert standing(database) == [
            ("A", "avatar", 0, upper.id),
            ("a", "avatar", 0, lower.id),
            ("ä", "avatar", 0, lower.id),
        ]


class TestAppend:
    def test_puts_assets_one_behind_the_other(
        self, attachments: Attachments, host: Session, database: Database, add_asset: AddAsset
    ) -> None:
        assets = [add_asset() for _ in range(3)]
        for asset in assets:
            attachments.append(host, asset.id, ANN, "gallery")
        host.commit()
        assert [(row[2], row[3]) for row in standing(database)] == [(n, asset.id) for n, asset in enumerate(assets)]

    def test_twice_is_quiet(
        self, attachments: Attachments, host: Session, database: Database, add_asset: AddAsset
    ) -> None:
        asset = add_asset()
        first = attachments.append(host, asset.id, ANN, "gallery")
        assert attachments.append(host, asset.id, ANN, "gallery").id == first.id
        host.commit()
        assert len(standing(database)) == 1

    def test_behind_one_that_somebody_else_appended_meanwhile(
        self, attachments: Attachments, host: Session, database: Database, add_asset: AddAsset
    ) -> None:
        """Also in a host's transaction that goes on seeing what was there when it began."""
        first, second = add_asset(), add_asset()
        assert host.scalars(select(Attachment)).all() == []
        with database.transaction() as other:
            attachments.append(other, first.id, ANN, "gallery")
        attachments.append(host, second.id, ANN, "gallery")
        host.commit()
        assert [(row[2], row[3]) for row in standing(database)] == [(0, first.id), (1, second.id)]

    def test_of_a_dead_asset_is_refused(self, attachments: Attachments, host: Session, add_asset: AddAsset) -> None:
        with pytest.raises(NotDeliverable):
            attachments.append(host, add_asset(state="deleted").id, ANN, "gallery")

    def test_by_many_at_once_keeps_all(
        self, attachments: Attachments, sql_engine: Engine, database: Database, add_asset: AddAsset
    ) -> None:
        assets, start = [add_asset() for _ in range(4)], threading.Barrier(4)

        def race(asset: Asset) -> None:
            start.wait()
            with database.transaction() as session:
                attachments.append(session, asset.id, ANN, "gallery")

        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(race, asset) for asset in assets]:
                done.result()
        assert [row[2] for row in standing(database)] == [0, 1, 2, 3]
        assert {row[3] for row in standing(database)} == {asset.id for asset in assets}


class TestDetach:
    def test_empties_the_slot_and_purges(
        self,
        attachments: Attachments,
        host: Session,
        database: Database,
        add_asset: AddAsset,
        purges: Callable[[], set[uuid.UUID]],
    ) -> None:
        gone, also_gone, shared, other_slot = (add_asset() for _ in range(4))
        for n, asset in enumerate((gone, also_gone, shared)):
            attachments.attach(host, asset.id, ANN, "gallery", position=n)
        attachments.attach(host, shared.id, BOB, "gallery")
        attachments.attach(host, other_slot.id, ANN, "avatar")
        host.commit()
        attachments.detach(host, ANN, "gallery")
        host.commit()
        assert standing(database) == [("1", "avatar", 0, other_slot.id), ("2", "gallery", 0, shared.id)]
        assert purges() == {gone.id, also_gone.id}

    def test_of_one_place_leaves_the_others(
        self, attachments: Attachments, host: Session, database: Database, add_asset: AddAsset
    ) -> None:
        assets = [add_asset() for _ in range(3)]
        for n, asset in enumerate(assets):
            attachments.attach(host, asset.id, ANN, "gallery", position=n)
        attachments.detach(host, ANN, "gallery", position=1)
        host.commit()
        assert [row[2] for row in standing(database)] == [0, 2]
        assert [state(database, asset) for asset in assets] == ["ready", "deleted", "ready"]

    def test_of_an_asset_that_stands_twice_in_the_slot_removes_it_once(
        self,
        attachments: Attachments,
        host: Session,
        add_asset: AddAsset,
        purges: Callable[[], set[uuid.UUID]],
        database: Database,
    ) -> None:
        asset = add_asset()
        attachments.attach(host, asset.id, ANN, "gallery", position=0)
        attachments.attach(host, asset.id, ANN, "gallery", position=1)
        attachments.detach(host, ANN, "gallery", position=0)
        host.commit()
        assert (state(database, asset), purges()) == ("ready", set())
        attachments.detach(host, ANN, "gallery")
        host.commit()
        assert (state(database, asset), purges()) == ("deleted", {asset.id})

    def test_that_is_rolled_back_leaves_everything(
        self,
        attachments: Attachments,
        host: Session,
        database: Database,
        add_asset: AddAsset,
        purges: Callable[[], set[uuid.UUID]],
    ) -> None:
        asset = add_asset()
        attachments.attach(host, asset.id, ANN, "avatar")
        host.commit()
        attachments.detach(host, ANN, "avatar")
        host.rollback()
        assert (len(standing(database)), state(database, asset), purges()) == (1, "ready", set())

    def test_of_an_empty_slot_is_quiet(self, attachments: Attachments, host: Session) -> None:
        attachments.detach(host, ANN, "avatar")

    def test_of_what_is_dead_already_is_quiet(
        self,
        attachments: Attachments,
        host: Session,
        database: Database,
        add_asset: AddAsset,
        purges: Callable[[], set[uuid.UUID]],
    ) -> None:
        asset = add_asset()
        attachments.attach(host, asset.id, ANN, "avatar")
        host.commit()
        with database.transaction() as db_session:
            attachments.remove(db_session, db_session.get_one(Asset, asset.id))
        attachments.detach(host, ANN, "avatar")
        host.commit()
        assert (standing(database), purges()) == ([], {asset.id})


class TestFind:
    def test_gives_everything_of_many_owners_in_a_constant_number_of_statements(
        self, attachments: Attachments, host: Session, add_asset: AddAsset, database: Database, sql_engine: Engine
    ) -> None:
        owners = [OwnerKey("user", str(n)) for n in range(12)]
        assets = iter([add_asset() for _ in range(24)])
        for owner in owners:
            for position, asset in zip((1, 0), assets, strict=False):
                attachments.attach(host, asset.id, owner, "gallery", position=position)
                host.add(Variant(id=new_id(), asset_id=asset.id, name="thumb", recipe_digest="d", storage="default"))
        host.commit()
        counts = []
        for asked in (owners[:1], owners):
            statements: list[str] = []

            def note(*args: Any, into: list[str] = statements) -> None:
                into.append(args[2])

            event.listen(sql_engine, "before_cursor_execute", note)
            found = attachments.find(host, asked, ["gallery", "avatar"])
            names = [a.asset.variants[0].name for slots in found.values() for a in slots["gallery"]]
            event.remove(sql_engine, "before_cursor_execute", note)
            host.rollback()
            assert names == ["thumb"] * len(asked) * 2
            counts.append(len(statements))
        assert counts == [3, 3]
        assert [attachment.position for attachment in found[owners[3]]["gallery"]] == [0, 1]
        assert found[owners[3]]["avatar"] == []

    def test_of_nobody_asks_nothing(self, attachments: Attachments, host: Session) -> None:
        assert attachments.find(host, [], ["avatar"]) == {}

    def test_gives_empty_slots_to_who_has_nothing(self, attachments: Attachments, host: Session) -> None:
        assert attachments.find(host, [ANN], ["avatar", "gallery"]) == {ANN: {"avatar": [], "gallery": []}}


class Base(DeclarativeBase):
    pass


class Renamed(Base):
    __tablename__ = "test_integer"
    id: Mapped[int] = mapped_column(primary_key=True)


class Admin(Renamed):
    pass


class Text(Base):
    __tablename__ = "test_text"
    slug: Mapped[str] = mapped_column(primary_key=True)


class Uuid(Base):
    __tablename__ = "test_uuid"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)


class Pair(Base):
    __tablename__ = "test_pair"
    a: Mapped[str] = mapped_column(primary_key=True)
    b: Mapped[str] = mapped_column(primary_key=True)


OWNERS = Owners({"user": Renamed, "page": Text, "team": Uuid, "pair": Pair})


class TestOwners:
    @pytest.mark.parametrize(
        ("owner", "key"),
        [
            (Renamed(id=7), OwnerKey("user", "7")),
            (Text(slug="a:b"), OwnerKey("page", "a:b")),
            (Uuid(id=uuid.UUID(int=1)), OwnerKey("team", "00000000-0000-0000-0000-000000000001")),
            (Pair(a="x", b="y"), OwnerKey("pair", "x:y")),
            (OwnerKey("user", "7"), OwnerKey("user", "7")),
        ],
        ids=["integer", "text", "uuid", "composite", "a key"],
    )
    def test_are_named_by_their_registered_name_and_key(self, owner: object, key: OwnerKey) -> None:
        """Not by their class, which may be renamed."""
        assert OWNERS.key(owner) == key

    def test_of_a_subclass_go_by_its_parent(self) -> None:
        assert OWNERS.key(Admin(id=7)) == OwnerKey("user", "7")

    def test_with_composite_keys_are_never_confused(self) -> None:
        assert OWNERS.key(Pair(a="x:y", b="z")) != OWNERS.key(Pair(a="x", b="y:z"))
        assert OWNERS.key(Pair(a="x%3A", b="z")) != OWNERS.key(Pair(a="x:", b="z"))

    @pytest.mark.parametrize("owner", [Renamed(), Pair(a="x")])
    def test_without_a_key_are_refused(self, owner: object) -> None:
        with pytest.raises(OwnerUnsaved):
            OWNERS.key(owner)

    def test_that_nobody_registered_are_refused(self) -> None:
        with pytest.raises(UnknownName) as caught:
            OWNERS.key(object())
        assert (caught.value.kind, caught.value.known) == ("owner", ("page", "pair", "team", "user"))

    @pytest.mark.parametrize("parts", [2, 3])
    def test_with_several_uuids_for_a_key_fit_into_the_column(
        self, parts: int, attachments: Attachments, host: Session, add_asset: AddAsset, database: Database
    ) -> None:
        owner_id = ":".join(str(new_id()) for _ in range(parts))
        attachments.attach(host, add_asset().id, OwnerKey("pair", owner_id), "avatar")
        host.commit()
        assert standing(database)[0][0] == owner_id


class TestThroughTheApp:
    """The same in `db.session`, where the host commits."""

    def test_slots_of_a_host_model(
        self, add_asset: AddAsset, make_app: Callable[..., Flask], any_database: str
    ) -> None:
        app = make_app(database_url=any_database)
        host = app.extensions["host"]
        first, second = add_asset(), add_asset()
        with app.app_context():
            user = host.User(name="ann")
            host.db.session.add(user)
            assert user.avatar.attach(first).asset_id == first.id, "attaching flushes a new owner"
            assert [asset.id for asset in user.avatar] == [first.id]
            host.db.session.commit()
            host.rindle.attach(str(second.id), user, "avatar")
            host.db.session.commit()
            found = host.rindle.attachment_for(user, "avatar")
            assert found.asset_id == second.id
            assert host.rindle.attachments_for([user], "avatar") == {host.rindle.owner_key(user): {"avatar": [found]}}
            user.avatar.detach()
            host.db.session.commit()
            assert host.rindle.attachment_for(user, "avatar") is None
            assert not user.avatar

    def test_a_given_session_is_joined_and_not_committed(
        self, make_app: Callable[..., Flask], any_database: str, add_asset: AddAsset, sql_engine: Engine
    ) -> None:
        app = make_app(database_url=any_database)
        host = app.extensions["host"]
        asset = add_asset()
        with app.app_context():
            user = host.User(name="ann")
            host.db.session.add(user)
            host.db.session.commit()
            with Session(sql_engine) as mine:
                host.rindle.attach(asset, user, "avatar", db_session=mine)
                mine.rollback()
            assert host.rindle.attachment_for(user, "avatar") is None
            host.db.session.rollback()
            with Session(sql_engine) as mine:
                host.rindle.attach(asset, user, "avatar", db_session=mine)
                mine.commit()
            host.db.session.rollback()
            assert host.rindle.attachment_for(user, "avatar").asset_id == asset.id

    def test_an_owner_that_is_not_saved_is_refused(self, make_app: Callable[..., Flask]) -> None:
        app = make_app()
        host = app.extensions["host"]
        with app.app_context(), pytest.raises(OwnerUnsaved):
            host.rindle.attach(new_id(), host.User(name="ann"), "avatar")
