"""Leftovers: what processes that died left on disks and in storages, and nothing that anybody is at."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from flask_rindle.holding import remove_abandoned
from flask_rindle.pipeline.tools import RUN_PREFIX
from flask_rindle.storage.base import Storage

log = logging.getLogger("flask_rindle.ops")


class Leftovers:
    """Removes them. Safe to do at any time, by any number of processes."""

    def __init__(self, storages: Mapping[str, Storage], tmp_dir: Path | None) -> None:
        self._storages = storages
        self._tmp_dir = tmp_dir

    def remove(self) -> int:
        """Remove half-written objects and the folders of runs; how many pieces that were."""
        return sum(map(_tidy, self._storages.values())) + sum(map(remove_abandoned, self._runs()))

    def _runs(self) -> list[Path]:
        folder = tempfile.gettempdir() if self._tmp_dir is None else self._tmp_dir
        try:
            return [
                Path(entry)
                for entry in os.scandir(folder)
                if entry.name.startswith(RUN_PREFIX)
                and entry.is_dir(follow_symlinks=False)
                and entry.stat(follow_symlinks=False).st_uid == os.getuid()
            ]
        except OSError:  # the folder is gone, and with it what was left in it
            return []


def _tidy(storage: Storage) -> int:
    try:
        return storage.tidy()
    except Exception:
        log.exception("storage %r could not be tidied; trying again at the next sweep", storage.name)
        return 0
