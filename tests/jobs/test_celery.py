"""Jobs on Celery: real workers, over a real Redis and a real RabbitMQ."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery import Celery
from flask import Flask
from host_app import create_app, create_celery
from host_brokers import Broker, Road
from host_site import Site, Worker, open_site, until
from kombu import Queue as BrokerQueue

from flask_rindle.errors import ConfigurationError
from flask_rindle.jobs.celery import REPUBLISH, RUN, SWEEP, install_tasks
from flask_rindle.outbox import Queue

# More than a lease: what was abandoned or is overdue by the time of the test's process is so by the worker's clock.
LATER_SECONDS = 120


class Crowd:
    """A site whose work is done by Celery, and what an operator can do with its broker."""

    def __init__(self, site: Site, broker: Broker) -> None:
        self.site = site
        self.broker = broker
        self.celery = create_celery(site.config, site.app)

    def close(self) -> None:
        self.celery.pool.force_close_all()
        self.celery.close()

    def worker(self, *options: str, name: str, **config: Any) -> Worker:
        return self.site.celery_worker(*options, name=name, **config)

    def republish(self) -> None:
        self.celery.tasks[REPUBLISH].apply_async(queue=str(Queue.MAINTENANCE))

    def messages(self, queue: Queue) -> int:
        """How many wait in a queue of the broker."""
        with self.celery.connection_for_write() as connection, connection.channel() as channel:
            # Declared as it is; on Redis, an empty queue does not exist.
            return int(self.celery.amqp.queues[str(queue)](channel).queue_declare().message_count)

    def purge(self, queue: Queue) -> int:
        with self.celery.connection_for_write() as connection, connection.channel() as channel:
            return int(channel.queue_purge(str(queue)) or 0)

    def told(self, verb: str, queue: Queue, worker: str = "main") -> None:
        """Tell a worker to begin or end to serve a queue, and wait until it says so."""
        control = getattr(self.celery.control, verb)
        assert control(str(queue), destination=[f"{worker}@rindle"], reply=True, timeout=20)

    @contextmanager
    def absent(self, *queues: Queue) -> Iterator[None]:
        """The main worker does not serve these queues while the block runs."""
        for queue in queues:
            self.told("cancel_consumer", queue)
        try:
            yield
        finally:
            for queue in queues:
                self.told("add_consumer", queue)


@contextmanager
def open_crowd(site: Site, broker: Broker) -> Iterator[Crowd]:
    crowd = Crowd(site, broker)
    try:
        yield crowd
    finally:
        crowd.close()


def config_of(broker: Broker, database: str) -> dict[str, Any]:
    return {"jobs": "celery", "database": database, "broker": broker.url, "transport": broker.transport}


@pytest.fixture(scope="module")
def crowd(
    broker: Broker, new_database: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Crowd]:
    """A site on PostgreSQL; its main worker was told of no queue, and lives in a later minute."""
    directory = tmp_path_factory.mktemp(broker.kind) / "site"
    with (
        open_site(directory, **config_of(broker, new_database("postgresql"))) as site,
        open_crowd(site, broker) as crowd,
    ):
        crowd.worker("-c", "2", name="main", offset=LATER_SECONDS)
        yield crowd


@pytest.fixture(scope="module")
def site(crowd: Crowd) -> Site:
    return crowd.site


@pytest.fixture(scope="module")
def second(crowd: Crowd) -> Worker:
    """Another worker, for one queue alone."""
    return crowd.worker("-c", "1", "-Q", str(Queue.PROCESS), name="second", offset=LATER_SECONDS)


def test_an_upload_becomes_ready_by_a_worker(site: Site) -> None:
    asset_id = site.upload()
    until(lambda: site.asset(asset_id).state == "ready")
    (main,) = [worker for worker in site.workers if worker.name == "main"]
    _, pids, kinds = zip(*(run.worker.split(":") for run in site.runs_of(asset_id)), strict=True)
    assert set(kinds) == {"celery"}
    assert not {str(os.getpid()), str(main.process.pid)} & set(pids), "it runs in the pool"


def test_a_worker_that_is_told_of_no_queue_serves_all(crowd: Crowd, site: Site) -> None:
    """Ours as well as the default queue of the host's own tasks."""
    job_ids = [job_id for queue in Queue for job_id in site.add(queue=queue)]
    crowd.celery.send_task("host.note", ["mine"])
    until(lambda: site.are_done(job_ids))
    until(lambda: site.notes() == ["mine"])


