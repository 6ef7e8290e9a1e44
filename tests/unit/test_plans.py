"""The hot queries find their rows by an index, whatever lies around them, on all three databases.

Every verb is run for real among a hundred thousand rows of each kind, and each of its statements is measured:
how the database means to find its rows, and how much it looks at to do so.
"""

from __future__ import annotations

import inspect
import io
import json
import os
import re
import threading
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from PIL import Image
from sqlalchemy import Connection, create_engine, event, func, select, text, update
from sqlalchemy import Engine as SqlEngine
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Mapped, Session, mapped_column

from flask_rindle import Profile, Rindle, attached, image
from flask_rindle.attachments import Attachments, OwnerKey
from flask_rindle.engine import Engine
from flask_rindle.errors import StorageUnavailable
from flask_rindle.models import Asset, Event, Job, UploadSession, metadata
from flask_rindle.models.states import Strategy
from flask_rindle.ops.repair import Repair
from flask_rindle.ops.retention import BATCH, Retention
from flask_rindle.outbox import Claim, Hand, JobKind, Outbox, Priority, Queue
from flask_rindle.readiness import Feed
from flask_rindle.testing.clock import FrozenClock
from flask_rindle.types import new_id
from flask_rindle.uploads.announcement import Announcement
from flask_rindle.uploads.broker import UploadBroker
from flask_rindle.uploads.proxied import Proxied
from flask_rindle.uploads.tickets import Ticket

ROWS = 100_000
FEWER = {"rindle_variants": 20_000, "rindle_attachments": 20_000}
# A portion is of 500 rows, and a thousand ids are looked through for gaps; a scan looks at a hundred thousand.
MOST_ROWS = 3_000
# A row costs SQLite some fifteen steps of its machine.
MOST_STEPS = 60_000

# SQLite calls it a scan when it follows an index from its end and stops at the LIMIT; the steps that are counted
# say that it does stop. MariaDB calls the same "index", PostgreSQL an index scan without a condition.
WALKS = {
    "SCAN rindle_events": "events go from the lowest id on, a portion at a time",
}

# What is asked


@dataclass(kw_only=True)
class Ground:
    """A database full of rows, and the services of an app upon it."""

    app: Flask
    engine: Engine
    clock: FrozenClock
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def long_ago(self) -> Outbox:
        """The jobs, seen when none of them was due."""
        return Outbox(self.engine.database, lambda: self.clock() - timedelta(days=3650))

    def holds(self, claim: Claim) -> bool:
        with self.engine.database.transaction() as db_session:
            return self.engine.outbox.is_held(db_session, claim)

    @property
    def dialect(self) -> str:
        with self.app.app_context():
            return str(self.app.extensions["sqlalchemy"].engine.dialect.name)

    def asset(self) -> uuid.UUID:
        """One of the many assets, another one each time."""
        return uuid.UUID(f"{_space('a')}{next(self.numbers) * 37 % ROWS + 1:012x}")

    def add(self, kind: JobKind = JobKind.PROMOTE, **how: Any) -> uuid.UUID:
        asset_id = new_id()
        self.add_for(asset_id, kind, **how)
        return asset_id

    def add_for(self, asset_id: uuid.UUID, kind: JobKind = JobKind.PROMOTE, **how: Any) -> None:
        with self.engine.database.transaction() as db_session:
            self.engine.outbox.add(db_session, kind, asset_id, **how)

    def job_of(self, asset_id: uuid.UUID) -> uuid.UUID:
        with self.engine.database.reading() as db_session:
            return db_session.scalars(select(Job.id).where(Job.asset_id == asset_id, Job.state == "queued")).one()

    def claim(self) -> Claim:
        claim = self.engine.outbox.claim("w", job_id=self.job_of(self.add()))
        assert claim is not None
        return claim

    def take_up(self) -> None:
        hand = Hand()
        hand.deal([self.job_of(self.add())])
        assert self.engine.outbox.claim("w", hand=hand, without_look=True) is not None

    def ticket(self, **how: Any) -> Ticket:
        return Ticket(profile="avatar", max_files=5, **how)

    def open(self, ticket: Ticket | None = None) -> UploadSession:
        return self.engine.uploads.open(ticket or self.ticket(), announced())

    def begin(self, strategy: Strategy = Strategy.MULTIPART) -> UploadSession:
        """An upload that goes past the app, to a storage of its own sort."""
        ticket = Ticket(profile=strategy.value)
        return self.engine.uploads.begin(self.engine.uploads.open(ticket, announced(), strategy=strategy).id)

    def receive(self, ticket: Ticket | None = None) -> UploadSession:
        return self.engine.proxied.receive(self.open(ticket).id, io.BytesIO(picture())).session

    def run(self, asset_id: uuid.UUID) -> None:
        claim = self.engine.outbox.claim("w", job_id=self.job_of(asset_id))
        assert claim is not None
        self.engine.pipeline.run(claim)

    @contextmanager
    def host(self) -> Iterator[Session]:
        """The host's session, as a request has it."""
        with self.app.app_context():
            db_session = self.app.extensions["sqlalchemy"].session()
            yield db_session
            db_session.commit()


