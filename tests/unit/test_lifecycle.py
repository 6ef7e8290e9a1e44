"""States move along the tables only, each move with its event row, and nothing comes back from the dead."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from sqlalchemy import create_engine, select, text
from sqlalchemy.orm import Session

from flask_rindle import signals
from flask_rindle.errors import DatabaseBusy, LostRace, TransitionRefused
from flask_rindle.lifecycle import ASSET, PROVIDER_ASSET, TABLES, UPLOAD_SESSION, VARIANT, move, roll_up, rolled_up
from flask_rindle.models import Asset, Event, ProviderAsset, UploadSession, Variant, metadata
from flask_rindle.models.database import Database
from flask_rindle.models.states import (
    DELIVERABLE,
    SESSION_OVER,
    AssetState,
    ProviderState,
    SessionState,
    VariantState,
)
from flask_rindle.testing.clock import FrozenClock
from flask_rindle.types import new_id

AddAsset = Callable[..., Asset]
WORDS = {Asset: AssetState, Variant: VariantState, UploadSession: SessionState, ProviderAsset: ProviderState}


def edges(table: Any) -> dict[str, set[str]]:
    return {source: set(targets) for source, targets in table.items()}


def words(text: str) -> dict[str, set[str]]:
    return {line.split(":")[0].strip(): set(line.split(":")[1].split()) for line in text.strip().splitlines()}


class TestTables:
    def test_of_assets(self) -> None:
        assert edges(ASSET) == words("""
            staged:      validating deleted
            validating:  analyzing quarantined deleted
            analyzing:   promoting quarantined deleted
            promoting:   available quarantined deleted
            available:   processing transcoding ready degraded quarantined deleted
            processing:  transcoding ready degraded quarantined deleted
            transcoding: processing ready degraded quarantined deleted
            ready:       processing transcoding degraded quarantined deleted
            degraded:    processing transcoding ready quarantined deleted
            quarantined: deleted
            deleted:
        """)

    def test_of_variants(self) -> None:
        assert edges(VARIANT) == words("""
            planned:    queued cancelled
            queued:     processing cancelled
            processing: ready failed cancelled queued
            ready:      stale missing purged
            stale:      queued missing purged
            missing:    queued ready purged
            failed:     queued purged
            cancelled:  queued purged
            purged:
        """)

    def test_of_upload_sessions(self) -> None:
        assert edges(UPLOAD_SESSION) == words("""
            initialized: signed uploading verifying aborted expired failed
            signed:      resuming uploading uploaded verifying aborted expired failed
            resuming:    uploading uploaded verifying aborted expired failed
            uploading:   resuming uploaded verifying aborted expired failed
            uploaded:    verifying aborted expired failed
            verifying:   completed failed uploaded
            completed:
            aborted:
            expired:
            failed:
        """)

    def test_of_provider_assets(self) -> None:
        assert edges(PROVIDER_ASSET) == words("""
            pending:    uploading processing ready errored deleted
            uploading:  pending processing ready errored deleted
            processing: ready errored deleted
            ready:      errored deleted
            errored:    pending uploading processing ready deleted
            deleted:
        """)

    @pytest.mark.parametrize("row", list(TABLES))
    def test_know_every_state_and_no_other(self, row: Any) -> None:
        _, table = TABLES[row]
        known = {state.value for state in WORDS[row]}
        assert set(table) == known
        assert set().union(*table.values()) <= known

    def test_let_bytes_be_delivered_only_after_they_were_available(self) -> None:
        """Every road into what can be delivered leads through `available`."""
        undelivered = set(ASSET) - DELIVERABLE
        doors = {target for source in undelivered for target in ASSET[source] if target in DELIVERABLE}
        assert doors == {AssetState.AVAILABLE}
        assert [source for source in undelivered if AssetState.AVAILABLE in ASSET[source]] == [AssetState.PROMOTING]

    def test_end_every_session_that_is_over(self) -> None:
        assert {state for state, targets in UPLOAD_SESSION.items() if not targets} == SESSION_OVER


@contextmanager
def heard(kind: str) -> Iterator[list[dict[str, Any]]]:
    news: list[dict[str, Any]] = []

    def listen(sender: str, **facts: Any) -> None:
        news.append({"sender": sender, **facts})

    with signals.ALL[f"rindle.{kind}.state_change"].connected_to(listen):
        yield news


def events(database: Database) -> list[Event]:
    with database.reading() as db_session:
        return list(db_session.scalars(select(Event).order_by(Event.id)))


def load(database: Database, asset: Asset) -> Asset:
    with database.reading() as db_session:
        return db_session.get_one(Asset, asset.id)


class TestMove:
    def test_writes_state_columns_and_event_together(
        self, database: Database, add_asset: AddAsset, clock: FrozenClock
    ) -> None:
        asset = add_asset(state="promoting")
        clock.tick(minutes=1)
        with database.transaction() as db_session:
            row = db_session.get_one(Asset, asset.id)
            assert move(db_session, row, AssetState.AVAILABLE, now=clock(), etag="e1")
            assert (row.state, row.etag) == ("available", "e1"), "the row in hand tells the truth at once"
        stored = load(database, asset)
        assert (stored.state, stored.etag, stored.updated_at) == ("available", "e1", clock())
        (event,) = events(database)
        assert (event.kind, event.subject_id, event.asset_id, event.name) == ("asset", asset.id, asset.id, None)
        assert (event.from_state, event.to_state, event.created_at) == ("promoting", "available", clock())

    def test_of_a_variant_names_it_and_its_asset(
        self, database: Database, add_asset: AddAsset, clock: FrozenClock
    ) -> None:
        asset = add_asset()
        with database.transaction() as db_session:
            variant = Variant(id=new_id(), asset_id=asset.id, name="thumb", recipe_digest="d", storage="default")
            db_session.add(variant)
            db_session.flush()
            move(db_session, variant, VariantState.QUEUED, now=clock())
        (event,) = events(database)
        assert (event.kind, event.subject_id, event.asset_id, event.name) == ("variant", variant.id, asset.id, "thumb")

    def test_tells_of_it_after_the_commit(self, database: Database, add_asset: AddAsset, clock: FrozenClock) -> None:
        asset = add_asset(state="staged")
        with heard("asset") as news:
            with database.transaction() as db_session:
                move(db_session, db_session.get_one(Asset, asset.id), AssetState.VALIDATING, now=clock())
                assert news == []
            assert news == [
                {
                    "sender": "asset",
                    "id": asset.id,
                    "asset_id": asset.id,
                    "name": None,
                    "from_state": "staged",
                    "to_state": "validating",
                }
            ]

    def test_that_is_undone_leaves_and_tells_nothing(
        self, database: Database, add_asset: AddAsset, clock: FrozenClock
    ) -> None:
        asset = add_asset(state="staged")

        def fail() -> None:
            with database.transaction() as db_session:
                move(db_session, db_session.get_one(Asset, asset.id), AssetState.VALIDATING, now=clock())
                raise ZeroDivisionError

        with heard("asset") as news, pytest.raises(ZeroDivisionError):
            fail()
        assert (news, events(database), load(database, asset).state) == ([], [], "staged")

    def test_of_news_that_came_before_is_quiet(
        self, database: Database, add_asset: AddAsset, clock: FrozenClock
    ) -> None:
        asset = add_asset(state="deleted")
        with heard("asset") as news, database.transaction() as db_session:
            row = db_session.get_one(Asset, asset.id)
            assert not move(db_session, row, AssetState.DELETED, now=clock(), etag="not written")
        assert (news, events(database), load(database, asset).etag) == ([], [], None)

    def test_along_no_edge_is_refused_with_the_facts(
        self, database: Database, add_asset: AddAsset, clock: FrozenClock
    ) -> None:
        asset = add_asset(state="quarantined")
        with pytest.raises(TransitionRefused) as caught, database.transaction() as db_session:
            move(db_session, db_session.get_one(Asset, asset.id), AssetState.READY, now=clock())
        assert (caught.value.kind, caught.value.id) == ("asset", asset.id)
        assert (caught.value.from_state, caught.value.to_state) == ("quarantined", "ready")
        assert (events(database), load(database, asset).state) == ([], "quarantined")

    def test_of_a_row_that_somebody_else_moved_is_a_lost_race(
        self, database: Database, add_asset: AddAsset, clock: FrozenClock
    ) -> None:
        asset = add_asset(state="analyzing")
        with database.transaction() as db_session:
            move(db_session, db_session.get_one(Asset, asset.id), AssetState.QUARANTINED, now=clock())
        with pytest.raises(LostRace) as caught, database.transaction() as db_session:
            move(db_session, asset, AssetState.PROMOTING, now=clock())
        assert (caught.value.kind, caught.value.id) == ("asset", asset.id)
        assert load(database, asset).state == "quarantined"
        assert [event.to_state for event in events(database)] == ["quarantined"]

    def test_of_a_row_that_is_gone_is_a_lost_race(
        self, database: Database, add_asset: AddAsset, clock: FrozenClock
    ) -> None:
        asset = add_asset()
        with database.transaction() as db_session:
            db_session.delete(db_session.get_one(Asset, asset.id))
        with pytest.raises(LostRace), database.transaction() as db_session:
            move(db_session, asset, AssetState.DELETED, now=clock())

    def test_on_a_condition_that_fails_is_a_lost_race(
        self, database: Database, add_asset: AddAsset, clock: FrozenClock
    ) -> None:
        asset = add_asset(state="promoting", etag="old")
        with pytest.raises(LostRace), database.transaction() as db_session:
            move(db_session, asset, AssetState.AVAILABLE, now=clock(), only_if=Asset.etag == "new")
        with database.transaction() as db_session:
            assert move(db_session, asset, AssetState.AVAILABLE, now=clock(), only_if=Asset.etag == "old")

    def test_flushes_a_row_that_was_only_just_added(self, database: Database, clock: FrozenClock) -> None:
        asset = Asset(id=new_id(), profile="avatar", storage="default", filename="a", state="staged")
        with database.transaction() as db_session:
            db_session.add(asset)
            move(db_session, asset, AssetState.VALIDATING, now=clock())
        assert load(database, asset).state == "validating"

    def test_into_one_state_by_many_at_once_makes_one_event(
        self, database: Database, add_asset: AddAsset, clock: FrozenClock
    ) -> None:
        asset = add_asset(state="staged")
        rows = [load(database, asset) for _ in range(4)]

        def race(row: Asset) -> bool:
            try:
                with database.transaction() as db_session:
                    return move(db_session, row, AssetState.VALIDATING, now=clock())
            except LostRace:
                return False

        with ThreadPoolExecutor(4) as pool:
            assert sorted(pool.map(race, rows)) == [False, False, False, True]
        assert len(events(database)) == 1


VARIANT_STATES = [state.value for state in VariantState]


class TestRollUp:
    @given(kind=st.sampled_from(["image", "video", "audio", "other"]), states=st.lists(st.sampled_from(VARIANT_STATES)))
    def test_of_any_variants(self, kind: str, states: list[str]) -> None:
        """Work first, then what is wanting; stale ones are still delivered, purged ones nobody wants."""
        if any(state in ("planned", "queued", "processing") for state in states):
            expected = "processing" if kind == "image" else "transcoding"
        elif any(state in ("failed", "cancelled", "missing") for state in states):
            expected = "degraded"
        else:
            expected = "ready"
        assert rolled_up(kind, states) == expected

    @pytest.mark.parametrize(
        ("state", "variants", "after"),
        [
            ("available", [], "ready"),
            ("available", ["queued", "ready"], "processing"),
            ("processing", ["ready", "ready"], "ready"),
            ("processing", ["ready", "failed"], "degraded"),
            ("degraded", ["ready", "stale"], "ready"),
            ("ready", ["ready", "missing"], "degraded"),
            ("staged", ["ready"], "staged"),
            ("promoting", [], "promoting"),
            ("quarantined", ["ready"], "quarantined"),
            ("deleted", ["failed"], "deleted"),
        ],
    )
    def test_moves_the_asset_and_never_a_dead_one(
        self, database: Database, add_asset: AddAsset, clock: FrozenClock, state: str, variants: list[str], after: str
    ) -> None:
        asset = add_asset(state=state)
        with database.transaction() as db_session:
            for n, variant in enumerate(variants):
                db_session.add(
                    Variant(id=new_id(), asset_id=asset.id, name=f"v{n}", state=variant, recipe_digest="d", storage="s")
                )
        with database.transaction() as db_session:
            roll_up(db_session, asset.id, now=clock())
        assert load(database, asset).state == after
        assert len(events(database)) == (state != after)

    def test_of_an_asset_that_is_gone_is_quiet(self, database: Database, clock: FrozenClock) -> None:
        with database.transaction() as db_session:
            roll_up(db_session, new_id(), now=clock())

    def test_holds_the_asset_until_the_commit(
        self, database: Database, add_asset: AddAsset, clock: FrozenClock, sql_engine: Any
    ) -> None:
        """Also when nothing is written: of two who look at once, both would miss the other's variant."""
        if sql_engine.dialect.name == "sqlite":
            pytest.skip("SQLite has one writer at a time")
        asset = add_asset(state="ready")
        no_wait = {"postgresql": "SET LOCAL lock_timeout = 1", "mysql": "SET SESSION innodb_lock_wait_timeout = 0"}

        def look_twice() -> None:
            with database.transaction() as first, database.transaction() as second:
                roll_up(first, asset.id, now=clock())
                second.execute(text(no_wait.get(sql_engine.dialect.name, no_wait["mysql"])))
                roll_up(second, asset.id, now=clock())

        with pytest.raises(DatabaseBusy):
            look_twice()

    def test_of_variants_that_end_together_sees_them_all(
        self, database: Database, add_asset: AddAsset, clock: FrozenClock
    ) -> None:
        asset = add_asset(state="processing")
        with database.transaction() as db_session:
            variants = [
                Variant(
                    id=new_id(), asset_id=asset.id, name=f"v{n}", state="processing", recipe_digest="d", storage="s"
                )
                for n in range(4)
            ]
            db_session.add_all(variants)

        def finish(variant: Variant) -> None:
            with database.transaction() as db_session:
                move(db_session, variant, VariantState.READY, now=clock())
                roll_up(db_session, asset.id, now=clock())

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(finish, variants))
        assert load(database, asset).state == "ready"


