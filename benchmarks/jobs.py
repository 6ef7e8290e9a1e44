"""Jobs: how many in a second and how soon after the commit, beside Celery and Procrastinate in the same run;
what a claim costs in a table with a million finished rows; and the memory of a worker over 50,000 jobs.

The ways are taken in turn, round by round, and compared within a round, so that a machine whose speed drifts
does not decide; a wide range says that it was noisy. All ways run the same number of jobs at a time: Celery in
prefork processes, Procrastinate in its loop, flask-rindle in threads. Needs PostgreSQL, MariaDB, Redis and
RabbitMQ on this machine (BENCH_POSTGRESQL, BENCH_MARIADB, BENCH_REDIS and BENCH_RABBITMQ name others, and
rabbitmqctl makes a virtual host), and `pip install -e ".[test,bench]"`.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version

from jobs_celery import BareCelery
from jobs_claim import compare_claims
from jobs_ground import Ground
from jobs_memory import watch_memory
from jobs_print import spread
from jobs_procrastinate import Procrastinate
from jobs_rindle import Embedded, ThroughCelery, Worker
from jobs_ways import Figures, Way, measure

WAYS: Mapping[str, Callable[[Ground, int], Way]] = {
    "celery-redis": lambda ground, slots: BareCelery(ground, "redis", slots),
    "celery-rabbitmq": lambda ground, slots: BareCelery(ground, "rabbitmq", slots),
    "procrastinate": lambda ground, slots: Procrastinate(ground, "async", slots),
    "procrastinate-sync": lambda ground, slots: Procrastinate(ground, "sync", slots),
    "embedded-sqlite": lambda ground, slots: Embedded(ground, "sqlite", slots),
    "embedded-postgresql": lambda ground, slots: Embedded(ground, "postgresql", slots),
    "worker-notify": lambda ground, slots: Worker(ground, "notify", slots),
    "worker-redis": lambda ground, slots: Worker(ground, "redis", slots),
    "backend-redis": lambda ground, slots: ThroughCelery(ground, "redis", slots),
    "backend-rabbitmq": lambda ground, slots: ThroughCelery(ground, "rabbitmq", slots),
}
PEERS = {
    "embedded-sqlite": "procrastinate",
    "embedded-postgresql": "procrastinate",
    "worker-notify": "procrastinate",
    "worker-redis": "procrastinate",
    "backend-redis": "celery-redis",
    "backend-rabbitmq": "celery-rabbitmq",
}
CLAIMS = {f"claim-{database}": database for database in ("postgresql", "sqlite", "mariadb")}
MEMORY = "memory"
FIELDS = ("per_second", "p50", "p99", "p50_in_all")


def compare_ways(names: Sequence[str], slots: int, *, rounds: int, jobs: int, lights: int) -> None:
    results: dict[str, list[Figures]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            results[name].append(_measure(WAYS[name], slots, jobs, lights))
            print(".", end="", file=sys.stderr, flush=True)
    print(f"\n\n{slots} at a time: {rounds} rounds of {jobs} queued jobs, then {lights} single ones; median (range)")
    print(f"{'':20}{'jobs/s':>26}{'p50 ms':>26}{'p99 ms':>26}{'p50 in all ms':>26}")
    for name, rows in results.items():
        print(f"{name:20}" + "".join(f"{spread([getattr(row, field) for row in rows]):>26}" for field in FIELDS))
    compared = [name for name in names if PEERS.get(name) in results]
    if compared:
        print("\nAgainst the peer, within a round")
        print(f"{'':40}{'jobs/s, ratio':>26}{'p50, ratio':>26}{'p50, ms more':>26}{'p99, ms more':>26}")
    for name in compared:
        _print_against(name, results[name], results[PEERS[name]])


def _measure(way: Callable[[Ground, int], Way], slots: int, jobs: int, lights: int) -> Figures:
    with Ground() as ground:
        return measure(way(ground, slots), ground.starts, jobs=jobs, lights=lights)


def _print_against(name: str, ours: Sequence[Figures], theirs: Sequence[Figures]) -> None:
    pairs = list(zip(ours, theirs, strict=True))
    columns = (
        [mine.per_second / peer.per_second for mine, peer in pairs],
        [mine.p50 / peer.p50 for mine, peer in pairs],
        [mine.p50 - peer.p50 for mine, peer in pairs],
        [mine.p99 - peer.p99 for mine, peer in pairs],
    )
    print(f"{name + ' / ' + PEERS[name]:40}" + "".join(f"{spread(column):>26}" for column in columns))


def _options() -> argparse.Namespace:
    names = (*WAYS, *CLAIMS, MEMORY)
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n", maxsplit=1)[0], epilog=f"The names: {', '.join(names)}."
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="what has this in its name; may be given several times"
    )
    parser.add_argument("--at-a-time", type=int, action="append", metavar="N", help="jobs at a time; 1, then 2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2000, help="jobs of a drain")
    parser.add_argument("--lights", type=int, default=300, help="single jobs under light load")
    parser.add_argument("--finished", type=int, default=1_000_000, help="finished rows beside a claim")
    parser.add_argument("--memory-jobs", type=int, default=50_000, help="jobs while a worker's memory is watched")
    given = parser.parse_args()
    given.names = [name for name in names if given.only is None or any(part in name for part in given.only)]
    if not given.names:
        parser.error(f"there is no such name; there are {', '.join(names)}")
    if given.quick:
        for option in ("jobs", "lights", "finished", "memory_jobs"):
            setattr(given, option, max(getattr(given, option) // 10, 1))
        given.rounds = min(given.rounds, 2)
    return given


def main() -> None:
    given = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that all is given back then too
    packages = ", ".join(f"{name} {version(name)}" for name in ("celery", "procrastinate", "SQLAlchemy", "psycopg"))
    load = ", ".join(f"{average:.2f}" for average in os.getloadavg())
    print(f"{platform.machine()}, Python {platform.python_version()}, {os.cpu_count()} cores, load before {load}")
    print(packages, flush=True)
    ways = [name for name in WAYS if name in given.names]
    for slots in (given.at_a_time or (1, 2)) if ways else ():
        compare_ways(ways, slots, rounds=given.rounds, jobs=given.jobs, lights=given.lights)
    for name, database in CLAIMS.items():
        if name in given.names:
            compare_claims(database, finished=given.finished, rounds=given.rounds, claims=30)
    if MEMORY in given.names:
        watch_memory(jobs=given.memory_jobs, concurrency=2)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
