"""Where a process can die: before and after every commit and every side effect, each place with a name.

Nothing in the library knows of this. The commits are heard of from SQLAlchemy, as are the statements that commit
themselves; the side effects by wrapping the ports, and the names are read off the stack:

    promotion: Promotion._publish: after commit
    ~~~~~~~~~  ~~~~~~~~~~~~~~~~~~  ~~~~~~~~~~~~
    phase      function            moment

A function that passes the same moment again in one chapter of the story numbers it: `after put (2)`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from itertools import takewhile
from pathlib import Path
from types import FrameType
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.orm import Session
from sqlalchemy.pool import Pool
from world import World

from flask_rindle.jobs.celery import CeleryJobs
from flask_rindle.jobs.embedded import EmbeddedJobs
from flask_rindle.processing.images import ImageProcessor
from flask_rindle.processing.probes import FileProbe
from flask_rindle.storage.local import Local

PORTS: Mapping[type[Any], tuple[str, ...]] = {
    Local: ("put", "promote", "delete", "save_to"),
    FileProbe: ("probe",),
    ImageProcessor: ("process",),
    EmbeddedJobs: ("send",),
    CeleryJobs: ("send",),
}
# A verb of the storage that changes files in several steps can die between them.
STEPS = {"replace": "rename", "unlink": "unlink"}
STEPWISE = ("Local.put", "Local.promote")
TRANSACTIONS = ("Database.transaction", "Database.reading", "Database.statements")
KINDS = {"promote": "promotion", "expire": "expiry"}
VERBS = {
    "Proxied.receive": "form",
    "UploadBroker.complete": "completion",
    "UploadBroker.cancel": "cancellation",
    "UploadBroker": "upload",
    "Proxied": "upload",
}
PLUMBING = ("models", "storage", "processing", "jobs", "signals")
# These come by the clock on the wall, not by what the story does.
UNTIMELY = ("heartbeat", "Retention")


class Boundaries:
    """Names every passage of this process; dies at the one that `armed` names, or notes them all."""

    def __init__(self, world: World, chapters: Mapping[str, Mapping[str, str]], *, armed: str | None) -> None:
        """`chapters`: for each chapter of the story, which of its phases have a name of their own."""
        self._world = world
        self._chapters = chapters
        self._armed = armed
        self._lock = threading.Lock()
        self._chapter = ""
        self._seen: Counter[str] = Counter()

    def install(self) -> None:
        """Watch this process from now on, for the rest of its life."""
        event.listen(Session, "before_commit", lambda session: self._commit(session, "before"))
        event.listen(Session, "after_commit", lambda session: self._commit(session, "after"))
        event.listen(Engine, "before_cursor_execute", self._before_statement)
        event.listen(Pool, "checkin", lambda *_: self._after_statement())
        for port, verbs in PORTS.items():
            for verb in verbs:
                setattr(port, verb, self._around(getattr(port, verb), verb))
        for step in STEPS:
            setattr(Path, step, self._before_step(getattr(Path, step), STEPS[step]))

    def _commit(self, session: Session, moment: str) -> None:
        if session.in_nested_transaction():
            return
        frames = list(_library_frames())
        if _opened_by(frames) != "Database.reading":
            self._pass(frames, f"{moment} commit")

    def _before_statement(self, connection: Connection, *_rest: object) -> None:
        if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
            self._pass(list(_library_frames()), "before commit")

    def _after_statement(self) -> None:
        """When its connection is given back: only then is it known what a claim has brought."""
        frames = list(_library_frames())
        if _opened_by(frames) == "Database.statements":
            self._pass(frames, "after commit")

    def _around(self, call: Callable[..., Any], verb: str) -> Callable[..., Any]:
        @wraps(call)
        def watched(*args: Any, **kwargs: Any) -> Any:
            frames = list(_library_frames())
            self._pass(frames, f"before {verb}")
            answer = call(*args, **kwargs)
            self._pass(frames, f"after {verb}")
            return answer

        return watched

    def _before_step(self, call: Callable[..., Any], step: str) -> Callable[..., Any]:
        @wraps(call)
        def watched(path: Path, *args: Any, **kwargs: Any) -> Any:
            if sys._getframe(1).f_globals["__name__"] == Local.__module__ and path.exists():
                frames = list(_library_frames())
                verb = next((name for frame in frames if (name := frame.f_code.co_qualname) in STEPWISE), None)
                if verb is not None:
                    self._pass(frames, f"within {verb.partition('.')[2]}, before {step}")
            return call(path, *args, **kwargs)

        return watched

    def _pass(self, frames: list[FrameType], moment: str) -> None:
        function, phase, chapter = _function(frames), _phase(frames), self._world.read("chapter")
        found_nothing = function == "Outbox.claim" and phase == "host"
        if not chapter or found_nothing or any(word in function for word in UNTIMELY):
            return
        name = f"{self._chapters[chapter].get(phase, phase)}: {function}: {moment}"
        with self._lock:
            if chapter != self._chapter:
                self._chapter, self._seen = chapter, Counter()
            self._seen[name] += 1
            if self._seen[name] > 1:
                name = f"{name} ({self._seen[name]})"
            self._reach(name)

    def _reach(self, name: str) -> None:
        if self._armed is None:
            self._world.note("passages", name)
        elif name == self._armed:
            os.kill(os.getpid(), signal.SIGKILL)


def _library_frames() -> Iterator[FrameType]:
    """The stack from the inside out, without what is not the library's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("flask_rindle."):
            yield frame
        frame = frame.f_back


def _opened_by(frames: list[FrameType]) -> str | None:
    return next((name for frame in frames if (name := frame.f_code.co_qualname) in TRANSACTIONS), None)


def _function(frames: list[FrameType]) -> str:
    """Who opened the transaction that ends here, or called the port; of the outbox its verb."""
    names = [(frame.f_globals["__name__"].split(".")[1], frame.f_code.co_qualname) for frame in frames]
    inmost = next((at for at, (_, name) in enumerate(names) if name in TRANSACTIONS), -1)
    callers = [(room, name) for room, name in names[inmost + 1 :] if room not in PLUMBING and not _is_plumbing(name)]
    verbs = [name for _, name in takewhile(lambda caller: caller[0] == "outbox", callers)]
    return [*verbs[-1:], *(name for _, name in callers), "db.session"][0]


def _is_plumbing(name: str) -> bool:
    return "<locals>" in name or name.startswith("_AtEnd")


def _phase(frames: list[FrameType]) -> str:
    """What all this is for: the kind of the job that runs or is being claimed, or the client's verb."""
    for frame in frames:
        job = frame.f_locals.get("claim") or frame.f_locals.get("job")
        if job is not None:
            return KINDS.get(job.kind, str(job.kind))
    names = [frame.f_code.co_qualname for frame in frames]
    return next((phase for verb, phase in VERBS.items() if any(name.startswith(verb) for name in names)), "host")
