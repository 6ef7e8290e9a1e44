"""Attachments from several sessions at once: an asset is shown by somebody, or it is purged; nothing in between."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest
from sqlalchemy import Engine, event, select
from sqlalchemy.orm import Session

from flask_rindle.attachments import Attachments, OwnerKey
from flask_rindle.errors import DatabaseBusy, NotDeliverable
from flask_rindle.models import Asset, Attachment, Job
from flask_rindle.models.database import Database
from flask_rindle.outbox import Outbox
from flask_rindle.testing.clock import FrozenClock

# SQLite has one writer at a time, so nothing comes between there.
pytestmark = pytest.mark.parametrize("any_database", ["postgresql", "mariadb"], indirect=True)
ANN = OwnerKey("user", "1")
BOB = OwnerKey("user", "2")


@pytest.fixture
def attachments(database: Database, clock: FrozenClock) -> Attachments:
    return Attachments(Outbox(database, clock), clock)


@pytest.fixture
def fate(database: Database) -> Callable[[uuid.UUID], tuple[bool, str, bool]]:
    """`fate(asset_id)`: whether it is shown, its state, and whether its purge waits."""

    def look(asset_id: uuid.UUID) -> tuple[bool, str, bool]:
        with database.reading() as db_session:
            shown = db_session.scalars(select(Attachment.id).filter_by(asset_id=asset_id)).first() is not None
            state = db_session.scalars(select(Asset.state).filter_by(id=asset_id)).one()
            purges = db_session.scalars(select(Job.state).filter_by(asset_id=asset_id, kind="purge")).all()
        return shown, state, list(purges) == ["queued"]

    return look


KEPT = (True, "ready", False)
PURGED = (False, "deleted", True)


@contextmanager
def before_statement(session: Session, number: int, act: Callable[[], Future[bool]]) -> Iterator[None]:
    """`act()` before the session's statement with this number; it gets a moment to end, or to wait."""
    seen, connection = count(), session.connection()

    def listener(*_: Any) -> None:
        if next(seen) == number:
            wait([act()], timeout=0.3)

    event.listen(connection, "before_cursor_execute", listener)
    yield
    event.remove(connection, "before_cursor_execute", listener)


def goes_through(session: Session, call: Callable[[Session], object]) -> bool:
    """Whether the call was committed; what is busy undoes all of it."""
    try:
        call(session)
        session.commit()
    except DatabaseBusy:
        session.rollback()
        return False
    return True


@pytest.mark.parametrize("moment", range(5))
def test_a_slot_that_is_emptied_while_it_is_replaced_loses_nothing(
    attachments: Attachments,
    sql_engine: Engine,
    add_asset: Callable[..., Asset],
    fate: Callable[[uuid.UUID], tuple[bool, str, bool]],
    moment: int,
) -> None:
    """The replacement begins just before each statement of the other."""
    old, new = add_asset().id, add_asset().id
    replaced: list[Future[bool]] = []

    def replace() -> bool:
        with Session(sql_engine) as session:
            return goes_through(session, lambda own: attachments.attach(own, new, ANN, "avatar"))

    with Session(sql_engine) as session, ThreadPoolExecutor(1) as pool:
        attachments.attach(session, old, ANN, "avatar")
        session.commit()

        def act() -> Future[bool]:
            replaced.append(pool.submit(replace))
            return replaced[0]

        with before_statement(session, moment, act):
            emptied = goes_through(session, lambda own: attachments.detach(own, ANN, "avatar"))
        was_replaced = (replaced[0] if replaced else act()).result()
    assert emptied or was_replaced, "one of them is not in the way of itself"
    assert fate(old) == PURGED
    assert fate(new) in ((KEPT, PURGED) if was_replaced else ((False, "ready", False),))


def test_whatever_is_replaced_and_emptied_at_once_an_asset_is_shown_or_purged(
    attachments: Attachments,
    sql_engine: Engine,
    add_asset: Callable[..., Asset],
    fate: Callable[[uuid.UUID], tuple[bool, str, bool]],
) -> None:
    """Two slots of two owners, replaced crosswise; all that anybody may hear is that the database is busy."""
    pool = [add_asset().id for _ in range(8)]
    shown: set[uuid.UUID] = set()

    def work(seed: int) -> None:
        dice = random.Random(seed)  # noqa: S311 - the same dice each time
        for _ in range(15):
            act(dice, pool)

    def act(dice: random.Random, assets: Sequence[uuid.UUID]) -> None:
        asset_id, owner = dice.choice(assets), dice.choice((ANN, BOB))
        slot, empties = dice.choice(("avatar", "cover")), dice.random() < 0.15
        with Session(sql_engine) as session:
            try:
                if empties:
                    goes_through(session, lambda own: attachments.detach(own, owner, slot))
                elif goes_through(session, lambda own: attachments.attach(own, asset_id, owner, slot)):
                    shown.add(asset_id)
            except NotDeliverable:
                session.rollback()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert {fate(asset_id) for asset_id in shown} <= {KEPT, PURGED}
    assert {fate(asset_id) for asset_id in pool if asset_id not in shown} <= {(False, "ready", False)}
    assert len(shown) > 4
