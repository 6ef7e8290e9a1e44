"""`flask rindle worker`: real processes, on three databases, with the rows as their queue."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from host_brokers import Broker
from host_site import Site, until
from sqlalchemy import make_url

from flask_rindle.outbox import Priority, Queue

# More than a lease.
LATER_SECONDS = 120
AN_HOUR = 3600


@pytest.fixture
def site(make_site: Callable[..., Site], new_database: Callable[[str], str]) -> Site:
    """A site on SQLite whose own process runs nothing."""
    return make_site(jobs="embedded", workers=0, database=new_database("sqlite"))


def facts(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def most_at_once(site: Site) -> Counter[str]:
    """How many jobs of each queue ran at the same time, at most."""
    now, most = Counter[str](), Counter[str]()
    for what, _, queue, *_ in site.log():
        now[queue] += 1 if what == "start" else -1
        most[queue] = max(most[queue], now[queue])
    return most


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mariadb"])
def test_two_workers_share_what_another_process_commits(
    make_site: Callable[..., Site], new_database: Callable[[str], str], kind: str
) -> None:
    """No job runs twice, and with RINDLE_WORKERS=0 none runs in the process that serves requests."""
    site = make_site(jobs="embedded", workers=0, database=new_database(kind))
    asset_id, job_ids = site.upload(), site.add(20)
    site.app.test_client().get("/")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rindle-worker")]
    assert site.states(job_ids) == {"queued": 20}
    with site.scripted("hold"):
        for name in ("one", "two"):
            site.flask_worker("-c", "2", name=name)
        job_ids += site.add(40)
        until(lambda: {entry[4] for entry in site.started(job_ids)} == {"one", "two"})
    until(lambda: site.are_done(job_ids))
    until(lambda: site.asset(asset_id).state == "ready")
    assert [run.outcome for run in site.runs(job_ids)] == ["succeeded"] * 60
    assert len(site.started(job_ids)) == 60
    pids = {run.worker.split(":")[1] for run in [*site.runs(job_ids), *site.runs_of(asset_id)]}
    assert pids == {str(worker.process.pid) for worker in site.workers}


@pytest.mark.parametrize("kind", ["redis", "postgresql"])
def test_a_ring_of_another_process_wakes_it(
    request: pytest.FixtureRequest,
    make_site: Callable[..., Site],
    new_database: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    """It polls once an hour, so that nothing else explains job after job."""
    channel = f"rindle_{uuid.uuid4().hex[:12]}"
    monkeypatch.setattr("flask_rindle.events.redis.NAME", channel)
    database = new_database("sqlite" if kind == "redis" else "postgresql")
    if kind == "redis":
        broker: Broker = request.getfixturevalue("redis_server")
    events_url = broker.url if kind == "redis" else database.replace("+psycopg", "")
    site = make_site(jobs="embedded", workers=0, database=database, events_url=events_url, channel=channel)
    site.flask_worker("-c", "2", poll=AN_HOUR).await_words("started")
    for _ in range(5):
        job_ids = site.add()
        until(lambda job_ids=job_ids: site.are_done(job_ids))


def test_queues_have_threads_of_their_own(site: Site) -> None:
    """What is not named is not served, and a full queue does not hold up another."""
    worker = site.flask_worker(
        "-q", "rindle_media=2", "-q", "rindle_process", "-q", "rindle_purge", "-c", "1", "--json"
    )
    with site.scripted("hold"):
        media, process, other = site.add(5, Queue.MEDIA), site.add(3, Queue.PROCESS), site.add(1, Queue.PROMOTE)
        until(lambda: (len(site.started(media)), len(site.started(process))) == (2, 1))
        assert site.states(media) == {"running": 2, "queued": 3}
    until(lambda: site.are_done([*media, *process]))
    assert most_at_once(site) == {"rindle_media": 2, "rindle_process": 1}
    assert site.states(other) == {"queued": 1}
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0
    started, stopped = facts(worker.output)
    assert started == {
        "event": "started",
        "pid": worker.process.pid,
        "app": "host",
        "crews": [
            {"queues": ["rindle_media"], "threads": 2},
            {"queues": ["rindle_process", "rindle_purge"], "threads": 1},
        ],
    }
    assert stopped == {"event": "stopped", "jobs": 8, "handed_back": True}


def test_concurrency_is_for_all_queues_together(site: Site) -> None:
    site.flask_worker("--concurrency", "3")
    with site.scripted("hold"):
        job_ids = [job_id for queue in (Queue.MEDIA, Queue.PURGE) for job_id in site.add(3, queue)]
        until(lambda: len(site.started(job_ids)) == 3)
        assert site.states(job_ids) == {"running": 3, "queued": 3}
    until(lambda: site.are_done(job_ids))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--queue", "rindle_films"], ["rindle_films", *Queue]),
        (["--queue", "celery=2"], ["celery", *Queue]),
        (["--queue", "rindle_media=0"], ["rindle_media=0", "from 1 to 256", "rindle_media=2"]),
        (["--queue", "rindle_media=257"], ["from 1 to 256"]),
        (["--queue", "rindle_media=many"], ["rindle_media=many", "rindle_media=2"]),
        (["--queue", "rindle_media="], ["from 1 to 256"]),
        (["--concurrency", "0"], ["--concurrency", "1<=x<=256"]),
        (["--concurrency", "two"], ["--concurrency"]),
        (["--grace", "-1"], ["--grace"]),
        (["--grace", "inf"], ["--grace"]),
        (["--grace", "nan"], ["--grace"]),
        (["--queue", "rindle_media=2", "-q", "rindle_media"], ["rindle_media is given twice"]),
    ],
    ids=lambda value: value[-1] if value[0].startswith("--") else "",
)
def test_a_mistake_in_an_option_ends_it_with_a_sentence(site: Site, options: list[str], words: list[str]) -> None:
    result = site.app.test_cli_runner().invoke(args=["rindle", "worker", *options])
    assert result.exit_code == 2
    assert [word for word in words if word not in result.output] == []


def test_draining_ends_when_nothing_is_due(site: Site) -> None:
    """Also what jobs lead to is done; what is due later is not waited for."""
    site.upload()
    site.add(3)
    with site.app.app_context():
        site.rindle.initiate_upload("avatar", filename="late.png", content_type="image/png", byte_size=9)
    worker = site.flask_worker("--drain", "--json", "-c", "2", poll=AN_HOUR)
    assert worker.wait() == 0
    # A promotion, the variants that it leads to, and three.
    assert [fact.get("jobs") for fact in facts(worker.output)] == [None, 5]
    again = site.flask_worker("--drain", name="again")
    assert again.wait() == 0
    assert "stopped: jobs 0, handed back True" in again.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_hands_unfinished_work_back(site: Site, number: signal.Signals) -> None:
    worker = site.flask_worker("-c", "2", "--json")
    with site.scripted("hold"):
        job_ids = site.add(3)
        until(lambda: len(site.started(job_ids)) == 2)
        worker.send(number)
        assert worker.wait(10) == 0
        assert site.states(job_ids) == {"queued": 3}
    assert {site.job(job_id).attempt for job_id in job_ids} == {0}
    assert [run.outcome for run in site.runs(job_ids)] == ["released"] * 2
    assert facts(worker.output)[-1] == {"event": "stopped", "jobs": 2, "handed_back": True}


def test_work_that_does_not_listen_is_left_after_the_grace(site: Site) -> None:
    """Its lease runs out, and a worker of a later minute does it."""
    worker = site.flask_worker("-c", "1", "--grace", "1", "--json")
    with site.scripted("hold", "deaf"):
        (job_id,) = site.add()
        until(lambda: site.started([job_id]))
        worker.send(signal.SIGTERM)
        assert worker.wait(10) == 0
    assert facts(worker.output)[-1]["handed_back"] is False
    assert site.job(job_id).state == "running"
    site.flask_worker("--drain", name="later", offset=LATER_SECONDS).wait()
    assert site.outcomes(job_id) == ["lost", "succeeded"]


def test_a_second_signal_ends_it_at_once(site: Site) -> None:
    worker = site.flask_worker("-c", "1", "--grace", "3600")
    with site.scripted("hold", "deaf"):
        (job_id,) = site.add()
        until(lambda: site.started([job_id]))

        def ended() -> bool:
            worker.send(signal.SIGTERM)
            return worker.process.poll() is not None

        began = time.monotonic()
        until(ended)
        assert time.monotonic() - began < 10
    assert worker.wait() == -signal.SIGTERM
    assert "stopped" not in worker.output


SIGNALLED = """
import os, signal, threading
from flask_rindle.cli.worker import _stop_signal