def test_a_worker_of_one_queue_serves_that_alone(crowd: Crowd, site: Site, second: Worker) -> None:
    with crowd.absent(Queue.PROCESS, Queue.PURGE):
        others = site.add(2, Queue.PURGE)
        mine = site.add(3, Queue.PROCESS)
        until(lambda: site.are_done(mine))
        assert {entry[4] for entry in site.started(mine)} == {"second"}
        assert site.states(others) == {"queued": 2}
        served = crowd.celery.control.inspect(destination=["second@rindle"], timeout=20).active_queues()
        assert [queue["name"] for queue in served["second@rindle"]] == ["rindle_process"]
    until(lambda: site.are_done(others))


def test_two_workers_share_the_jobs_and_none_runs_twice(crowd: Crowd, site: Site, second: Worker) -> None:
    with site.scripted("hold"):
        job_ids = site.add(50)
        until(lambda: {entry[4] for entry in site.started(job_ids)} == {"main", "second"})
        crowd.republish()
    until(lambda: site.are_done(job_ids))
    assert [run.outcome for run in site.runs(job_ids)] == ["succeeded"] * 50
    assert len(site.started(job_ids)) == 50


def test_lost_messages_are_published_again_by_the_schedule(crowd: Crowd, site: Site) -> None:
    """By a real `celery beat`, every second instead of every fifteen."""
    with crowd.absent(Queue.PURGE):
        job_ids = site.add(3, Queue.PURGE)
        assert crowd.purge(Queue.PURGE) == 3
    command = ("celery", "-A", "host_app:celery_app", "beat", "-s", "schedule", "--pidfile=", "-l", "INFO")
    beat = site.start(*command, name="beat", republish=1.0)
    until(lambda: site.are_done(job_ids))
    beat.send(signal.SIGTERM)
    beat.wait()
    assert "flask_rindle.republish" in beat.output
    assert [run.outcome for run in site.runs(job_ids)] == ["succeeded"] * 3


def test_the_row_decides_about_another_attempt(crowd: Crowd, site: Site) -> None:
    """Its next attempt is a message with a countdown, and comes by itself."""
    with site.scripted("fail"):
        job_ids = site.add(5)
        until(lambda: {site.job(job_id).attempt for job_id in job_ids} == {1})
        until(lambda: site.states(job_ids) == {"queued": 5})
    assert {error["code"] for job_id in job_ids for error in site.job(job_id).errors} == {"host_trouble"}
    until(lambda: site.are_done(job_ids))
    assert [site.outcomes(job_id) for job_id in job_ids] == [["retried", "succeeded"]] * 5
    assert "Retry in" not in worker_of(site, "main").output


def test_a_worker_that_is_killed_is_noticed_by_the_lease(crowd: Crowd, site: Site) -> None:
    """The message is gone with it; the job is not."""
    doomed = crowd.worker("-c", "1", "-Q", str(Queue.MEDIA), name="doomed")
    with crowd.absent(Queue.MEDIA, Queue.MAINTENANCE), site.scripted("hold"):
        (job_id,) = site.add(queue=Queue.MEDIA)
        until(lambda: site.started([job_id]))
        doomed.kill_with_children()
        assert crowd.messages(Queue.MEDIA) == 0, "it was acknowledged"
    assert site.job(job_id).state == "running"
    crowd.republish()
    until(lambda: site.are_done([job_id]))
    assert site.outcomes(job_id) == ["lost", "succeeded"]
    assert [entry[4] for entry in site.started([job_id])] == ["doomed", "main"]


