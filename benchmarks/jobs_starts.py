"""How jobs say that they have started: sixteen bytes into a FIFO, the same for every way and cheap to write."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import time
from collections.abc import Callable, Collection
from pathlib import Path

_RECORD = struct.Struct("=qq")
_PIPE_BYTES = 1 << 20  # room for 65,536 starts, so that no job ever waits for the reader
_F_SETPIPE_SZ = 1031
PATIENCE_SECONDS = 120.0


class TooSlow(Exception):
    """No job started for two minutes."""


class Starts:
    """The reader's end."""

    def __init__(self, path: Path, check: Callable[[], None]) -> None:
        """`check` raises when there is nobody left who could start a job."""
        self.path = path
        self._check = check
        os.mkfifo(path)
        self._pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)  # a writer too, so that it never ends
        fcntl.fcntl(self._pipe, _F_SETPIPE_SZ, _PIPE_BYTES)

    def wait_for(self, number: int) -> int:
        """When this job started, on the monotonic clock in nanoseconds. Sleeps until then."""
        ends = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < ends:
            self._check()
            if select.select([self._pipe], [], [], 1.0)[0]:
                found = [moment for told, moment in self._read() if told == number]
                if found:
                    return found[0]
        raise TooSlow

    def collect(self, numbers: Collection[int]) -> list[int]:
        """When these jobs started, in order. Looks now and then only, so as to take no time from them."""
        missing, moments = set(numbers), list[int]()
        last = time.monotonic()
        while missing:
            told = self._read()
            moments += [moment for number, moment in told if number in missing]
            missing.difference_update(number for number, _ in told)
            last = time.monotonic() if told else last
            if time.monotonic() - last > PATIENCE_SECONDS:
                raise TooSlow
            self._check()
            time.sleep(0.02)
        return sorted(moments)

    def close(self) -> None:
        os.close(self._pipe)
        self.path.unlink()

    def _read(self) -> list[tuple[int, int]]:
        try:
            return list(_RECORD.iter_unpack(os.read(self._pipe, _PIPE_BYTES)))
        except BlockingIOError:
            return []


def reporter(path: str) -> Callable[[int], None]:
    """The body of every no-op job: `report(number)` says that it has started."""
    pipe = os.open(path, os.O_WRONLY)

    def report(number: int) -> None:
        os.write(pipe, _RECORD.pack(number, time.monotonic_ns()))

    return report
