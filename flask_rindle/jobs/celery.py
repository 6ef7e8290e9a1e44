"""Jobs on Celery: the rows say what there is to do, and a message only that there is something in a queue.

A message therefore claims the most urgent due job of its queue, whichever that is. It is acknowledged when it is
received: what becomes of the job is on its row, so a dead worker is noticed by the lease and a lost message
by the schedule, which publishes due rows again. Celery's own retries are off.
"""

from __future__ import annotations

import logging
import mmap
import os
import socket
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from celery import Celery, signals
from kombu import Exchange
from kombu import Queue as BrokerQueue
from kombu.pools import ProducerPool

from flask_rindle.errors import ConfigurationError, RindleError
from flask_rindle.jobs.crew import Workplace
from flask_rindle.ops.leftovers import Leftovers
from flask_rindle.ops.retention import SWEEP_SECONDS, Retention
from flask_rindle.outbox import Notice, Queue

if TYPE_CHECKING:
    from flask import Flask

log = logging.getLogger("flask_rindle.jobs")

RUN = "flask_rindle.run"
REPUBLISH = "flask_rindle.republish"
SWEEP = "flask_rindle.sweep"

# A message that waits is held in a worker's memory, so what is due later is left to the schedule.
LONGEST_COUNTDOWN_SECONDS = 60.0
REPUBLISH_SECONDS = 15.0
# What is due for less than this is most likely on its way.
OVERDUE = timedelta(seconds=15)
# A request must not wait for a broker that is away.
CONNECT_SECONDS = 2
ANSWER_SECONDS = 1.0
REST_SECONDS = 5.0


class CeleryJobs:
    """Publishes a message for every notice, and does the work of one in a worker."""

    def __init__(self, workplace: Workplace, retention: Retention, leftovers: Leftovers) -> None:
        self._workplace = workplace
        self._retention = retention
        self._leftovers = leftovers
        self._celery: Celery | None = None
        self._rests_until = 0.0
        self._producers: dict[int, Any] = {}  # by process, so that a fork speaks on no connection of another
        # Shared with the processes that a worker forks, so that its shutdown reaches the job that one of them runs.
        self._stopping = mmap.mmap(-1, 1)

    def bind(self, celery: Celery) -> None:
        """Use this Celery app, and give it the tasks, the queues and the schedule."""
        self._celery = celery
        self._producers = {}
        _add_tasks(celery, self)
        _add_queues(celery)
        _add_schedule(celery)
        # Without an id of its own: that of an earlier app would stand in its way. Held weakly, so that an app can go.
        signals.worker_shutting_down.connect(self._on_shutdown)

    def send(self, notice: Notice) -> None:
        """Publish a message for a job that is due, or will be within a minute."""
        countdown = (notice.run_at - self._workplace.clock()).total_seconds()
        if countdown <= LONGEST_COUNTDOWN_SECONDS and time.monotonic() >= self._rests_until:
            self._publish(notice, countdown if countdown > 0 else None)

    def start(self) -> None:
        """Nothing runs in this process. Raises ConfigurationError when there is no Celery app to publish with."""
        if self._celery is None:
            raise ConfigurationError(
                ['RINDLE_JOBS is "celery", but there is no Celery app; call install_tasks(celery_app, app)']
            )

    def stop(self) -> None:
        """Close this process's connections to the broker; nothing else runs in it."""
        producers = self._producers.pop(os.getpid(), None)
        if producers is not None:
            producers.force_close_all()
            producers.connections.force_close_all()

    def run(self, job_id: str, queue: str) -> None:
        """Do the most urgent due job of a queue, which may be another than the message's; nothing when none is due."""
        worker = f"{socket.gethostname()}:{os.getpid()}:celery"
        try:
            claim = self._workplace.outbox.claim(worker, queues=(queue,))
            if claim is not None:
                with self._workplace.context():
                    self._workplace.pipeline.run(claim, released=lambda: self._stopping[0] == 1)
        except RindleError as error:
            log.warning("a worker could not reach job %s, which will be published again: %s", job_id, error.code)

    def sweep(self) -> int:
        """Remove what dead processes left, and forget what has ended long ago; how many pieces and rows."""
        return self._leftovers.remove() + self._retention.sweep_all()

    def republish(self) -> int:
        """Have as many messages in each queue as there are overdue jobs; how many were missing.

        A queue that is only slow has its messages, and gets no more of them.
        """
        overdue: dict[str, list[Notice]] = {}
        for notice in self._workplace.outbox.unclaimed(OVERDUE):
            overdue.setdefault(notice.queue, []).append(notice)
        missing = [notice for queue, notices in overdue.items() for notice in notices[self._messages_in(queue) :]]
        for notice in missing:
            self.send(notice)
        return len(missing)

    def _messages_in(self, queue: str) -> int:
        """How many messages wait in a queue; none where the broker cannot say."""
        try:
            with self._own_producers(self._celery).acquire(block=True) as producer:
                producer.connection.ensure_connection(max_retries=1, interval_start=0, timeout=CONNECT_SECONDS)
                with producer.connection.channel() as channel:
                    return int(channel.queue_declare(queue, passive=True).message_count)
        except Exception as error:  # noqa: BLE001 - brokers differ in what they raise for a queue that is not there
            log.debug("queue %s could not be counted: %s", queue, type(error).__name__)
            return 0

    def _publish(self, notice: Notice, countdown: float | None) -> None:
        self.start()
        celery: Any = self._celery
        work = celery.tasks[RUN].signature(kwargs={"job_id": str(notice.job_id), "queue": notice.queue})
        if celery.conf.task_always_eager:
            work.apply_async()
            return
        try:
            with self._own_producers(celery).acquire(block=True) as producer:
                producer.connection.ensure_connection(max_retries=1, interval_start=0, timeout=CONNECT_SECONDS)
                work.apply_async(
                    queue=notice.queue,
                    countdown=countdown,
                    producer=producer,
                    # Once more at once: the connection may have gone stale since it was last used.
                    retry=True,
                    retry_policy={"max_retries": 1, "interval_start": 0, "interval_max": 0},
                )
        except Exception as error:  # noqa: BLE001 - a wrong URL is a ValueError, and the job is safe in its row
            self._rests_until = time.monotonic() + REST_SECONDS
            reason = type(error).__name__  # what it says may hold the broker's URL
            log.warning("the broker is away (%s); jobs wait in their rows until they are published again", reason)

    def _own_producers(self, celery: Any) -> Any:
        """A pool whose connections give up: Celery's own may wait for a silent broker for ever."""
        pid = os.getpid()
        return self._producers.get(pid) or self._producers.setdefault(pid, _producers(celery))

    def _on_shutdown(self, **_facts: object) -> None:
        self._stopping[0] = 1


