"""What a claim and its settlement cost in a table with a million finished rows, and in an empty one."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from jobs_ground import Ground, analyze
from jobs_print import spread
from jobs_rindle import Host
from sqlalchemy import Column, Connection, Table, text

from flask_rindle.models.job import Job, ProcessingRun

_SERIES = {
    "postgresql": "SELECT generate_series(1, {count}) AS n",
    "mariadb": "SELECT seq AS n FROM seq_1_to_{count}",
    "sqlite": "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {count}) SELECT n FROM s",
}
# In the order of n, as UUIDv7 are in the order of time.
_ID = {
    "postgresql": "CAST(lpad(to_hex(n), 32, '0') AS uuid)",
    "mariadb": "CAST(lpad(hex(n), 32, '0') AS uuid)",
    "sqlite": "printf('%032x', n)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Medians of one round, in milliseconds."""

    claim: float
    settle: float
    idle: float

    @property
    def both(self) -> float:
        return self.claim + self.settle


def compare_claims(database: str, *, finished: int, rounds: int, claims: int) -> None:
    with Ground() as ground:
        empty, full = (_host(ground, database) for _ in range(2))
        _fill(full, database, finished)
        for host in (empty, full):
            _time(host, claims)
        pairs = [_take_turns(empty, full, claims, number) for number in range(rounds)]
        empty.close()
        full.close()
    print(f"\nA claim on {database}, {rounds} rounds of {claims}, in ms; median (range)")
    for field in (*Round.__slots__, "both"):
        before, after = ([getattr(pair[which], field) for pair in pairs] for which in (0, 1))
        ratios = [late / early for early, late in zip(before, after, strict=True)]
        name = {"both": "claim and settle", "idle": "look in vain"}.get(field, field)
        print(
            f"{name:18} no rows {spread(before):>22}   {finished:,} finished {spread(after):>22}"
            f"   ratio {spread(ratios):>22}"
        )


def _host(ground: Ground, database: str) -> Host:
    return Host(ground, database, RINDLE_JOBS="embedded")


def _take_turns(empty: Host, full: Host, claims: int, number: int) -> tuple[Round, Round]:
    if number % 2:
        after = _time(full, claims)
        return _time(empty, claims), after
    return _time(empty, claims), _time(full, claims)


def _time(host: Host, claims: int) -> Round:
    outbox = host.engine.outbox
    rows: list[Sequence[float]] = []
    for number in range(claims):
        host.add_silently(number)
        before = time.perf_counter()
        claim = outbox.claim("bench")
        claimed = time.perf_counter()
        assert claim is not None
        outbox.succeed(claim)
        settled = time.perf_counter()
        assert outbox.claim("bench") is None
        rows.append((claimed - before, settled - claimed, time.perf_counter() - settled))
    claim_ms, settle_ms, idle_ms = (statistics.median(column) * 1000 for column in zip(*rows, strict=True))
    return Round(claim=claim_ms, settle=settle_ms, idle=idle_ms)


def _fill(host: Host, database: str, count: int) -> None:
    """Copy one job that really ran, with its attempt, as often as wanted; in the server."""
    host.add_silently(0)
    claim = host.engine.outbox.claim("bench")
    assert claim is not None
    host.engine.outbox.succeed(claim)
    new = {"id", "asset_id", "job_id"}
    with host.app.app_context(), host.db.engine.begin() as connection:
        for table in (Job.__table__, ProcessingRun.__table__):
            _copy(connection, database, table, new, count)
    analyze(host.url)


def _copy(connection: Connection, database: str, table: Table, new: set[str], count: int) -> None:
    def quoted(column: Column[object]) -> str:
        return connection.dialect.identifier_preparer.quote(column.name)

    columns = list(table.columns)
    values = [_ID[database] if column.name in new else f"model.{quoted(column)}" for column in columns]
    series = _SERIES[database].format(count=count)
    connection.execute(
        text(
            f"INSERT INTO {table.name} ({', '.join(map(quoted, columns))})"  # noqa: S608 - names of ours
            f" SELECT {', '.join(values)} FROM {table.name} AS model, ({series}) AS series"
        )
    )
