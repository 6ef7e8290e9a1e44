"""The memory of a worker over many jobs. Flat is what does not grow from the first quarter to the last."""

from __future__ import annotations

import re
import statistics
from pathlib import Path

from jobs_ground import Ground
from jobs_rindle import Worker

_STEP = 1000


def watch_memory(*, jobs: int, concurrency: int) -> None:
    samples: list[float] = []
    with Ground() as ground:
        worker = Worker(ground, "notify", concurrency)
        try:
            worker.start()
            for first in range(0, jobs, _STEP):
                numbers = range(first, min(first + _STEP, jobs))
                worker.host.add(*numbers)
                ground.starts.collect(numbers)
                samples.append(_resident_mb(worker.pid))
        finally:
            worker.stop()
    quarter = max(len(samples) // 4, 1)
    print(f"\nMemory of `flask rindle worker`, {concurrency} threads, over {jobs:,} jobs, in MB")
    print(f"first quarter {statistics.median(samples[:quarter]):.1f}, last {statistics.median(samples[-quarter:]):.1f}")
    if len(samples) > 1:
        slope = statistics.linear_regression(range(len(samples)), samples).slope
        print(f"{slope * 10_000 / _STEP:+.2f} for every 10,000 jobs; at the end {samples[-1]:.1f}")


def _resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024