def test_a_worker_that_is_stopped_hands_its_job_on(crowd: Crowd, site: Site) -> None:
    """Another one takes it at once, and the attempt is not used up."""
    leaving = crowd.worker("-c", "1", "-Q", str(Queue.MEDIA), name="leaving", offset=LATER_SECONDS)
    with site.scripted("hold"):
        with crowd.absent(Queue.MEDIA):
            (job_id,) = site.add(queue=Queue.MEDIA)
            until(lambda: site.started([job_id]))
        leaving.send(signal.SIGTERM)
        until(lambda: [entry[4] for entry in site.started([job_id])] == ["leaving", "main"])
        assert leaving.wait() == 0
        assert site.outcomes(job_id) == ["released", "running"]
        assert site.job(job_id).attempt == 1
    until(lambda: site.are_done([job_id]))


def test_messages_for_jobs_that_are_gone_or_done_are_harmless(crowd: Crowd, site: Site) -> None:
    (done,) = site.add(queue=Queue.PURGE)
    until(lambda: site.are_done([done]))
    before = handled(crowd)
    for job_id in (str(done), str(uuid.uuid4()), "no id at all"):
        crowd.celery.tasks[RUN].apply_async(kwargs={"job_id": job_id, "queue": "rindle_purge"}, queue="rindle_purge")
    until(lambda: handled(crowd) == before + 3)
    assert site.outcomes(done) == ["succeeded"]
    assert "Traceback" not in worker_of(site, "main").output


@pytest.mark.parametrize("trouble", ["refuse", "silence"])
def test_an_upload_succeeds_without_a_broker(
    crowd: Crowd, site: Site, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Quickly, with one warning that does not tell the broker's address; the job is done when the broker is back."""
    road = Road(crowd.broker.address)
    web = Site(site.directory, site.config | {"broker": crowd.broker.through(road.port)}, create_app(site.config))
    with open_crowd(web, crowd.broker) as far:
        (early,) = web.add()
        until(lambda: site.are_done([early]))
        getattr(road, trouble)()
        with caplog.at_level(logging.WARNING):
            first_seconds, first = timed(web.upload)
            second_seconds, second = timed(web.upload)
        assert first_seconds < 6
        assert second_seconds < 0.5
        (warning,) = [record.getMessage() for record in caplog.records if record.name.startswith("flask_rindle")]
        assert "the broker is away" in warning
        assert "127.0.0.1" not in caplog.text
        road.mend()
        crowd.republish()
        until(lambda: {site.asset(first).state, site.asset(second).state} == {"ready"})
        web.engine.jobs._rests_until = 0
        third = web.upload()
        until(lambda: site.asset(third).state == "ready")
        road.close()
        web.engine.close()
        assert far.celery is not crowd.celery


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.monotonic()
    result = work()
    return time.monotonic() - began, result


def worker_of(site: Site, name: str) -> Worker:
    return next(worker for worker in site.workers if worker.name == name)


def handled(crowd: Crowd) -> int:
    """How many messages the main worker has taken."""
    stats = crowd.celery.control.inspect(destination=["main@rindle"], timeout=20).stats()
    return int(stats["main@rindle"]["total"].get(RUN, 0))


# Set-up, without a broker


@pytest.fixture
def lone_site(make_site: Callable[..., Site], new_database: Callable[[str], str]) -> Site:
    """Celery is chosen, and install_tasks was not called."""
    return make_site(jobs="celery", database=new_database("sqlite"))


def plain_celery() -> Celery:
    return Celery("host", broker="memory://", set_as_current=False)


def test_celery_never_retries_by_itself(lone_site: Site) -> None:
    celery = plain_celery()
    install_tasks(celery, lone_site.app)
    for name in (RUN, REPUBLISH, SWEEP):
        task = celery.tasks[name]
        assert (task.max_retries, task.acks_late, task.ignore_result) == (0, False, True)
        assert not getattr(task, "autoretry_for", ())


def test_an_app_without_rindle_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="has no Rindle"):
        install_tasks(plain_celery(), Flask("bare"))


