"""The heartbeat of a worker goes on through trouble."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy.exc import OperationalError

from flask_rindle.outbox import Pulse
from flask_rindle.pipeline.run import _Heartbeat


def test_a_heartbeat_that_cannot_be_written_is_followed_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flask_rindle.pipeline.run.HEARTBEAT_SECONDS", 0.001)
    beats, told = iter([OperationalError("x", {}, Exception("gone")), RuntimeError("odd")]), threading.Event()

    def beat() -> Pulse:
        error = next(beats, None)
        if error is not None:
            raise error
        told.set()
        return Pulse.CANCEL

    with _Heartbeat(beat) as heart:
        assert told.wait(10)
    assert heart.wants_stop