class Walk(RuleBasedStateMachine):
    """Any moves in any order by two sessions, one of which may hold old rows, against a model of the tables."""

    rows = Bundle("rows")

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.engine = create_engine(f"sqlite:///{Path(self.folder.name) / 'walk.db'}")
        metadata.create_all(self.engine)
        self.database = Database(lambda: self.engine, lambda: None)
        self.clock = FrozenClock()
        self.model: dict[uuid.UUID, str] = {}
        self.trail: list[tuple[uuid.UUID, str, str]] = []
        self.signalled: list[tuple[uuid.UUID, str, str]] = []
        for name in ("asset", "variant", "upload_session", "provider_asset"):
            signals.ALL[f"rindle.{name}.state_change"].connect(self.listen)

    def listen(self, sender: str, **facts: Any) -> None:
        self.signalled.append((facts["id"], facts["from_state"], facts["to_state"]))

    def teardown(self) -> None:
        for name in ("asset", "variant", "upload_session", "provider_asset"):
            signals.ALL[f"rindle.{name}.state_change"].disconnect(self.listen)
        self.database.dispose()
        self.engine.dispose()
        self.folder.cleanup()

    def add(self, row: Any) -> tuple[type, uuid.UUID]:
        with self.database.transaction() as db_session:
            db_session.add(row)
        self.model[row.id] = row.state
        return type(row), row.id

    def new_asset(self) -> Asset:
        return Asset(id=new_id(), profile="p", storage="s", filename="f")

    @rule(target=rows)
    def add_asset(self) -> Any:
        return self.add(self.new_asset())

    @rule(target=rows)
    def add_variant(self) -> Any:
        _, asset_id = self.add(self.new_asset())
        return self.add(Variant(id=new_id(), asset_id=asset_id, name="v", recipe_digest="d", storage="s"))

    @rule(target=rows)
    def add_session(self) -> Any:
        return self.add(
            UploadSession(
                id=new_id(),
                profile="p",
                storage="s",
                strategy="form",
                upload_key=str(new_id()),
                filename="f",
                content_type="image/png",
                expires_at=self.clock(),
            )
        )

    @rule(target=rows)
    def add_provider_asset(self) -> Any:
        _, asset_id = self.add(self.new_asset())
        return self.add(ProviderAsset(id=new_id(), asset_id=asset_id, profile="p", provider="mux"))

    @rule(row=rows, data=st.data(), undo=st.booleans())
    def send(self, row: tuple[type, uuid.UUID], data: st.DataObject, undo: bool) -> None:
        cls, row_id = row
        to = data.draw(st.sampled_from(list(WORDS[cls])))
        source = self.model[row_id]
        self.clock.tick(seconds=1)
        try:
            with self.database.transaction() as db_session:
                moved = move(db_session, db_session.get_one(cls, row_id), to, now=self.clock())
                assert moved == (source != to)
                if undo:
                    raise InterruptedError  # noqa: TRY301 - undone like any failure
        except TransitionRefused:
            assert to not in TABLES[cls][1][source]
        except InterruptedError:
            pass
        else:
            assert source == to or to in TABLES[cls][1][source]
            self.note(row_id, source, to)

    @rule(row=rows, data=st.data())
    def race(self, row: tuple[type, uuid.UUID], data: st.DataObject) -> None:
        """Two who read the same row move it after each other; only the first can win."""
        cls, row_id = row
        source, targets = self.model[row_id], sorted(TABLES[cls][1][self.model[row_id]])
        if not targets:
            return
        first, second = (WORDS[cls](data.draw(st.sampled_from(targets))) for _ in range(2))
        with self.database.reading() as db_session:
            late = db_session.get_one(cls, row_id)
        with self.database.transaction() as db_session:
            move(db_session, db_session.get_one(cls, row_id), first, now=self.clock())
        self.note(row_id, source, first)
        with pytest.raises(LostRace), self.database.transaction() as db_session:
            move(db_session, late, second, now=self.clock())

    def note(self, row_id: uuid.UUID, source: str, to: str) -> None:
        if source != to:
            self.model[row_id] = to
            self.trail.append((row_id, source, to))

    @invariant()
    def the_rows_are_where_the_model_is(self) -> None:
        with self.database.reading() as db_session:
            found = {row.id: row.state for cls in WORDS for row in db_session.scalars(select(cls))}
        assert found == self.model

    @invariant()
    def every_move_has_its_event_and_signal(self) -> None:
        with self.database.reading() as db_session:
            rows = db_session.scalars(select(Event).order_by(Event.id)).all()
        assert [(row.subject_id, row.from_state, row.to_state) for row in rows] == self.trail == self.signalled

    @invariant()
    def nothing_comes_back_from_the_dead(self) -> None:
        buried: dict[uuid.UUID, str] = {}
        for row_id, _, to in self.trail:
            assert buried.get(row_id) != "deleted"
            assert buried.get(row_id) != "quarantined" or to == "deleted"
            if to in ("deleted", "quarantined"):
                buried[row_id] = to


TestWalk = Walk.TestCase
TestWalk.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_a_move_in_a_hosts_session_waits_for_its_commit(
    database: Database, add_asset: AddAsset, clock: FrozenClock, sql_engine: Any
) -> None:
    asset = add_asset(state="ready")
    with heard("asset") as news, Session(sql_engine) as host:
        move(host, host.get_one(Asset, asset.id), AssetState.DELETED, now=clock() + timedelta(seconds=1))
        assert news == []
        host.commit()
        assert [fact["to_state"] for fact in news] == ["deleted"]