def announced() -> Announcement:
    return Announcement.of("a.png", "image/png", len(picture()), None)


def picture() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(out, format="png")
    return out.getvalue()


Verb = Callable[[Ground], object]
VERBS: dict[str, Verb] = {}
TROUBLE = StorageUnavailable("default", "a/b")
ANN = OwnerKey("user", "77")


def verb(name: str) -> Callable[[Verb], Verb]:
    def note(run: Verb) -> Verb:
        VERBS[name] = run
        return run

    return note


def settle(how: Callable[[Outbox, Claim], object]) -> Verb:
    return lambda ground: how(ground.engine.outbox, ground.claim())


def settle_again(how: Callable[[Outbox, Claim], object]) -> Verb:
    """Of a job that was asked for once more while it ran."""

    def run(ground: Ground) -> None:
        claim = ground.claim()
        ground.add_for(claim.asset_id)
        how(ground.engine.outbox, claim)

    return run


VERBS.update(
    {
        "Outbox.add of new work": lambda ground: ground.add(),
        "Outbox.add of work at a later time": lambda ground: ground.add(
            JobKind.EXPIRE, not_before=ground.clock() + timedelta(days=1), priority=Priority.AGAIN
        ),
        "Outbox.add of work that waits": lambda ground: ground.add_for(ground.add()),
        "Outbox.add of work that runs": lambda ground: ground.add_for(ground.claim().asset_id),
        "Outbox.claim from all queues": lambda ground: ground.engine.outbox.claim("w"),
        "Outbox.claim from one queue": lambda ground: ground.engine.outbox.claim("w", queues=[Queue.MEDIA]),
        "Outbox.claim when nothing is due": lambda ground: ground.long_ago().claim("w"),
        "Outbox.claim of one job": lambda ground: ground.claim(),
        "Outbox.claim of what is in the hand": lambda ground: ground.take_up(),
        "Outbox.next_due_at of all queues": lambda ground: ground.engine.outbox.next_due_at(),
        "Outbox.next_due_at of one queue": lambda ground: ground.engine.outbox.next_due_at([Queue.PURGE]),
        "Outbox.unclaimed": lambda ground: ground.engine.outbox.unclaimed(timedelta(minutes=1), limit=100),
        "Outbox.unclaimed of nothing": lambda ground: ground.engine.outbox.unclaimed(timedelta(days=3650)),
        "Outbox.is_running": lambda ground: ground.engine.outbox.is_running(ground.asset(), list(JobKind)),
        "Outbox.look": lambda ground: ground.engine.outbox.look([ground.claim(), ground.claim()]),
        "Outbox.heartbeat": lambda ground: ground.engine.outbox.heartbeat([ground.claim(), ground.claim()]),
        "Outbox.is_held": lambda ground: ground.holds(ground.claim()),
        "Outbox.succeed": settle(lambda outbox, claim: outbox.succeed(claim)),
        "Outbox.succeed of what is wanted again": settle_again(lambda outbox, claim: outbox.succeed(claim)),
        "Outbox.fail": settle(lambda outbox, claim: outbox.fail(claim, TROUBLE)),
        "Outbox.call_off": settle(lambda outbox, claim: outbox.call_off(claim)),
        "Outbox.retry": settle(lambda outbox, claim: outbox.retry(claim, TROUBLE)),
        "Outbox.snooze": settle(lambda outbox, claim: outbox.snooze(claim, timedelta(minutes=1), TROUBLE)),
        "Outbox.release": settle(lambda outbox, claim: outbox.release(claim)),
        "Feed.unsettled": lambda ground: ground.engine.feed.unsettled([ground.asset() for _ in range(50)]),
        "Feed.asset": lambda ground: ground.engine.feed.asset(ground.asset()),
        "Retention.sweep_all": lambda ground: retention(ground, timedelta(days=3650)).sweep_all(),
        "UploadBroker.open": lambda ground: ground.open(ground.ticket(owner=ANN, slot="avatar")),
        "UploadBroker.open with a ticket that was used": lambda ground: [ground.open(t) for t in [ground.ticket()] * 3],
        "UploadBroker.find": lambda ground: ground.engine.uploads.find(ground.open().id),
        "UploadBroker.sign": lambda ground: ground.engine.uploads.sign(ground.open().id),
        "UploadBroker.live": lambda ground: ground.engine.uploads.live(ground.open().id),
        "UploadBroker.require_live": lambda ground: ground.engine.uploads.require_live(ground.open()),
        "UploadBroker.fail": lambda ground: ground.engine.uploads.fail(ground.open().id, TROUBLE),
        "UploadBroker.begin in parts": lambda ground: ground.begin(),
        "UploadBroker.begin what can be resumed": lambda ground: ground.begin(Strategy.RESUMABLE),
        "UploadBroker.sign_parts": lambda ground: ground.engine.uploads.sign_parts(ground.begin().id, [1]),
        "UploadBroker.look": lambda ground: ground.engine.uploads.look(ground.begin().id),
        "UploadBroker.resumable_status": lambda ground: ground.engine.uploads.resumable_status(
            ground.begin(Strategy.RESUMABLE).id
        ),
        "UploadBroker.give_up": lambda ground: ground.engine.uploads.give_up(ground.open().id),
        "UploadBroker.cancel": lambda ground: ground.engine.uploads.cancel(ground.open().id),
        "Proxied.receive": lambda ground: ground.receive(),
        "UploadBroker.complete": lambda ground: ground.engine.uploads.complete(ground.receive().id),
        "Repair.cancel_processing": lambda ground: ground.engine.repair.cancel_processing(ground.asset()),
        "Repair.requeue_variants": lambda ground: ground.engine.repair.requeue_variants(ground.asset(), ["thumb"]),
    }
)


