"""What every way to run jobs must offer, and how one is measured: a drain, then light load."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from jobs_starts import Starts

# Longer than any way needs to settle the job before, and in step with nothing.
_PAUSES = itertools.cycle([0.013, 0.037, 0.029, 0.017, 0.011, 0.041, 0.019, 0.031, 0.023])
_WARM_UPS = 5


class Way:
    """A producer in this process, and workers wherever they belong. Its ground takes down what it put up."""

    def produce(self, number: int) -> None:
        """Hand in one job; it is committed when this returns."""
        raise NotImplementedError

    def queue(self, numbers: range) -> None:
        """Hand in many while nobody works."""
        for number in numbers:
            self.produce(number)

    def start(self) -> None:
        """Let the workers work."""
        raise NotImplementedError

    def stop(self) -> None:
        """End what runs in this process."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one round of one way gave; times in milliseconds."""

    per_second: float
    p50: float  # from the return of the commit to the start
    p99: float
    p50_in_all: float  # the same with the handing in


def measure(way: Way, starts: Starts, *, jobs: int, lights: int) -> Figures:
    """Drain `jobs` that are queued already, then hand in `lights` one by one."""
    try:
        way.queue(range(jobs))
        way.start()
        moments = starts.collect(range(jobs))
        time.sleep(0.5)
        samples = [_hand_in(way, starts, jobs + number) for number in range(lights + _WARM_UPS)][_WARM_UPS:]
    finally:
        way.stop()
    delays = [started - committed for _, committed, started in samples]
    return Figures(
        per_second=(jobs - 1) / ((moments[-1] - moments[0]) / 1e9),
        p50=percentile(delays, 50) / 1e6,
        p99=percentile(delays, 99) / 1e6,
        p50_in_all=percentile([started - before for before, _, started in samples], 50) / 1e6,
    )


def percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def _hand_in(way: Way, starts: Starts, number: int) -> tuple[int, int, int]:
    time.sleep(next(_PAUSES))
    before = time.monotonic_ns()
    way.produce(number)
    return before, time.monotonic_ns(), starts.wait_for(number)