def test_an_app_with_another_backend_is_refused(make_site: Callable[..., Site], new_database: Any) -> None:
    site = make_site(jobs="inline", database=new_database("sqlite"))
    with pytest.raises(ConfigurationError, match='RINDLE_JOBS = "celery"'):
        install_tasks(plain_celery(), site.app)


def test_a_request_says_that_install_tasks_was_forgotten(lone_site: Site) -> None:
    lone_site.app.testing = True
    with pytest.raises(ConfigurationError, match="install_tasks"):
        lone_site.app.test_client().get("/")
    install_tasks(plain_celery(), lone_site.app)
    assert lone_site.app.test_client().get("/").status_code == 404


def test_what_the_host_had_stays(lone_site: Site) -> None:
    celery = plain_celery()
    own = {"task": "host.note", "schedule": 5.0}
    celery.conf.update(
        task_queues=[BrokerQueue("host_own"), BrokerQueue("rindle_media", routing_key="elsewhere")],
        task_default_queue="host_own",
        beat_schedule={"own": own},
    )
    assert list(celery.amqp.queues) == ["host_own", "rindle_media"], "Celery has looked at its queues before"
    for _ in range(2):
        install_tasks(celery, lone_site.app)
        assert sorted(celery.amqp.queues) == sorted(["host_own", *Queue])
        assert celery.amqp.queues["rindle_media"].routing_key == "elsewhere"
        assert celery.conf.beat_schedule["own"] == own
        assert set(celery.conf.beat_schedule) == {"own", REPUBLISH, SWEEP}
    assert celery.amqp.router.route({}, "host.note")["queue"].name == "host_own"


def test_a_host_without_queues_keeps_its_default_queue(lone_site: Site) -> None:
    celery = plain_celery()
    install_tasks(celery, lone_site.app)
    assert sorted(celery.amqp.queues) == sorted(["celery", *Queue])
    assert celery.amqp.router.route({}, "host.note")["queue"].name == "celery"


def test_a_missing_package_is_named_with_its_remedy(lone_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "celery" else find(name))
    with pytest.raises(ConfigurationError) as caught:
        create_app(lone_site.config)
    assert any("pip install 'flask-rindle[celery]'" in problem for problem in caught.value.problems)


# Other databases, and an app factory that is called again


def test_mariadb_holds_the_rows_as_well(
    make_site: Callable[..., Site], new_database: Callable[[str], str], redis_server: Broker
) -> None:
    site = make_site(**config_of(redis_server, new_database("mariadb")))
    with open_crowd(site, redis_server) as crowd:
        crowd.worker("-c", "2", name="main")
        asset_id, job_ids = site.upload(), site.add(20)
        until(lambda: site.are_done(job_ids) and site.asset(asset_id).state == "ready")
        assert len(site.runs(job_ids)) == 20


def test_an_app_factory_that_runs_twice_leaves_the_second_app(
    make_site: Callable[..., Site], new_database: Callable[[str], str], redis_server: Broker
) -> None:
    """Its work is done, and handed back when the worker is stopped."""
    earlier = make_site(**config_of(redis_server, new_database("sqlite")))
    site = make_site(**config_of(redis_server, new_database("sqlite")))
    with open_crowd(site, redis_server) as crowd:
        worker = crowd.worker("-c", "1", name="main", earlier=earlier.config)
        with site.scripted("hold"):
            (job_id,) = site.add()
            until(lambda: site.started([job_id]))
            worker.send(signal.SIGTERM)
            assert worker.wait() == 0
        assert (site.outcomes(job_id), site.job(job_id).state) == (["released"], "queued")
