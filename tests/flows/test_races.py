"""Races on three databases, with real threads, storage and decoders: whoever is quicker, rows and bytes agree.

Each race is forced at every moment that matters, by work that another thread does in the middle of a storage's
verb or before a commit; and it runs freely for some rounds.
"""

from __future__ import annotations

import io
import random
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count, product
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, select

from flask_rindle import Profile, image
from flask_rindle.attachments import OwnerKey
from flask_rindle.errors import DatabaseBusy, NotDeliverable, NotFound, RindleError, SandboxFailed
from flask_rindle.lifecycle import rolled_up
from flask_rindle.models import Asset, Attachment, Event, Job, ProcessingRun, UploadSession, Variant
from flask_rindle.models.states import DELIVERABLE
from flask_rindle.outbox import LEASE_SECONDS, Claim
from flask_rindle.security.mime import extension_for
from flask_rindle.security.names import variant_key
from flask_rindle.testing.clock import FrozenClock

ROUNDS = 10
SERVERS_ONLY = pytest.mark.parametrize("any_database", ["postgresql", "mariadb"], indirect=True)
VARIANT_MOMENTS = [
    (verb, call, moment) for verb, call in (("save_to", 1), ("put", 1), ("put", 2)) for moment in ("before", "after")
]


class Avatar(Profile):
    variants = {"large": image.fit(48, 48), "thumb": image.fit(16, 16)}  # noqa: RUF012


class Newer(Profile):
    name = "avatar"
    variants = {"large": image.fit(48, 48), "thumb": image.fit(20, 20)}  # noqa: RUF012


WIDTHS = {Avatar: 16, Newer: 20}


@dataclass
class World:
    """An app whose jobs wait until somebody runs them."""

    app: Flask
    clock: FrozenClock
    picture: bytes

    @property
    def engine(self) -> Any:
        return self.app.extensions["rindle"]

    @property
    def storage(self) -> Any:
        return self.engine.storages["default"]

    def rows(self, model: type[Any], **columns: Any) -> list[Any]:
        with self.engine.database.reading() as db_session:
            return list(db_session.scalars(select(model).filter_by(**columns)))

    def arrived(self) -> UploadSession:
        """An upload whose bytes are there, and which nobody has completed."""
        with self.app.app_context():
            rindle = self.app.extensions["host"].rindle
            facts = {"filename": "a.jpg", "content_type": "image/jpeg", "byte_size": len(self.picture)}
            session = rindle.initiate_upload("avatar", **facts)
        self.storage.put(session.upload_key, io.BytesIO(self.picture))
        return session

    def completed(self) -> uuid.UUID:
        """An asset whose promotion waits."""
        asset_id: uuid.UUID = self.engine.uploads.complete(self.arrived().id).asset.id
        return asset_id

    def promoted(self) -> uuid.UUID:
        """An asset whose variants wait."""
        asset_id = self.completed()
        self.work("rindle_promote")
        return asset_id

    def claim(self, queue: str = "rindle_process") -> Claim:
        claim = self.engine.outbox.claim("worker", queues=[queue])
        assert claim is not None
        return claim

    def work(self, queue: str = "rindle_process") -> None:
        self.engine.pipeline.run(self.claim(queue))

    def lose_lease(self) -> None:
        self.clock.tick(seconds=LEASE_SECONDS)

    def settle(self) -> None:
        """Everything that is left to do is done."""
        for _ in range(20):
            while (claim := self.engine.outbox.claim("settler")) is not None:
                self.engine.pipeline.run(claim)
            if self.engine.outbox.next_due_at() is None:
                return
            self.clock.tick(hours=1)
        pytest.fail("there is no end to the work")

    def objects(self) -> set[str]:
        root = self.storage.root
        return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}

    def check(self) -> None:
        """What holds when everybody has finished, whatever came first."""
        assets, variants = self.rows(Asset), self.rows(Variant)
        named = {row.storage_key for row in [*assets, *variants] if row.storage_key is not None}
        assert self.objects() == named, "no object without a row, no row without its object"
        assert {job.state for job in self.rows(Job)} <= {"succeeded", "cancelled"}
        assert [run for run in self.rows(ProcessingRun) if run.outcome == "running"] == []
        for asset in assets:
            mine = [variant for variant in variants if variant.asset_id == asset.id]
            assert asset.state == rolled_up(asset.kind, [variant.state for variant in mine])
            for variant in mine:
                self.check_variant(asset, variant)

    def check_variant(self, asset: Asset, variant: Variant) -> None:
        published = self.rows(Event, subject_id=variant.id, from_state="processing", to_state="ready")
        assert len(published) == (variant.state == "ready"), "one run succeeded in effect"
        if variant.state == "ready":
            extension = extension_for(str(variant.content_type))
            key = variant_key(asset.profile, asset.id, variant.name, variant.recipe_digest, extension)
            assert variant.storage_key == key, "what stands there was made by the recipe that it names"
        else:
            assert (variant.state, variant.storage_key) == ("cancelled", None)