def retention(ground: Ground, ttl: timedelta = timedelta(seconds=ROWS * 0.9)) -> Retention:
    return Retention(ground.engine.database, ground.clock, job_ttl=ttl, event_ttl=ttl)


@verb("Retention.sweep")
def sweep(ground: Ground) -> None:
    assert retention(ground).sweep() == 3 * BATCH


@verb("Outbox.claim of a job that was abandoned")
def claim_abandoned(ground: Ground) -> None:
    claim = ground.claim()
    past = update(Job).where(Job.id == claim.id).values(lease_expires_at=ground.clock() - timedelta(days=9))
    with ground.engine.database.transaction() as db_session:
        db_session.execute(past)
    again = ground.engine.outbox.claim("w")
    assert again is not None
    assert again.id == claim.id


@verb("Outbox.cancel")
def cancel(ground: Ground) -> None:
    asset_id = ground.claim().asset_id
    ground.add_for(asset_id, JobKind.VARIANTS)
    with ground.engine.database.transaction() as db_session:
        assert ground.engine.outbox.cancel(db_session, asset_id, list(JobKind)) == 2


@verb("Outbox.forget")
def forget(ground: Ground) -> None:
    asset_id = ground.add()
    with ground.engine.database.transaction() as db_session:
        ground.engine.outbox.forget(db_session, asset_id, JobKind.PROMOTE)


