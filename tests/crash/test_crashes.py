"""A process is killed at every passage between a commit and a side effect, and everything is recovered."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import redis
import worlds
from checker import find_faults
from nursery import Nursery
from points import POINTS, POINTS_ON_POSTGRESQL
from sqlalchemy.exc import OperationalError
from worlds import NewWorld


@pytest.fixture(scope="session")
def nursery() -> Nursery:
    return Nursery()


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> worlds.Folders:
    return worlds.Folders(tmp_path_factory.mktemp("crash"))


@pytest.fixture(scope="session")
def on_sqlite(folders: worlds.Folders) -> Iterator[NewWorld]:
    with worlds.on_sqlite(folders) as new_world:
        yield new_world


@pytest.fixture(scope="session")
def on_celery(folders: worlds.Folders) -> Iterator[NewWorld]:
    try:
        with worlds.on_celery(folders) as new_world:
            yield new_world
    except (OperationalError, redis.ConnectionError) as error:
        if os.environ.get("CI") or os.environ.get("RINDLE_REQUIRE_ALL"):
            raise
        pytest.skip(f"there is no PostgreSQL or no Redis on this machine: {error}")


class Trials:
    """Tries all points that were chosen of one test as soon as its first one is asked for."""

    def __init__(self, session: pytest.Session, nursery: Nursery, threads: ThreadPoolExecutor) -> None:
        self._session = session
        self._nursery = nursery
        self._threads = threads
        self._faults: dict[str, Future[list[str]]] = {}

    def faults(self, test: pytest.Function, new_world: NewWorld) -> list[str]:
        if test.nodeid not in self._faults:
            for item in self._session.items:
                if isinstance(item, pytest.Function) and item.originalname == test.originalname:
                    point = item.callspec.params["point"]
                    self._faults[item.nodeid] = self._threads.submit(self._try, point, new_world)
        return self._faults[test.nodeid].result()

    def _try(self, point: str, new_world: NewWorld) -> list[str]:
        with new_world() as world:
            faults = self._nursery.kill_at(point, world)
            if not faults:
                shutil.rmtree(world.folder)
            return faults


@pytest.fixture(scope="session")
def trials(request: pytest.FixtureRequest, nursery: Nursery) -> Iterator[Trials]:
    """As many at once as there are processors."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        yield Trials(request.session, nursery, threads)
        threads.shutdown(cancel_futures=True)


@pytest.mark.parametrize(("where", "points"), [("on_sqlite", POINTS), ("on_celery", POINTS_ON_POSTGRESQL)])
def test_every_passage_is_listed(
    request: pytest.FixtureRequest, nursery: Nursery, where: str, points: list[str]
) -> None:
    """A story that nothing disturbs passes just the points of the list: whoever adds a boundary lists it."""
    with request.getfixturevalue(where)() as world:
        assert nursery.tell(world) == 0, world.read("log")
        assert find_faults(world) == []
        passed = set(world.read("passages").splitlines())
    assert (sorted(passed - set(points)), sorted(set(points) - passed)) == ([], []), "not in the list, and not passed"
    assert len(points) == len(set(points)) >= 25


@pytest.mark.parametrize("point", POINTS)
def test_recovers_on_sqlite(request: pytest.FixtureRequest, point: str, on_sqlite: NewWorld, trials: Trials) -> None:
    assert trials.faults(request.node, on_sqlite) == []


@pytest.mark.parametrize("point", POINTS_ON_POSTGRESQL)
def test_recovers_on_celery(request: pytest.FixtureRequest, point: str, on_celery: NewWorld, trials: Trials) -> None:
    assert trials.faults(request.node, on_celery) == []
