"""Which jobs are due: queries that look at the heads of queues, whatever lies behind them.

Each arm is one range of an index, by queue and priority, so that neither a long queue nor a million finished
jobs make the answer slower. A query is built once for its queues; only the time in it changes. Our own words are
written into it: as parameters there would be a hundred, which drivers parse anew and planners plan anew each time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from enum import StrEnum
from functools import cache
from itertools import product
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Integer,
    Select,
    String,
    and_,
    bindparam,
    column,
    func,
    literal_column,
    or_,
    select,
    text,
    true,
    union_all,
)

from flask_rindle.models.base import UTCDateTime
from flask_rindle.models.job import JOBS
from flask_rindle.models.states import JobState
from flask_rindle.outbox.kinds import JobKind, Priority, Queue

_NOW: ColumnElement[datetime] = bindparam("now", type_=UTCDateTime)
_FIRST_OF_ALL: ColumnElement[int] = literal_column("-1")


def is_due(now: ColumnElement[datetime] = _NOW) -> ColumnElement[bool]:
    """Whether a job may be claimed: its time has come, or its worker's lease has run out."""
    return or_(is_waiting(now), and_(_is(JobState.RUNNING), _is_abandoned(now)))


def is_waiting(now: ColumnElement[datetime] = _NOW) -> ColumnElement[bool]:
    """Whether a job is due that nobody has begun, or that was given back."""
    return and_(_is(JobState.QUEUED), JOBS.c.run_at <= now)


def is_known() -> ColumnElement[bool]:
    """Whether this release can run it; a newer one may have added kinds."""
    return JOBS.c.kind.in_([_word(kind) for kind in JobKind])


def all_queues(queues: Collection[str] | None) -> tuple[Queue, ...]:
    """The given queues, or all of them, in an order of their own. ValueError for one that is none of ours."""
    return tuple(sorted(Queue if queues is None else {Queue(queue) for queue in queues}))


@cache
def candidates(queues: tuple[Queue, ...], limit: int) -> Select[Any]:
    """The ids of due jobs, those that were abandoned first, then by priority and time; a parameter `now`."""
    waiting = select(JOBS.c.id.label("id"), JOBS.c.priority.label("rank"), JOBS.c.run_at.label("at"))
    heads = [waiting.where(*lane, JOBS.c.run_at <= _NOW).order_by(JOBS.c.run_at, JOBS.c.id) for lane in _lanes(queues)]
    return _most_urgent([_abandoned(queues), *heads], limit)


@cache
def lateral_candidates(queues: tuple[Queue, ...], limit: int) -> Select[Any]:
    """The same by a loop over the lanes, where the database has LATERAL: to set up a dozen arms takes longer."""
    words = ", ".join(f"('{queue.value}', {int(priority)})" for queue, priority in product(queues, Priority))
    # As text, because a statement with VALUES in it is compiled anew each time.
    named = text(f"SELECT queue, priority FROM (VALUES {words}) AS named (queue, priority)")  # noqa: S608 - words of ours
    lanes = named.columns(column("queue", String), column("priority", Integer)).subquery("lanes")
    lane = (_is(JobState.QUEUED), JOBS.c.queue == lanes.c.queue, JOBS.c.priority == lanes.c.priority, is_known())
    waiting = select(JOBS.c.id, JOBS.c.run_at.label("at")).where(*lane, JOBS.c.run_at <= _NOW)
    head = waiting.order_by(JOBS.c.run_at, JOBS.c.id).limit(_number(limit)).lateral("head")
    heads = select(head.c.id, lanes.c.priority.label("rank"), head.c.at).select_from(lanes.join(head, true()))
    return _most_urgent([_abandoned(queues), heads.order_by(lanes.c.priority, head.c.at, head.c.id)], limit)


@cache
def next_moments(queues: tuple[Queue, ...]) -> Select[Any]:
    """When the next job becomes due in each lane, and when the next lease runs out."""
    lease = select(JOBS.c.lease_expires_at.label("at")).where(*_running(queues)).order_by(JOBS.c.lease_expires_at)
    waiting = select(JOBS.c.run_at.label("at")).order_by(JOBS.c.run_at)
    found = _together([lease, *(waiting.where(*lane) for lane in _lanes(queues))], 1)
    return select(func.min(found.c.at, type_=UTCDateTime))


@cache
def unclaimed(limit: int) -> Select[Any]:
    """Jobs that should have been claimed by now: due before a parameter `since`, or abandoned by `now`."""
    queues = all_queues(None)
    job = select(JOBS.c.id, JOBS.c.queue, JOBS.c.priority, JOBS.c.run_at)
    since: ColumnElement[datetime] = bindparam("since", type_=UTCDateTime)
    heads = [job.where(*lane, JOBS.c.run_at <= since).order_by(JOBS.c.run_at) for lane in _lanes(queues)]
    found = _together([job.where(*_running(queues), _is_abandoned()), *heads], limit)
    return select(found.c.id, found.c.queue, found.c.priority, found.c.run_at)


def _lanes(queues: Iterable[Queue]) -> list[tuple[ColumnElement[bool], ...]]:
    """Jobs that wait, by queue and priority: one range of the index each."""
    return [
        (_is(JobState.QUEUED), JOBS.c.queue == _word(queue), JOBS.c.priority == _number(priority), is_known())
        for queue, priority in product(queues, Priority)
    ]


def _running(queues: Iterable[Queue]) -> tuple[ColumnElement[bool], ...]:
    return (_is(JobState.RUNNING), JOBS.c.queue.in_([_word(queue) for queue in queues]), is_known())


def _is_abandoned(now: ColumnElement[datetime] = _NOW) -> ColumnElement[bool]:
    return JOBS.c.lease_expires_at <= now


def _is(state: JobState) -> ColumnElement[bool]:
    return JOBS.c.state == _word(state)


def _word(word: StrEnum) -> ColumnElement[str]:
    return literal_column(f"'{word.value}'", String)


def _number(number: int) -> ColumnElement[int]:
    return literal_column(str(int(number)))


def _abandoned(queues: Iterable[Queue]) -> Select[Any]:
    leases = select(JOBS.c.id.label("id"), _FIRST_OF_ALL.label("rank"), JOBS.c.lease_expires_at.label("at"))
    return leases.where(*_running(queues), _is_abandoned()).order_by(JOBS.c.lease_expires_at)


def _most_urgent(arms: Iterable[Select[Any]], limit: int) -> Select[Any]:
    found = _together(arms, limit)
    return select(found).order_by(*found.c["rank", "at", "id"]).limit(_number(limit))


def _together(arms: Iterable[Any], limit: int) -> Any:
    """The first rows of each arm."""
    # Not every database takes a LIMIT in an arm of a UNION, but each takes it one SELECT deeper.
    return union_all(*(select(arm.limit(_number(limit)).subquery()) for arm in arms)).subquery()