@pytest.fixture
def world(make_app: Callable[..., Flask], any_database: str, photo: Any, clock: FrozenClock) -> World:
    app = make_app(profiles=[Avatar], database_url=any_database)
    app.extensions["rindle"].outbox.send = lambda _: None
    return World(app, clock, photo(64, 48))


@pytest.fixture
def newer(make_app: Callable[..., Flask], any_database: str, world: World) -> World:
    """The next release of the app, on the same database and storage."""
    app = make_app(profiles=[Newer], database_url=any_database)
    app.extensions["rindle"].outbox.send = lambda _: None
    return World(app, world.clock, world.picture)


@contextmanager
def elsewhere(act: Callable[[], Any]) -> Iterator[Callable[[], Future[Any]]]:
    """A call that does `act` in another thread, once."""
    started: list[Future[Any]] = []
    with ThreadPoolExecutor(1) as pool:

        def start() -> Future[Any]:
            if not started:
                started.append(pool.submit(act))
            return started[0]

        yield start


@contextmanager
def in_the_middle(world: World, verb: str, call: int, moment: str, act: Callable[[], Any]) -> Iterator[list[Any]]:
    """Another thread does `act` before or after this call to the storage, which waits for it; what came of it."""
    real, calls, results = getattr(world.storage, verb), count(1), list[Any]()

    with elsewhere(act) as start:

        def overtaken(*args: Any, **kwargs: Any) -> Any:
            is_now = next(calls) == call
            if is_now and moment == "before":
                results.append(start().result(60))
            answer = real(*args, **kwargs)
            if is_now and moment == "after":
                results.append(start().result(60))
            return answer

        setattr(world.storage, verb, overtaken)
        yield results
        delattr(world.storage, verb)
    assert len(results) == 1, "the moment came"


@contextmanager
def before_commit(world: World, number: int, act: Callable[[], Any]) -> Iterator[Callable[[], Future[Any]]]:
    """Another thread begins `act` before this thread's commit of this number; it gets a moment to end, or to wait."""
    engine, thread, commits = world.engine.database._binds().writer, threading.get_ident(), count()

    with elsewhere(act) as start:

        def commit(_connection: Any) -> None:
            if threading.get_ident() == thread and next(commits) == number:
                wait([start()], timeout=0.3)

        event.listen(engine, "commit", commit)
        yield start
        event.remove(engine, "commit", commit)


def together(*calls: Callable[[], Any]) -> list[Any]:
    """Do the calls at the same moment, each again when the database was busy; results, and errors of ours."""
    start = threading.Barrier(len(calls))

    def do(call: Callable[[], Any]) -> Any:
        start.wait()
        for _ in range(20):
            try:
                return call()
            except DatabaseBusy:
                continue
            except RindleError as error:
                return error
        return pytest.fail("it was busy for ever")

    with ThreadPoolExecutor(len(calls)) as pool:
        return [done.result(60) for done in [pool.submit(do, call) for call in calls]]


