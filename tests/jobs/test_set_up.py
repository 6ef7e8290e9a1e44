"""What `install_tasks` makes of Celery apps that are set up in their own ways; no broker is asked."""

from __future__ import annotations

import io
import logging
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, signals
from flask import Flask

from flask_rindle import install_tasks
from flask_rindle.models import Asset, Job
from flask_rindle.outbox import Queue
from flask_rindle.types import utcnow

NOWHERE = "redis://:s3cret@127.0.0.1:1/0"


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    return make_app(jobs="celery", clock=utcnow)


def upload(app: Flask, data: bytes) -> Any:
    with app.app_context():
        return app.extensions["host"].rindle.upload("avatar", io.BytesIO(data), filename="a.jpg")


def test_a_default_queue_keeps_its_type(app: Flask) -> None:
    celery = Celery("site", broker=NOWHERE)
    celery.conf.task_default_queue_type = "quorum"
    install_tasks(celery, app)
    queues = {queue.name: queue for queue in celery.conf.task_queues}
    assert queues["celery"].queue_arguments == {"x-queue-type": "quorum"}
    assert set(queues) == {"celery", *Queue}


def test_queues_may_be_a_mapping(app: Flask) -> None:
    celery = Celery("site", broker=NOWHERE)
    celery.conf.task_queues = {"mine": {"exchange": "mine", "routing_key": "mine"}}
    install_tasks(celery, app)
    assert {queue.name for queue in celery.conf.task_queues} == {"mine", *Queue}


def test_eager_tasks_need_no_broker(app: Flask, photo: Callable[..., bytes]) -> None:
    celery = Celery("site", broker=NOWHERE)
    celery.conf.update(task_always_eager=True, broker_pool_limit=1)
    install_tasks(celery, app)
    asset = upload(app, photo())
    with app.extensions["rindle"].database.reading() as db_session:
        assert db_session.get_one(Asset, asset.id).state == "ready"
        assert {job.state for job in db_session.query(Job)} == {"succeeded"}


@pytest.mark.parametrize(
    "broker", [NOWHERE, "redis://:s3/cret@127.0.0.1:1/0", "nonsense://:s3cret@127.0.0.1/"], ids=["away", "odd", "none"]
)
def test_a_broker_that_cannot_be_reached_shows_no_secret(
    app: Flask, photo: Callable[..., bytes], caplog: pytest.LogCaptureFixture, broker: str
) -> None:
    caplog.set_level(logging.DEBUG)
    install_tasks(Celery("site", broker=broker), app)
    assert upload(app, photo()).state == "validating"
    (told,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert "jobs wait in their rows" in told
    assert "s3" not in caplog.text


def test_celery_keeps_no_app_that_nobody_else_does(make_app: Callable[..., Flask]) -> None:
    celery = Celery("site", broker=NOWHERE)
    first = make_app(jobs="celery", clock=utcnow).extensions["rindle"].jobs
    first.bind(celery)
    make_app(jobs="celery", clock=utcnow).extensions["rindle"].jobs.bind(celery)
    receivers = [receiver for _, receiver in signals.worker_shutting_down.receivers]
    assert receivers
    assert all(isinstance(receiver, weakref.ReferenceType) for receiver in receivers)