@verb("UploadBroker.find_repeat")
def find_repeat(ground: Ground) -> None:
    ticket = ground.ticket()
    ground.open(ticket)
    assert ground.engine.uploads.find_repeat(ticket, announced()) is not None


@verb("Proxied.write_staged")
def write_staged(ground: Ground) -> None:
    session = ground.open()
    data = io.BytesIO(picture())
    ground.engine.proxied.write_staged(session.storage, session.upload_key, data, content_type="image/png")


@verb("Feed.subscribe")
def subscribe(ground: Ground) -> None:
    with quiet_feed(ground) as feed, feed.subscribe([ground.asset()]):
        pass


@verb("Feed.read of what is new")
def read_new(ground: Ground) -> None:
    with quiet_feed(ground) as feed, feed.subscribe([ground.asset()]):
        ground.receive()
        feed.read()


@verb("Feed.read with gaps")
def read_gaps(ground: Ground) -> None:
    with quiet_feed(ground) as feed, feed.subscribe([ground.asset()]):
        ground.receive()
        feed._gaps = dict.fromkeys(range(feed._last_id - 900, feed._last_id, 3), float("inf"))
        feed.read()


@contextmanager
def quiet_feed(ground: Ground) -> Iterator[Feed]:
    """Its own thread waits, so that only the test reads."""
    over = threading.Event()

    class StillBell:
        def ring(self) -> None: ...

        def wait(self, seen: int, timeout_seconds: float) -> int:
            over.wait()
            return seen

    yield Feed(ground.engine.database, StillBell())
    over.set()


@verb("Feed.since the beginning")
def since_beginning(ground: Ground) -> None:
    assert list(ground.engine.feed.since([ground.asset() for _ in range(30)], 0))


@verb("Feed.since one asset's beginning")
def since_beginning_of_one(ground: Ground) -> None:
    assert list(ground.engine.feed.since([uuid.UUID(f"{_space('a')}{5:012x}")], 0))