class TestTwoWorkersOfOneJob:
    def test_one_gets_it(self, world: World) -> None:
        for _ in range(ROUNDS):
            asset_id = world.promoted()

            def claim() -> Claim | None:
                found: Claim | None = world.engine.outbox.claim("worker")
                return found

            claims = [found for found in together(claim, claim, claim) if found is not None]
            assert [found.asset_id for found in claims] == [asset_id]
            world.engine.pipeline.run(claims[0])
        world.check()
        assert {run.outcome for run in world.rows(ProcessingRun)} == {"succeeded"}

    def test_variants_by_one_that_was_given_up_for_dead(self, world: World) -> None:
        """It goes on after another has taken its job and done it."""

        def other() -> None:
            world.lose_lease()
            world.work()

        for moment in VARIANT_MOMENTS:
            asset_id = world.promoted()
            with in_the_middle(world, *moment, other):
                world.work()
            runs = world.rows(ProcessingRun, kind="variants", asset_id=asset_id)
            assert sorted(run.outcome for run in runs) == ["lost", "succeeded"]
            world.settle()
            world.check()
        assert {variant.state for variant in world.rows(Variant)} == {"ready"}

    @pytest.mark.parametrize(
        "moments",
        [
            pytest.param([("save_to", 1, "before")], id="fetching"),
            pytest.param([("save_to", 1, "after"), ("promote", 1, "before"), ("promote", 1, "after")], id="later"),
        ],
    )
    def test_promotion_by_one_that_was_given_up_for_dead(
        self, world: World, moments: list[tuple[str, int, str]]
    ) -> None:
        def other() -> None:
            world.lose_lease()
            world.work("rindle_promote")

        for moment in moments:
            world.completed()
            with in_the_middle(world, *moment, other):
                world.work("rindle_promote")
            world.settle()
            world.check()
        assert {asset.state for asset in world.rows(Asset)} == {"ready"}

    def test_one_that_was_given_up_for_dead_takes_nothing_from_the_other(self, world: World) -> None:
        """It hears that it has lost its job, or gives up, while the other is about to publish."""
        world.promoted()
        lost, both = world.claim(), threading.Event()
        real, calls, may_go_on = world.storage.put, count(), threading.Event()
        step = world.engine.pipeline._steps[lost.kind]

        def put(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == 0:
                both.set()
                assert may_go_on.wait(60)
            return real(*args, **kwargs)

        world.lose_lease()
        mine = world.claim()
        world.storage.put = put
        with elsewhere(lambda: world.engine.pipeline.run(mine)) as start:
            done = start()
            assert both.wait(60)
            world.engine.pipeline.run(lost, released=lambda: True)
            step.give_up(lost, SandboxFailed("crashed"))
            states = {variant.state for variant in world.rows(Variant)}
            may_go_on.set()
            assert states == {"processing"}
            done.result(60)
        del world.storage.put
        world.check()
        assert {variant.state for variant in world.rows(Variant)} == {"ready"}
        assert {job.state for job in world.rows(Job)} == {"succeeded"}

    @pytest.mark.parametrize("queue", ["rindle_promote", "rindle_process"])
    def test_both_at_it_at_once(self, world: World, queue: str) -> None:
        for _ in range(ROUNDS):
            world.completed() if queue == "rindle_promote" else world.promoted()
            claims = [world.claim(queue)]
            world.lose_lease()
            claims.append(world.claim(queue))
            assert together(*[lambda claim=claim: world.engine.pipeline.run(claim) for claim in claims]) == [None] * 2
            world.settle()
        world.check()
        assert {asset.state for asset in world.rows(Asset)} == {"ready"}


class TestTwoCompletions:
    @pytest.mark.parametrize("then", ["nothing", "everything"])
    def test_while_one_asks_the_storage(self, world: World, then: str) -> None:
        """The other one's asset waits, or is made already and its bytes are elsewhere."""

        def other() -> uuid.UUID:
            found: uuid.UUID = world.engine.uploads.complete(session.id).asset.id
            if then == "everything":
                world.settle()
            return found

        for moment in ("before", "after"):
            session = world.arrived()
            with in_the_middle(world, "stat", 1, moment, other) as results:
                assert world.engine.uploads.complete(session.id).asset.id == session.asset_id
            assert results == [session.asset_id]
            self.check(world, session)

    def test_before_each_commit_of_one(self, world: World) -> None:
        def complete() -> uuid.UUID:
            found: uuid.UUID = world.engine.uploads.complete(session.id).asset.id
            return found

        for number in range(3):
            session = world.arrived()
            with before_commit(world, number, complete) as other:
                assert complete() == session.asset_id
                assert other().result(30) == session.asset_id
            self.check(world, session)

    def test_many_at_once(self, world: World) -> None:
        for _ in range(ROUNDS):
            session = world.arrived()
            results = together(*[partial(world.engine.uploads.complete, session.id)] * 4)
            assert {found.asset.id for found in results} == {session.asset_id}
            self.check(world, session)

    def check(self, world: World, session: UploadSession) -> None:
        completed = world.rows(Event, subject_id=session.id, to_state="completed")
        promotions = world.rows(Job, kind="promote", asset_id=session.asset_id)
        assert (len(completed), len(promotions)) == (1, 1)
        world.settle()
        world.check()
        (asset,) = world.rows(Asset, id=session.asset_id)
        assert asset.state == "ready"


class TestCancelAgainstPublish:
    def test_at_each_call_to_the_storage(self, world: World) -> None:
        for moment in VARIANT_MOMENTS:
            asset_id = world.promoted()
            cancel = partial(world.engine.repair.cancel_processing, asset_id)
            with in_the_middle(world, *moment, cancel) as names:
                world.work()
            assert len(names[0]) == (1 if moment[:2] == ("put", 2) else 2)
            self.check(world, asset_id, names[0])

    def test_at_each_commit(self, world: World) -> None:
        """Of taking the work, of publishing either, and of the end."""
        for number in range(4):
            asset_id = world.promoted()
            claim = world.claim()
            with before_commit(world, number, partial(world.engine.repair.cancel_processing, asset_id)) as other:
                world.engine.pipeline.run(claim)
                names = other().result(30)
            self.check(world, asset_id, names)

    @pytest.mark.parametrize("put", [1, 2])
    def test_when_publishing_meets_trouble(self, world: World, put: int) -> None:
        """As when the two are each other's deadlock: what was stored and never published goes."""
        asset_id = world.promoted()
        claim, cancel = world.claim(), partial(world.engine.repair.cancel_processing, asset_id)
        step, calls = world.engine.pipeline._steps[claim.kind], count(1)
        publish = step._publish

        def troubled(*args: Any) -> None:
            if next(calls) == put:
                names.append(start().result(30))
                raise DatabaseBusy
            publish(*args)

        names: list[list[str]] = []
        step._publish = troubled
        with elsewhere(cancel) as start:
            world.engine.pipeline.run(claim)
        del step._publish
        self.check(world, asset_id, names[0])

    def test_freely(self, world: World) -> None:
        dice = random.Random(1)  # noqa: S311 - the same dice each time
        for _ in range(ROUNDS):
            asset_id, (verb, call, _) = world.promoted(), dice.choice(VARIANT_MOMENTS)
            claim, go, calls = world.claim(), threading.Event(), count(1)
            real = getattr(world.storage, verb)

            def letting_go(*args: Any, real: Any = real, calls: Any = calls, call: int = call, go: Any = go) -> Any:
                if next(calls) == call:
                    go.set()
                return real(*args)

            def putting(key: str, source: Any, *, then: Any = letting_go, **_: Any) -> Any:
                return then(key, source)

            def cancel(asset_id: uuid.UUID = asset_id, go: threading.Event = go) -> Any:
                assert go.wait(60)
                return world.engine.repair.cancel_processing(asset_id)

            setattr(world.storage, verb, putting if verb == "put" else letting_go)
            done, names = together(lambda claim=claim: world.engine.pipeline.run(claim), cancel)
            delattr(world.storage, verb)
            assert done is None
            self.check(world, asset_id, names)

    def check(self, world: World, asset_id: uuid.UUID, names: list[str]) -> None:
        world.settle()
        world.check()
        states = {variant.name: variant.state for variant in world.rows(Variant, asset_id=asset_id)}
        assert states == {name: "cancelled" if name in names else "ready" for name in ("large", "thumb")}


class TestDigestChangeAgainstPublish:
    """Two releases share the database; the job of one is taken over by the other, whose recipe is another."""

    @pytest.mark.parametrize("late_is", ["older", "newer"])
    def test_at_each_call_to_the_storage(self, world: World, newer: World, late_is: str) -> None:
        late, other = (world, newer) if late_is == "older" else (newer, world)
        standing = Newer if late_is == "older" else Avatar

        def take_over() -> None:
            late.lose_lease()
            other.work()

        for moment in VARIANT_MOMENTS:
            asset_id = world.promoted()
            with in_the_middle(late, *moment, take_over):
                late.work()
            (thumb,) = world.rows(Variant, name="thumb", asset_id=asset_id)
            assert (thumb.state, thumb.recipe_digest) == ("ready", standing.recipe("thumb").digest)
            assert thumb.width == WIDTHS[standing]
            other.settle()
            world.check()

    def test_with_a_database_that_was_busy_after_the_take_over(self, world: World, newer: World) -> None:
        """Nothing was published, and the key of what was stored is no longer the recipe's."""
        asset_id = world.promoted()
        claim = world.claim()
        step: Any = world.engine.pipeline._steps[claim.kind]
        calls = count(1)

        def troubled(*_: Any) -> None:
            if next(calls) == 1:
                world.lose_lease()
                newer.work()
            raise DatabaseBusy

        step._publish = troubled
        world.engine.pipeline.run(claim)
        del step._publish
        newer.settle()
        world.check()
        (thumb,) = world.rows(Variant, name="thumb", asset_id=asset_id)
        assert (thumb.state, thumb.recipe_digest) == ("ready", Newer.recipe("thumb").digest)

    def test_freely(self, world: World, newer: World) -> None:
        for _ in range(ROUNDS):
            world.promoted()
            claims = [world.claim()]
            world.lose_lease()
            claims.append(newer.claim())
            done = together(
                *[
                    lambda who=who, claim=claim: who.engine.pipeline.run(claim)
                    for who, claim in zip((world, newer), claims, strict=True)
                ]
            )
            assert done == [None, None]
            newer.settle()
            world.check()
        for thumb in world.rows(Variant, name="thumb"):
            by = Avatar if thumb.width == WIDTHS[Avatar] else Newer
            assert thumb.recipe_digest == by.recipe("thumb").digest, "what stands there is what it says"


@SERVERS_ONLY
class TestAttachAgainstPurge:
    """SQLite has one writer at a time, so nothing comes between there."""

    def shown(self, world: World) -> uuid.UUID:
        """An asset that Ann shows, and Bob does not."""
        asset_id = world.promoted()
        world.work()
        self.attach(world, asset_id, "1")
        return asset_id

    def attach(self, world: World, asset_id: uuid.UUID, owner: str = "2") -> Any:
        """In the host's session; the error of ours, if there is one."""
        with world.app.app_context():
            host = world.app.extensions["host"]
            try:
                host.rindle.attach(asset_id, owner_of(owner), "avatar")
                host.db.session.commit()
            except (NotDeliverable, NotFound) as error:
                host.db.session.rollback()
                return error
        return None

    def detach(self, world: World) -> None:
        with world.app.app_context():
            host = world.app.extensions["host"]
            host.rindle.detach(owner_of("1"), "avatar")
            host.db.session.commit()

    def test_while_the_bytes_go(self, world: World) -> None:
        for call, moment in product((1, 2, 3, 4), ("before", "after")):
            asset_id = self.shown(world)
            self.detach(world)
            with in_the_middle(world, "delete", call, moment, partial(self.attach, world, asset_id)) as results:
                world.work("rindle_purge")
            assert isinstance(results[0], NotDeliverable)
            assert self.check(world, asset_id) is False
            assert isinstance(self.attach(world, asset_id), NotFound)

    @pytest.mark.parametrize("first", ["attach", "detach"])
    def test_before_the_others_commit(self, world: World, first: str) -> None:
        """Whoever was first wins: the other waits."""
        asset_id = self.shown(world)
        verbs = {"attach": lambda: self.attach(world, asset_id), "detach": lambda: self.detach(world)}
        second = verbs["detach" if first == "attach" else "attach"]
        with world.app.app_context():
            engine = world.app.extensions["host"].db.engine
        thread, commits = threading.get_ident(), count()
        with elsewhere(second) as start:

            def commit(_connection: Any) -> None:
                if threading.get_ident() == thread and next(commits) == 0:
                    assert not wait([start()], timeout=0.3).done

            event.listen(engine, "commit", commit)
            verbs[first]()
            event.remove(engine, "commit", commit)
            other = start().result(30)
        assert other is None if first == "attach" else isinstance(other, NotDeliverable)
        assert self.check(world, asset_id) is (first == "attach")

    def test_freely(self, world: World) -> None:
        ends = set()
        for _ in range(ROUNDS):
            asset_id = self.shown(world)

            def remove() -> None:
                self.detach(world)
                claim = world.engine.outbox.claim("purger", queues=["rindle_purge"])
                if claim is not None:
                    world.engine.pipeline.run(claim)

            _, refused = together(remove, lambda asset_id=asset_id: self.attach(world, asset_id))
            is_alive = self.check(world, asset_id)
            assert is_alive is (refused is None)
            ends.add(is_alive)
            with world.app.app_context():
                host = world.app.extensions["host"]
                host.rindle.detach(owner_of("2"), "avatar")
                host.db.session.commit()
            world.settle()

    def check(self, world: World, asset_id: uuid.UUID) -> bool:
        """Whether it is attached, and then all of it is there; or else all of it is gone."""
        world.settle()
        world.check()
        attached = world.rows(Attachment, asset_id=asset_id)
        alive = world.rows(Asset, id=asset_id)
        assert len(attached) == len(alive)
        assert all(asset.state in DELIVERABLE for asset in alive)
        assert alive or world.rows(Variant, asset_id=asset_id) == []
        return bool(alive)


def owner_of(owner_id: str) -> OwnerKey:
    return OwnerKey("user", owner_id)
