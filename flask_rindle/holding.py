"""Files and folders that somebody is at, told from those whose somebody died.

Whoever is at one holds a lock on it, which the system lets go of when the process ends, however it ends. A
filesystem without locks shows nothing, and then nothing is taken for abandoned.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def hold(descriptor: int, *, shared: bool = False) -> None:
    """Show that somebody is at this file or folder, as long as the descriptor is open.

    Exclusively only what is new, which nobody holds but who tidies up, for a moment. Of what has a name that others
    know, one holder is as good as another, so `shared` does not wait.
    """
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB if shared else fcntl.LOCK_EX)


def is_still(path: str | Path, descriptor: int) -> bool:
    """Whether what is open is what has this name."""
    try:
        return os.path.samestat(Path(path).stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def remove_abandoned(path: Path) -> bool:
    """Remove a file, or a folder with all that is in it, that nobody holds; whether it is gone by this."""
    with _locked(path) as is_free:
        if is_free and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif is_free:
            with suppress(OSError):
                path.unlink()
    return is_free and not os.path.lexists(path)


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        yield False
        return
    try:
        yield _can_lock(descriptor)
    finally:
        os.close(descriptor)


def _can_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
