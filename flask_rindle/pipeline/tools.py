"""What the steps of the pipeline work with."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from flask_rindle.arrivals import Arrivals
from flask_rindle.attachments import Attachments
from flask_rindle.errors import MediaUnsupported
from flask_rindle.holding import hold, is_still
from flask_rindle.models.database import Database
from flask_rindle.outbox import Outbox
from flask_rindle.processing.base import Probe, Processor
from flask_rindle.profiles import ProfileRegistry
from flask_rindle.recipes.base import Recipe
from flask_rindle.sessions import Sessions
from flask_rindle.storage.base import Storage
from flask_rindle.types import Clock

RUN_PREFIX = "rindle-run-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """Everything a step may use; each thing is a port."""

    profiles: ProfileRegistry
    storages: Mapping[str, Storage]
    database: Database
    outbox: Outbox
    attachments: Attachments
    sessions: Sessions
    arrivals: Arrivals
    probe: Probe
    processors: Sequence[Processor]
    clock: Clock
    tmp_dir: Path | None

    def processor_for(self, recipe: Recipe) -> Processor:
        """The processor that makes this recipe; MediaUnsupported when none does."""
        for processor in self.processors:
            if processor.accepts(recipe):
                return processor
        raise MediaUnsupported(recipe.content_type)

    @contextmanager
    def run_dir(self) -> Iterator[Path]:
        """A private directory for one run, removed with everything in it; by others if this process dies."""
        path, descriptor = self._new_dir()
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            os.close(descriptor)

    def _new_dir(self) -> tuple[Path, int]:
        while True:
            path = Path(tempfile.mkdtemp(prefix=RUN_PREFIX, dir=self.tmp_dir))
            with suppress(FileNotFoundError):
                descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
                hold(descriptor)
                if is_still(path, descriptor):
                    return path, descriptor
                os.close(descriptor)  # somebody tidied up between the two steps
