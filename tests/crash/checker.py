"""What must be so when everything has been recovered, read from the rows and from the disk alone."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from sqlalchemy import MetaData, create_engine, select, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool
from story import NO_PICTURE, PICTURES, digest
from world import LIVE, USERS, World

from flask_rindle.errors import ObjectNotFound
from flask_rindle.lifecycle import TABLES
from flask_rindle.models import Asset, Attachment, Event, Job, ProcessingRun, UploadSession, Variant
from flask_rindle.models.states import SESSION_OVER
from flask_rindle.storage.local import Local

# Who shows which picture in the end, and what the host's own row says beside it.
SHOWN = {"Ada": "second", "Bob": None, "Carl": "form"}
MOODS = {"Ada": "new", "Bob": "shows nothing", "Carl": "new"}
BEGINNINGS = {"asset": "staged", "variant": "planned", "upload_session": "initialized"}
# A variant whose worker died is made again; all other ways are gone once.
AGAIN = {("variant", "processing", "queued"), ("variant", "queued", "processing")}
# Empty, and no other process knows whether a decoder is at work there.
LEFT_BEHIND = "rindle-decoder-"

TROUBLE = ("ERROR ", "CRITICAL ", "Traceback ", "Exception ", "Fatal ")


def find_faults(world: World) -> list[str]:
    """Everything that is not as it should be in the end, in words; nothing when all is well."""
    return _find(world, Checker.find)


def find_stuck(world: World) -> list[str]:
    """What no job will bring on, when the workers have nothing left to do and the client has not gone on yet."""
    return _find(world, Checker.find_stuck)


def _find(world: World, look: Callable[[Checker], Iterator[str]]) -> list[str]:
    engine = create_engine(world.database_url, poolclass=NullPool)
    with Session(engine) as db_session:
        faults = list(look(Checker(world, Rows.of(db_session))))
    engine.dispose()
    return faults


def dump(world: World) -> dict[str, Any]:
    """All rows and all files, to compare."""
    engine = create_engine(world.database_url, poolclass=NullPool)
    tables = MetaData()
    tables.reflect(engine)
    with engine.connect() as connection:
        rows = {
            table.name: sorted(str(dict(row)) for row in connection.execute(select(table)).mappings())
            for table in tables.sorted_tables
        }
    engine.dispose()
    files = {str(path): (digest(path.read_bytes()), path.stat().st_mtime_ns) for path in _files(world.media)}
    return {"rows": rows, "files": files}


@dataclass
class Rows:
    """What the database holds."""

    assets: list[Asset]
    variants: list[Variant]
    sessions: list[UploadSession]
    attachments: list[Attachment]
    jobs: list[Job]
    runs: list[ProcessingRun]
    events: list[Event]
    moods: dict[str, str] = field(default_factory=dict)
    users: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, db_session: Session) -> Rows:
        models = (Asset, Variant, UploadSession, Attachment, Job, ProcessingRun, Event)
        found: list[Any] = [list(db_session.scalars(select(model).order_by(model.id))) for model in models]
        users = db_session.execute(text("SELECT id, name, mood FROM users")).all()
        return cls(*found, {user.name: user.mood for user in users}, {user.name: str(user.id) for user in users})


class Checker:
    """Looks at one world."""

    def __init__(self, world: World, rows: Rows) -> None:
        self._world = world
        self._rows = rows
        self._storage = Local("default", root=world.media)

    def find(self) -> Iterator[str]:
        yield from self._assets()
        yield from self._variants()
        yield from self._bytes_without_a_row()
        yield from self._sessions()
        yield from self._jobs()
        yield from self._paths()
        yield from self._host()
        yield from self._system()

    def find_stuck(self) -> Iterator[str]:
        """Whatever has begun is over; only an upload whose bytes are still to come may wait for its client."""
        for asset in self._rows.assets:
            if asset.state not in ("staged", "ready", "quarantined"):
                yield f"asset {asset.id} ({asset.filename}) is {asset.state}, and nothing brings it on"
        for variant in self._rows.variants:
            if variant.state != "ready":
                yield f"variant {variant.name} of {variant.asset_id} is {variant.state}, and nothing brings it on"

    def _assets(self) -> Iterator[str]:
        """Every asset is ready and has the bytes that were sent, or was refused and has none."""
        refused = 0
        known = {digest(data) for data in PICTURES.values()}
        for asset in self._rows.assets:
            if asset.state == "quarantined":
                refused += 1
                if asset.storage_key is not None:
                    yield f"asset {asset.id} was refused and names {asset.storage_key}"
            elif asset.state != "ready":
                yield f"asset {asset.id} ({asset.filename}) is {asset.state}"
            else:
                yield from self._object(asset)
                if self._digest(asset.storage_key) not in known:
                    yield f"asset {asset.id} has bytes that nobody sent"
        if refused != 1:
            yield f"{refused} assets were refused, not 1"
        if digest(NO_PICTURE) in {digest(path.read_bytes()) for path in _files(self._world.media)}:
            yield "the bytes that were refused are still there"

    def _variants(self) -> Iterator[str]:
        wanted = {
            (asset.id, name) for asset in self._rows.assets if asset.state == "ready" for name in ("small", "wide")
        }
        found = {(variant.asset_id, variant.name) for variant in self._rows.variants}
        if wanted != found:
            yield f"variants lack {wanted - found}, and have {found - wanted} too many"
        for variant in self._rows.variants:
            if variant.state != "ready":
                yield f"variant {variant.name} of {variant.asset_id} is {variant.state}"
                continue
            yield from self._object(variant)
            with Image.open(self._world.media / str(variant.storage_key)) as picture:
                picture.load()
                if picture.size != (variant.width, variant.height):
                    yield f"variant {variant.name} of {variant.asset_id} is {picture.size}, not what its row says"

    def _object(self, row: Asset | Variant) -> Iterator[str]:
        """No row without its bytes."""
        try:
            stored = self._storage.stat(str(row.storage_key))
        except ObjectNotFound:
            yield f"{row.storage_key} has a row and no bytes"
            return
        if (stored.size_bytes, stored.etag) != (row.byte_size, row.etag):
            yield f"{row.storage_key} is {stored}, and its row says {row.byte_size} bytes and {row.etag}"

    def _digest(self, key: str | None) -> str:
        path = self._world.media / str(key)
        return digest(path.read_bytes()) if path.is_file() else "nothing"

    def _bytes_without_a_row(self) -> Iterator[str]:
        """Also in hidden folders, and under the names of files that are being written."""
        keys = {row.storage_key for row in (*self._rows.assets, *self._rows.variants)}
        for path in _files(self._world.media):
            key = path.relative_to(self._world.media).as_posix()
            if key not in keys:
                yield f"{key} has {path.stat().st_size} bytes and no row"

    def _sessions(self) -> Iterator[str]:
        for session in self._rows.sessions:
            if session.state not in SESSION_OVER:
                yield f"upload {session.id} ({session.filename}) is still {session.state}"

    def _jobs(self) -> Iterator[str]:
        """No job lost, and none done twice: one success each, and nobody is at work."""
        for job in self._rows.jobs:
            if job.state in LIVE or job.state == "failed" or job.live_key is not None or job.lease is not None:
                yield f"job {job.kind} of {job.asset_id} is {job.state} after {job.attempt} attempts: {job.errors}"
        succeeded = Counter(run.job_id for run in self._rows.runs if run.outcome == "succeeded")
        for job in self._rows.jobs:
            if succeeded[job.id] != (job.state == "succeeded"):
                yield f"job {job.kind} of {job.asset_id} is {job.state} and succeeded {succeeded[job.id]} times"
        outcomes = Counter(run.outcome for run in self._rows.runs)
        if outcomes["running"] or outcomes["failed"] or outcomes["lost"] > 1:
            yield f"one process died once, and the attempts ended like this: {dict(outcomes)}"

    def _paths(self) -> Iterator[str]:
        """Every row went a legal way, no part of it twice, and is where its last event says."""
        at: dict[tuple[str, Any], str] = {}
        for event in self._rows.events:
            subject = (event.kind, event.subject_id)
            yield from _illegal(event, at.get(subject, BEGINNINGS[event.kind]))
            at[subject] = event.to_state
        steps = Counter((event.kind, event.subject_id, event.from_state, event.to_state) for event in self._rows.events)
        for (kind, subject_id, *way), times in steps.items():
            if times > 1 and (kind, *way) not in AGAIN:
                yield f"{kind} {subject_id} went from {' to '.join(way)} {times} times"
        rows = {"asset": self._rows.assets, "variant": self._rows.variants, "upload_session": self._rows.sessions}
        for kind, row in ((kind, row) for kind, of_kind in rows.items() for row in of_kind):
            if at.get((kind, row.id)) != row.state:
                yield f"{kind} {row.id} is {row.state}, and its last event says {at.get((kind, row.id))}"

    def _host(self) -> Iterator[str]:
        """The host's rows and the slots tell the same story."""
        if self._rows.moods != MOODS:
            yield f"the host's rows say {self._rows.moods}"
        keys = {asset.id: asset.storage_key for asset in self._rows.assets}
        for name in USERS:
            mine = [row for row in self._rows.attachments if row.owner_id == self._rows.users[name]]
            shown = [self._digest(keys[row.asset_id]) for row in mine]
            picture = SHOWN[name]
            if shown != ([] if picture is None else [digest(PICTURES[picture])]):
                yield f"{name} does not show {picture}: {[row.asset_id for row in mine]}"

    def _system(self) -> Iterator[str]:
        left = [path.name for path in self._world.temp.iterdir() if not path.name.startswith(LEFT_BEHIND)]
        if left:
            yield f"temporary files are left: {left}"
        if processes := sorted(_processes_of(self._world)):
            yield f"processes are left: {processes}"
        log = self._world.read("log")
        if any(line.startswith(TROUBLE) for line in log.splitlines()):
            yield f"the log has more than warnings:\n{log}"


def _illegal(event: Event, before: str) -> Iterator[str]:
    if event.from_state != before:
        yield f"{event.kind} {event.subject_id} went from {event.from_state} when it was {before}"
    if event.to_state not in dict(TABLES.values())[event.kind][event.from_state]:
        yield f"{event.kind} {event.subject_id} went from {event.from_state} to {event.to_state}"


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() or path.is_symlink())


def _processes_of(world: World) -> Iterator[int]:
    """Processes that live in this world's temporary directory, such as decoders."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if str(world.temp).encode() in environment:
                yield int(entry.name)
