"""`flask rindle worker`: a process that works, with the rows as its queue."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from types import FrameType

import click
from flask import current_app
from flask.cli import with_appcontext

from flask_rindle.engine import current_engine
from flask_rindle.errors import RindleError
from flask_rindle.jobs.crew import Crew
from flask_rindle.jobs.embedded import EmbeddedJobs
from flask_rindle.outbox import Queue
from flask_rindle.settings import MAX_WORKERS

IDLE_LOOK_SECONDS = 0.1
MAX_GRACE_SECONDS = 86_400


@click.command()
@click.option(
    "-q",
    "--queue",
    "queues",
    multiple=True,
    metavar="NAME[=THREADS]",
    help="Serve only this queue; with a number, with threads of its own. May be given several times.",
)
@click.option(
    "-c",
    "--concurrency",
    type=click.IntRange(1, MAX_WORKERS),
    default=min(os.cpu_count() or 1, MAX_WORKERS),
    help="Threads for all queues that have none of their own; as many as there are cores by default.",
)
@click.option(
    "--grace",
    type=click.IntRange(0, MAX_GRACE_SECONDS),
    default=10,
    help="Seconds for running work to hand itself back.",
)
@click.option("--drain", is_flag=True, help="End when nothing is due any more.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@with_appcontext
def worker(*, queues: Sequence[str], concurrency: int, grace: int, drain: bool, as_json: bool) -> None:
    """Work until told to stop. The first signal hands unfinished work back, the second one ends at once."""
    crews = plan_crews(queues, concurrency)
    engine = current_engine()
    jobs = EmbeddedJobs(engine.workplace, crews)
    if engine.settings.jobs == "embedded":
        # Follow-up work is for these threads, not for those that a web process would start.
        engine.outbox.send = jobs.send
    _say(as_json, "started", pid=os.getpid(), app=current_app.name, crews=[_describe(crew) for crew in crews])
    with _stop_signal() as stopping:
        jobs.start()
        while not stopping.wait(IDLE_LOOK_SECONDS if drain else None) and not (drain and _is_idle(jobs)):
            pass
        ended = jobs.stop(grace)
    _say(as_json, "stopped", jobs=jobs.claims, handed_back=ended)
    engine.close()


def _is_idle(jobs: EmbeddedJobs) -> bool:
    try:
        return jobs.is_idle
    except RindleError:  # the database is away, and what is due is not known
        return False


def plan_crews(queues: Sequence[str], concurrency: int) -> list[Crew]:
    """The crews that the options ask for. Raises BadParameter for a queue that nobody puts work into."""
    parsed = [_parse(option) for option in queues]
    twice = next((name for name, _ in parsed if [other for other, _ in parsed].count(name) > 1), None)
    if twice is not None:
        raise click.BadParameter(f"{twice} is given twice", param_hint="--queue")
    own = [Crew(queues=(name,), threads=threads) for name, threads in parsed if threads is not None]
    shared = tuple(sorted({name for name, threads in parsed if threads is None}))
    if shared or not own:
        own.append(Crew(queues=shared or None, threads=concurrency))
    return own


def _parse(option: str) -> tuple[str, int | None]:
    name, equals, number = option.partition("=")
    if name not in set(Queue):
        raise click.BadParameter(f"there is no queue {name!r}; there are {', '.join(Queue)}", param_hint="--queue")
    if not equals:
        return name, None
    if not (number.isascii() and number.isdecimal() and 1 <= int(number) <= MAX_WORKERS):
        raise click.BadParameter(
            f"{option!r} has no number of threads from 1 to {MAX_WORKERS}; write {name}=2", param_hint="--queue"
        )
    return name, int(number)


def _describe(crew: Crew) -> dict[str, object]:
    return {"queues": list(crew.queues or Queue), "threads": crew.threads}


class _Stopping:
    """What a signal handler tells the thread that it interrupts, which would hold the lock of an Event for ever."""

    def __init__(self) -> None:
        self._told: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """Safe in a signal handler."""
        self._told.put(None)

    def wait(self, timeout: float | None) -> bool:
        """Whether it was told within so many seconds."""
        try:
            self._told.get(timeout=timeout)
        except Empty:
            return False
        return True


@contextmanager
def _stop_signal() -> Iterator[_Stopping]:
    """Told by SIGTERM and SIGINT; the second of them ends the process as it would have without us."""
    stopping = _Stopping()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(_number: int, _frame: FrameType | None) -> None:
        restore()
        stopping.set()

    for number in before:
        signal.signal(number, stop)
    try:
        yield stopping
    finally:
        restore()


def _say(as_json: bool, event: str, **facts: object) -> None:  # noqa: FBT001 - the command's own flag
    if as_json:
        click.echo(json.dumps({"event": event, **facts}))
        return
    told = ", ".join(f"{name.replace('_', ' ')} {_plain(fact)}" for name, fact in facts.items())
    click.echo(f"flask-rindle worker {event}: {told}")


def _plain(fact: object) -> str:
    if isinstance(fact, list):
        return "; ".join(f"{crew['threads']} × {' '.join(crew['queues'])}" for crew in fact)
    return str(fact)