def install_tasks(celery_app: Celery, flask_app: Flask) -> None:
    """Give a Celery app the work of a Flask app: one task for jobs, their queues, and a schedule for `celery beat`.

    Call it after `rindle.init_app`, in every process that serves or works. Raises ConfigurationError.
    """
    engine = flask_app.extensions.get("rindle")
    backend = getattr(engine, "jobs", None)
    if not isinstance(backend, CeleryJobs):
        problem = "has no Rindle" if engine is None else 'does not set RINDLE_JOBS = "celery"'
        raise ConfigurationError([f"the app {flask_app.name!r} {problem}; do that before install_tasks"])
    backend.bind(celery_app)


def _add_tasks(celery: Celery, jobs: CeleryJobs) -> None:
    def run(job_id: str, queue: str) -> None:
        jobs.run(job_id, queue)

    def republish() -> None:
        jobs.republish()

    def sweep() -> None:
        jobs.sweep()

    for name, work in ((RUN, run), (REPUBLISH, republish), (SWEEP, sweep)):
        # An app factory may be called again, and Celery would keep the task of the first app.
        celery.tasks.pop(name, None)
        celery.task(work, name=name, lazy=False, shared=False, ignore_result=True, max_retries=0, acks_late=False)


def _producers(celery: Any) -> Any:
    connection = celery.connection_for_write(connect_timeout=CONNECT_SECONDS)
    if connection.get_transport_cls().driver_type == "redis":
        patience = {"socket_connect_timeout": CONNECT_SECONDS, "socket_timeout": ANSWER_SECONDS}
        connection.transport_options = {**connection.transport_options, **patience}
    limit = celery.conf.broker_pool_limit or None
    return ProducerPool(connection.Pool(limit), limit=limit, Producer=celery.amqp.Producer)


def _add_queues(celery: Celery) -> None:
    """Our queues beside the app's own, so that a worker that is told of none serves them all."""
    conf: Any = celery.conf
    # As Celery understands them: a list, a mapping, or none, which is its default queue of the type that is set.
    given = list(celery.amqp.Queues(conf.task_queues).values())
    known = {queue.name for queue in given}
    ours = [BrokerQueue(name, Exchange(name, type="direct"), routing_key=name) for name in map(str, Queue)]
    conf.task_queues = [*given, *(queue for queue in ours if queue.name not in known)]
    # Celery keeps what it made of an earlier list.
    celery.amqp.__dict__.pop("queues", None)
    celery.amqp.__dict__.pop("_rtable", None)


def _add_schedule(celery: Celery) -> None:
    options = {"queue": str(Queue.MAINTENANCE)}
    celery.conf.beat_schedule = {
        **celery.conf.beat_schedule,
        REPUBLISH: {
            "task": REPUBLISH,
            "schedule": REPUBLISH_SECONDS,
            # Of those that pile up while no worker runs, only the last is worth running.
            "options": {**options, "expires": REPUBLISH_SECONDS},
        },
        SWEEP: {"task": SWEEP, "schedule": SWEEP_SECONDS, "options": {**options, "expires": SWEEP_SECONDS}},
    }
