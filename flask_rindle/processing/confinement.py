"""What the decoder child takes away from itself before it reads the first request.

Limits are absolute. Namespaces are best effort: many containers forbid them, and the limits, the
empty environment and the wall clock of the parent hold without them.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from contextlib import suppress

MAX_OPEN_FILES = 256

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522


def confine(*, memory_bytes: int, output_bytes: int) -> None:
    """Give up the network, the file system, privileges and most of the machine, for good."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        _leave_the_host(libc)
        _die_with_parent(libc)
    for limit, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, output_bytes),
        (resource.RLIMIT_NOFILE, MAX_OPEN_FILES),
        (resource.RLIMIT_AS, memory_bytes),
    ):
        _lower(limit, value)


def _leave_the_host(libc: ctypes.CDLL) -> None:
    """No network, no files but those handed over, and no look into the parent's memory or environment."""
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET):
        return
    with suppress(OSError):
        os.chroot(".")
    # The new user namespace came with every capability in it; chroot is only a wall without them.
    libc.capset((ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)())


def _die_with_parent(libc: ctypes.CDLL) -> None:
    # The kernel forgets this on every change of credentials, so it comes after them.
    libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def _lower(limit: int, value: int) -> None:
    hard = resource.getrlimit(limit)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    with suppress(OSError, ValueError):  # macOS refuses RLIMIT_AS
        resource.setrlimit(limit, (value, value))


def allow_cpu(seconds: int) -> None:
    """Let the process use so many more seconds of processor time, over all its threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = int(usage.ru_utime + usage.ru_stime) + seconds + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