for _ in range(300):
    with _stop_signal() as stopping:
        threading.Timer(0.001, os.kill, (os.getpid(), signal.SIGTERM)).start()
        while not stopping.wait(0):
            pass
"""


def test_a_signal_may_come_at_any_moment() -> None:
    """Also while the main thread is about to look whether one has come."""
    done = subprocess.run([sys.executable, "-c", SIGNALLED], timeout=30, check=False)
    assert done.returncode == 0


def test_a_killed_worker_loses_nothing(site: Site) -> None:
    worker = site.flask_worker("-c", "2")
    with site.scripted("hold"):
        job_ids = site.add(3)
        until(lambda: len(site.started(job_ids)) == 2)
        worker.kill_with_children()
    assert site.states(job_ids) == {"running": 2, "queued": 1}
    assert site.flask_worker("--drain", name="later", offset=LATER_SECONDS).wait() == 0
    assert site.are_done(job_ids)
    assert Counter(run.outcome for run in site.runs(job_ids)) == {"lost": 2, "succeeded": 3}


def test_a_database_that_was_away_is_survived(
    make_site: Callable[..., Site], new_database: Callable[[str], str]
) -> None:
    """Idle connections are cut, and the very next jobs are done by the same process."""
    url = new_database("postgresql")
    site = make_site(jobs="embedded", workers=0, database=url)
    worker = site.flask_worker("-c", "2")
    before = site.add(2)
    until(lambda: site.are_done(before))
    site.engine.database.dispose()
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        for _ in range(3):
            assert connection.execute(cut, [make_url(url).database]).fetchall()
            job_ids = site.add(2)
            until(lambda job_ids=job_ids: site.are_done(job_ids))
            site.engine.database.dispose()
    assert worker.process.poll() is None


def test_first_variants_go_before_regeneration(site: Site) -> None:
    with site.scripted("hold"):
        site.flask_worker("-c", "1")
        (running,) = site.add()
        until(lambda: site.started([running]))
        again = site.add(2, priority=Priority.AGAIN)
        first = site.add(2, priority=Priority.FIRST)
    until(lambda: site.are_done([running, *again, *first]))
    order = [entry[1] for entry in site.started([*first, *again])]
    assert order == [str(job_id) for job_id in (*first, *again)]