@verb("Feed.since an id")
def since_id(ground: Ground) -> None:
    with ground.engine.database.reading() as db_session:
        newest = db_session.scalar(select(func.max(Event.id))) or 0
    list(ground.engine.feed.since([ground.asset() for _ in range(30)], newest - 20))
    list(ground.engine.feed.since([ground.asset()], ROWS // 2))


@verb("Attachments.find")
def find_attachments(ground: Ground) -> None:
    with ground.host() as db_session:
        found = ground.engine.attachments.find(db_session, [OwnerKey("user", str(n)) for n in range(1, 40)], ["avatar"])
        assert all(slots["avatar"] for slots in found.values())


@verb("Attachments.attach")
def attach(ground: Ground) -> None:
    with ground.host() as db_session:
        ground.engine.attachments.attach(db_session, ground.asset(), ANN, "avatar")


@verb("Attachments.append")
def append(ground: Ground) -> None:
    with ground.host() as db_session:
        ground.engine.attachments.append(db_session, ground.asset(), ANN, "gallery")


@verb("Attachments.detach")
def detach(ground: Ground) -> None:
    with ground.host() as db_session:
        ground.engine.attachments.detach(db_session, OwnerKey("user", "78"), "avatar")


@verb("Attachments.remove")
def remove(ground: Ground) -> None:
    with ground.host() as db_session:
        ground.engine.attachments.remove(db_session, db_session.get_one(Asset, ground.asset()))


@verb("Pipeline.run of an upload's whole life")
def whole_life(ground: Ground) -> None:
    asset_id = ground.receive(ground.ticket(owner=OwnerKey("user", "79"), slot="avatar")).asset_id
    assert asset_id is not None
    ground.run(asset_id)
    ground.run(asset_id)
    with ground.host() as db_session:
        assert db_session.get_one(Asset, asset_id).state == "ready"
        ground.engine.attachments.detach(db_session, OwnerKey("user", "79"), "avatar")
    ground.run(asset_id)
    with ground.host() as db_session:
        assert db_session.get(Asset, asset_id) is None


@verb("Pipeline.run of an expiry")
def expire(ground: Ground) -> None:
    session = ground.open()
    assert session.asset_id is not None
    with ground.engine.database.transaction() as db_session:
        for model, column in ((UploadSession, "expires_at"), (Job, "run_at")):
            mine = update(model).where(model.asset_id == session.asset_id)
            db_session.execute(mine.values({column: ground.clock()}))
    ground.run(session.asset_id)
    assert ground.engine.uploads.find(session.id)[0].state == "expired"


# How it is measured


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One statement: what reads a whole table or index, and how much was looked at to carry it out."""

    statement: str
    scans: list[str]
    work: int
    told: str

    def faults(self, most: int) -> list[str]:
        wrong = [scan for scan in self.scans if scan not in WALKS]
        too_much = [f"looks at {self.work}"] if self.work > most else []
        return [f"{fault}: {self.statement}\n{self.told}" for fault in [*wrong, *too_much]]


Measure = Callable[[Any, str, Any], Iterator[Plan]]
WATCHED = frozenset(metadata.tables)


def measure_sqlite(driver: Any, statement: str, parameters: Any) -> Iterator[Plan]:
    lines = [row[3] for row in driver.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
    scans = [line for line in lines if line.startswith("SCAN") and line.split()[1] in WATCHED]
    steps = count()
    driver.set_progress_handler(lambda: next(steps) < 0, 100)
    with undone(driver):
        driver.execute(statement, parameters).fetchall()
    driver.set_progress_handler(None, 0)
    yield Plan(statement=statement, scans=scans, work=next(steps) * 100, told="\n".join(lines))


def measure_postgresql(driver: Any, statement: str, parameters: Any) -> Iterator[Plan]:
    """As it is planned for these values, and as it is planned for any, once a connection has prepared it."""
    cursor = psycopg.ClientCursor(driver, row_factory=psycopg.rows.tuple_row)
    explain = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)"
    with undone(driver):
        (told,) = cursor.execute(f"{explain} {statement}", parameters).fetchone() or ()
    yield _postgresql_plan(statement, told)
    names = list(parameters)
    prepared = re.sub(r"%\((\w+)\)s", lambda match: f"${names.index(match[1]) + 1}", statement).replace("%%", "%")
    with undone(driver):
        driver.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        driver.execute(f"PREPARE measured AS {prepared}")
        values = f"({', '.join(['%s'] * len(names))})" if names else ""
        (told,) = cursor.execute(f"{explain} EXECUTE measured {values}", list(parameters.values())).fetchone() or ()
    driver.execute("DEALLOCATE measured")
    yield _postgresql_plan(f"(prepared) {statement}", told)


def _postgresql_plan(statement: str, told: Any) -> Plan:
    nodes = [node for node in _dicts(told) if "Node Type" in node and "Scan" in node["Node Type"]]
    ours = [node for node in nodes if node.get("Relation Name") in WATCHED or "Index Name" in node]
    scans = [f"{node['Node Type']} {node['Relation Name']}" for node in ours if node["Node Type"] == "Seq Scan"]
    seen = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
    # What a bitmap finds is counted where its rows are fetched.
    fetched = [node for node in ours if node["Node Type"] != "Bitmap Index Scan"]
    work = sum(sum(node.get(key, 0) for key in seen) * node["Actual Loops"] for node in fetched)
    # An index that is walked past entries that do not fit counts no rows, but pages.
    pages = max((node["Shared Hit Blocks"] + node["Shared Read Blocks"] for node in ours), default=0)
    return Plan(statement=statement, scans=scans, work=max(int(work), pages), told=json.dumps(told, indent=1))


def measure_mariadb(driver: Any, statement: str, parameters: Any) -> Iterator[Plan]:
    cursor = driver.cursor()
    with undone(cursor):
        cursor.execute(f"ANALYZE FORMAT=JSON {statement}", parameters)
        told = json.loads(cursor.fetchone()[0])
    tables = [found for found in _dicts(told) if found.get("table_name") in WATCHED]
    scans = [f"ALL {table['table_name']}" for table in tables if table["access_type"] == "ALL"]
    work = sum((table.get("r_rows") or 0) * table.get("r_loops", 1) for table in tables)
    yield Plan(statement=statement, scans=scans, work=int(work), told=json.dumps(told, indent=1))


MEASURES: dict[str, tuple[Measure, int]] = {
    "sqlite": (measure_sqlite, MOST_STEPS),
    "postgresql": (measure_postgresql, MOST_ROWS),
    "mariadb": (measure_mariadb, MOST_ROWS),
}


def _dicts(told: Any) -> Iterator[dict[str, Any]]:
    if isinstance(told, dict):
        yield told
    children: Collection[Any] = told.values() if isinstance(told, dict) else told if isinstance(told, list) else ()
    for child in children:
        yield from _dicts(child)


@contextmanager
def undone(driver: Any) -> Iterator[None]:
    if getattr(driver, "autocommit", False) is True:
        driver.execute("BEGIN")
        yield
        driver.execute("ROLLBACK")
        return
    driver.execute("SAVEPOINT measured")
    yield
    driver.execute("ROLLBACK TO SAVEPOINT measured")
    driver.execute("RELEASE SAVEPOINT measured")


@contextmanager
def measured() -> Iterator[list[str]]:
    """What is wrong with the statements of the block."""
    faults: list[str] = []
    lock = threading.Lock()

    def look(connection: Connection, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if not re.match(r"SELECT|UPDATE|DELETE|WITH", statement) or "rindle_" not in statement:
            return
        measure, most = MEASURES[connection.dialect.name]
        with lock:
            for plan in measure(connection.connection.driver_connection, statement, parameters):
                faults.extend(plan.faults(most))

    event.listen(SqlEngine, "before_cursor_execute", look)
    try:
        yield faults
    finally:
        event.remove(SqlEngine, "before_cursor_execute", look)


# The ground


def _space(letter: str) -> str:
    """The first twenty digits of the ids of one table."""
    return f"019ca00000{letter}070008000"


@dataclass(frozen=True)
class Words:
    """What each database calls the things that differ."""

    id: str
    moment: str
    json: str
    analyze: str
    before: tuple[str, ...] = ()


WORDS = {
    "sqlite": Words(
        id="printf('{space}%012x', {n})",
        moment="strftime('%Y-%m-%d %H:%M:%f000', '2026-03-01 12:00:00', ({n}) || ' seconds')",
        json="'[]'",
        analyze="ANALYZE {table}",
        before=("PRAGMA journal_mode = MEMORY", "PRAGMA synchronous = OFF", "PRAGMA cache_size = -200000"),
    ),
    "postgresql": Words(
        id="CAST('{space}' || lpad(to_hex({n}), 12, '0') AS uuid)",
        moment="CAST('2026-03-01 12:00:00+00' AS timestamptz) + ({n}) * interval '1 second'",
        json="CAST('[]' AS json)",
        analyze="ANALYZE {table}",
        before=("SET session_replication_role = replica",),  # no foreign keys for now
    ),
    "mariadb": Words(
        id="CONCAT('{space}', LPAD(HEX({n}), 12, '0'))",
        moment="TIMESTAMP('2026-03-01 12:00:00') + INTERVAL ({n}) SECOND",
        json="'[]'",
        analyze="ANALYZE TABLE {table}",
        before=("SET max_recursive_iterations = 1000000", "SET unique_checks = 0", "SET foreign_key_checks = 0"),
    ),
}


def rows(words: Words) -> dict[str, dict[str, str]]:
    """For each table the columns of its n-th row: nineteen in twenty are over and done with."""
    id_of = lambda letter, n="n": words.id.format(space=_space(letter), n=n)  # noqa: E731
    at = lambda n: words.moment.format(n=n)  # noqa: E731
    ended, live = "n % 20 <> 0", "n % 20 = 0"
    runs, waits_for_later = "n % 80 = 60", "n % 80 = 40"
    key = "CAST(n AS CHAR(12))"

    def pick(n: str, *choices: str) -> str:
        return f"CASE {n} " + " ".join(f"WHEN {at} THEN '{word}'" for at, word in enumerate(choices)) + " END"

    def when(*cases: str, otherwise: str = "NULL") -> str:
        pairs = zip(cases[::2], cases[1::2], strict=True)
        return "CASE " + " ".join(f"WHEN {test} THEN {value}" for test, value in pairs) + f" ELSE {otherwise} END"

    born = {"created_at": at("-n")}
    return {
        "rindle_assets": {
            "id": id_of("a"),
            "profile": "'avatar'",
            "storage": "'default'",
            "state": pick("n % 10", "degraded", *["ready"] * 9),
            "kind": "'image'",
            "filename": "'a.png'",
            "updated_at": at("-n"),
            **born,
        },
        "rindle_variants": {
            "id": id_of("e"),
            "asset_id": id_of("a"),
            "name": "'thumb'",
            "state": pick("n % 10", "failed", *["ready"] * 9),
            "recipe_digest": "'d'",
            "storage": "'default'",
            "updated_at": at("-n"),
            **born,
        },
        "rindle_attachments": {
            "id": id_of("f"),
            "asset_id": id_of("a"),
            "owner_type": "'user'",
            "owner_id": key,
            "slot": "'avatar'",
            "position": "0",
            **born,
        },
        "rindle_jobs": {
            "id": id_of("b"),
            "kind": pick("n % 4", *JobKind),
            "queue": pick("n % 7", *Queue, Queue.PROCESS),
            "priority": "CASE WHEN n % 3 = 0 THEN 1 ELSE 0 END",
            "asset_id": id_of("a"),
            "state": when(
                ended,
                pick("n % 3", "succeeded", "failed", "cancelled"),
                runs,
                "'running'",
                otherwise="'queued'",
            ),
            "live_key": when(live, key),
            "rerun": "false",
            "attempt": "1",
            "max_attempts": "8",
            "run_at": when(waits_for_later, at("n"), otherwise=at("-n")),
            "lease": when(runs, id_of("c")),
            # Some were abandoned.
            "lease_expires_at": when(f"{runs} AND n % 7 = 3 AND n % 9 = 0", at("-n"), runs, at("30")),
            "cancel_requested": "false",
            "errors": words.json,
            "finished_at": when(ended, at("-n")),
            **born,
        },
        "rindle_processing_runs": {
            "id": id_of("c"),
            "job_id": id_of("b"),
            "asset_id": id_of("a"),
            "kind": "'promote'",
            "worker": "'w'",
            "attempt": "1",
            "outcome": when(
                ended, pick("n % 3", "succeeded", "failed", "cancelled"), runs, "'running'", otherwise="'retried'"
            ),
            "started_at": at("-n"),
            "finished_at": when(ended, at("-n")),
        },
        "rindle_upload_sessions": {
            "id": id_of("d"),
            "asset_id": id_of("a"),
            "profile": "'avatar'",
            "storage": "'default'",
            "state": when(
                live,
                pick("n % 3", "initialized", "signed", "uploading"),
                otherwise=pick("n % 3", "completed", "aborted", "expired"),
            ),
            "strategy": "'presigned_put'",
            "upload_key": key,
            "filename": "'a.png'",
            "content_type": "'image/png'",
            "declared_bytes": "100",
            "ticket_id": id_of("0"),
            "ticket_place": when("n % 3 = 0", "0"),
            "append": "false",
            "expires_at": at("n"),
            "updated_at": at("-n"),
            **born,
        },
        # Ten an asset, and in the order of their ids.
        "rindle_events": {
            "kind": pick("n % 3", "asset", "variant", "upload_session"),
            "subject_id": id_of("a"),
            "asset_id": id_of("a", "n % 10000 + 1"),
            "from_state": "'queued'",
            "to_state": "'ready'",
            "created_at": at(f"n - {ROWS}"),
        },
    }


def fill(url: str) -> None:
    engine = create_engine(url)
    words = WORDS[engine.dialect.name]
    numbers = "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {rows})"
    quote = engine.dialect.identifier_preparer.quote
    filled = rows(words)
    with engine.begin() as connection:
        for statement in words.before:
            connection.exec_driver_sql(statement)
        for table, columns in filled.items():
            names, values = ", ".join(map(quote, columns)), ", ".join(columns.values())
            source = f"{numbers.format(rows=FEWER.get(table, ROWS))} SELECT {values} FROM numbers ORDER BY n"
            into = f"INSERT INTO {table} ({names})"
            connection.execute(text(f"{into} {source}".replace(":", r"\:")))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table in filled:
            connection.exec_driver_sql(words.analyze.format(table=table))
    engine.dispose()


class Avatar(Profile):
    allow_mime = {"image/png"}  # noqa: RUF012 - as users write it
    variants = {"thumb": image.fit(4, 4)}  # noqa: RUF012


class InParts(Profile):
    name = "multipart"
    storage = "parts"


class ToBeResumed(Profile):
    name = "resumable"
    storage = "resumable"


def make_app(url: str, clock: FrozenClock, folder: Path) -> Flask:
    app = Flask("plans", instance_path=str(folder))
    app.config.update(SECRET_KEY="a long random value for tests", SQLALCHEMY_DATABASE_URI=url, RINDLE_JOBS="inline")
    app.config["RINDLE_STORAGES"] = {
        "default": {"backend": "memory"},
        "parts": {"backend": "flask_rindle.testing.storages:MemoryOfParts"},
        "resumable": {"backend": "flask_rindle.testing.storages:ResumableMemory"},
    }
    db = SQLAlchemy(app)

    class User(db.Model):  # type: ignore[name-defined,misc]
        __tablename__ = "users"
        id: Mapped[int] = mapped_column(primary_key=True)
        avatar = attached("avatar", Avatar)

    Rindle(app, db, profiles=[Avatar, InParts, ToBeResumed], owners={"user": User}, clock=clock)
    with app.app_context():
        db.create_all()
    return app


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "mariadb"])
def ground(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    folder, clock = tmp_path_factory.mktemp("plans"), FrozenClock()
    try:
        sqlite = request.param == "sqlite"
        url = f"sqlite:///{folder / 'a.db'}" if sqlite else request.getfixturevalue("databases")(request.param)
    except OperationalError as error:
        if os.environ.get("CI") or os.environ.get("RINDLE_REQUIRE_ALL"):
            raise
        pytest.skip(f"no {request.param} server on this machine: {error.orig}")
    app = make_app(url, clock, folder)
    fill(url)
    engine: Engine = app.extensions["rindle"]
    engine.outbox.send = lambda _: None
    yield Ground(app=app, engine=engine, clock=clock)
    engine.close()
    with app.app_context():
        app.extensions["sqlalchemy"].engine.dispose()


@pytest.mark.parametrize("name", VERBS)
def test_finds_its_rows_by_an_index(ground: Ground, name: str) -> None:
    with measured() as faults:
        VERBS[name](ground)
    assert not faults, "\n\n".join(faults)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT id FROM rindle_jobs WHERE worker = 'w'",
        "SELECT id FROM rindle_events WHERE id > 0 OR id IN (SELECT 1)",
        "SELECT count(id) FROM rindle_processing_runs",
        "SELECT id FROM rindle_upload_sessions ORDER BY created_at LIMIT 1",
        "SELECT id FROM rindle_jobs WHERE finished_at IS NOT NULL ORDER BY finished_at LIMIT 20000",
        "SELECT id FROM rindle_jobs ORDER BY finished_at LIMIT 10 OFFSET 20000",
        "UPDATE rindle_upload_sessions SET actor = 'ann' WHERE actor = 'bob'",
        "DELETE FROM rindle_events WHERE name = 'thumb'",
    ],
)
def test_a_walk_would_be_seen(ground: Ground, statement: str) -> None:
    with measured() as faults, ground.engine.database.transaction() as db_session:
        db_session.execute(text(statement))
    assert faults


@pytest.mark.parametrize("service", [Outbox, Retention, Feed, UploadBroker, Proxied, Attachments, Repair])
def test_no_verb_is_left_out(service: type) -> None:
    verbs = {name for name, _ in inspect.getmembers(service, inspect.isfunction) if not name.startswith("_")}
    measured_verbs = {name.split()[0] for name in VERBS}
    assert {f"{service.__name__}.{name}" for name in verbs} <= measured_verbs
