"""Uploads in parts: each part has a URL of its own, and the storage knows which have come."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from flask_rindle.errors import (
    MalformedRequest,
    ObjectNotFound,
    PartsRefused,
    SessionClosed,
    StorageError,
    TooLarge,
    UploadGone,
    UploadIncomplete,
    UploadUnsupported,
)
from flask_rindle.lifecycle import move
from flask_rindle.models.database import Database
from flask_rindle.models.states import SESSION_OVER, SessionState, Strategy
from flask_rindle.models.upload import UploadSession
from flask_rindle.sessions import Sessions
from flask_rindle.storage.base import (
    Part,
    PartLimits,
    PresignedUpload,
    Storage,
    UploadsParts,
    UploadTerms,
    require,
)
from flask_rindle.types import MB, Clock

log = logging.getLogger("flask_rindle.uploads")

PART_BYTES = 8 * MB
MOST_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class NamedPart:
    """A part as a client names it, who was told its etag."""

    number: int
    etag: str

    @classmethod
    def parse(cls, raw: object) -> NamedPart:
        """From `{"number": 1, "etag": "…"}` or `(1, "…")`. Raises MalformedRequest."""
        if isinstance(raw, Mapping):
            raw = (raw.get("number", raw.get("part_number")), raw.get("etag"))
        match raw:
            case (int(number), str(etag)) if not isinstance(number, bool) and number > 0 and etag.strip('" '):
                return cls(number, etag.strip('" '))
        raise MalformedRequest("parts", 'must be a list of {"number": 1, "etag": "…"}, numbered from 1')


def parse_parts(raw: object) -> list[NamedPart]:
    """The parts that a client names, in the order of their numbers. Raises MalformedRequest."""
    if isinstance(raw, (str, bytes, Mapping)) or not isinstance(raw, Iterable):
        raise MalformedRequest("parts", "must be a list")
    parts = sorted((NamedPart.parse(each) for each in raw), key=lambda part: part.number)
    if len({part.number for part in parts}) != len(parts):
        raise MalformedRequest("parts", "name a number twice")
    return parts


def choose_part_bytes(size_bytes: int, limits: PartLimits) -> int:
    """How large the parts of an upload are; all but the last are equal. Raises TooLarge."""
    if size_bytes > limits.largest_object_bytes:
        raise TooLarge(limits.largest_object_bytes, size_bytes)
    least = max(PART_BYTES, limits.smallest_bytes, -(-size_bytes // limits.most))
    part_bytes = -(-least // MB) * MB
    if part_bytes > limits.largest_bytes:
        raise TooLarge(limits.largest_bytes * limits.most, size_bytes)
    return part_bytes


@dataclass(frozen=True, slots=True)
class Layout:
    """How an upload is cut."""

    size_bytes: int
    part_bytes: int

    @classmethod
    def of(cls, session: UploadSession) -> Layout:
        """The layout of a session that comes in parts. Raises UploadUnsupported for another."""
        if session.strategy != Strategy.MULTIPART or session.part_bytes is None or session.declared_bytes is None:
            raise UploadUnsupported(f"upload {session.id}", UploadsParts.capability)
        return cls(session.declared_bytes, session.part_bytes)

    @property
    def count(self) -> int:
        return -(-self.size_bytes // self.part_bytes)

    def size_of(self, number: int) -> int:
        """How many bytes part `number` has; 0 for one that does not exist."""
        start = (number - 1) * self.part_bytes
        return max(min(self.part_bytes, self.size_bytes - start), 0) if number > 0 else 0


class Multipart:
    """The road of uploads in parts. Takes sessions that the broker has found to be live."""

    def __init__(
        self,
        storages: Mapping[str, Storage],
        database: Database,
        clock: Clock,
        sessions: Sessions,
        *,
        url_ttl: timedelta,
    ) -> None:
        self._storages = storages
        self._database = database
        self._clock = clock
        self._sessions = sessions
        self._url_ttl = url_ttl

    def begin(self, session: UploadSession, *, public: bool) -> None:
        """Open the upload at the storage, once for a session. Raises SessionClosed when it ended meanwhile."""
        if session.multipart_upload_id is not None:
            return
        terms = UploadTerms(content_type=session.content_type, size_bytes=Layout.of(session).size_bytes, public=public)
        storage = self._storage_of(session)
        upload_id = storage.start_parts(session.upload_key, terms)
        kept = False
        try:
            kept = self._note(session, upload_id)
        finally:
            if not kept:
                self._drop(session, storage, upload_id)

    def _drop(self, session: UploadSession, storage: UploadsParts, upload_id: str) -> None:
        """Remove an upload that nobody will use; what cannot be removed now goes with the session."""
        try:
            storage.abort_parts(session.upload_key, upload_id)
        except StorageError as error:
            log.warning("a spare upload of session %s was not removed: %s", session.id, error)

    def _note(self, session: UploadSession, upload_id: str) -> bool:
        """Keep the id; False when another request was faster. Raises SessionClosed."""
        with self._database.transaction() as db_session:
            fresh = db_session.get_one(UploadSession, session.id, with_for_update=True)
            if fresh.state in SESSION_OVER:
                raise SessionClosed(fresh.state)
            if fresh.multipart_upload_id is not None:
                return False
            fresh.multipart_upload_id = upload_id
            return True

    def sign(self, session: UploadSession, numbers: Sequence[int]) -> list[PresignedUpload]:
        """A URL for each of these parts, that takes a part of just its size; asking again gives fresh ones.

        The session lives on from now. Raises MalformedRequest, SessionClosed, UploadUnsupported.
        """
        layout = Layout.of(session)
        wanted = _checked(numbers, layout)
        if session.multipart_upload_id is None:
            raise UploadIncomplete
        storage, upload_id = self._storage_of(session), session.multipart_upload_id
        self._prolong(session)
        return [
            storage.presign_part(
                session.upload_key, upload_id, number, size_bytes=layout.size_of(number), expires_in=self._url_ttl
            )
            for number in wanted
        ]

    def _prolong(self, session: UploadSession) -> None:
        """The sender is at it, so the session has its whole time before it again."""
        with self._database.transaction() as db_session:
            fresh = db_session.get_one(UploadSession, session.id, with_for_update=True)
            if fresh.state in SESSION_OVER:
                raise SessionClosed(fresh.state)
            if fresh.state == SessionState.INITIALIZED:
                move(db_session, fresh, SessionState.SIGNED, now=self._clock())
            self._sessions.prolong(db_session, fresh)

    def assemble(self, session: UploadSession, named: Sequence[NamedPart] | None) -> None:
        """Have the storage put the object together from its parts; quiet when that was done already.

        `named`: the parts that the client believes to have sent, or None. Raises UploadIncomplete with the
        numbers that are missing, UploadGone, and MalformedRequest when an etag is not the storage's.
        """
        layout = Layout.of(session)
        if session.multipart_upload_id is None:
            raise UploadIncomplete
        storage, upload_id = self._storage_of(session), session.multipart_upload_id
        try:
            there = storage.list_parts(session.upload_key, upload_id)
            parts = [part for part in there if layout.size_of(part.number)]
            _require_whole(layout, parts)
            if named is not None:
                _require_same(named, parts)
            storage.complete_parts(session.upload_key, upload_id, parts)
        except PartsRefused as error:
            raise UploadIncomplete from error
        except UploadGone:
            # Put together by another request, or gone: the object shows which.
            if not _stands(self._storages[session.storage], session.upload_key):
                raise

    def _storage_of(self, session: UploadSession) -> UploadsParts:
        return require(self._storages[session.storage], UploadsParts, UploadUnsupported)


def _stands(storage: Storage, key: str) -> bool:
    try:
        storage.stat(key)
    except ObjectNotFound:
        return False
    return True


def _checked(numbers: Sequence[int], layout: Layout) -> list[int]:
    whole = all(type(number) is int and 1 <= number <= layout.count for number in numbers)
    if not whole or not 1 <= len(numbers) <= MOST_AT_ONCE or len(set(numbers)) != len(numbers):
        raise MalformedRequest("numbers", f"must be 1 to {MOST_AT_ONCE} different numbers from 1 to {layout.count}")
    return list(numbers)


def _require_whole(layout: Layout, parts: Iterable[Part]) -> None:
    there = {part.number for part in parts if part.size_bytes == layout.size_of(part.number)}
    missing = [number for number in range(1, layout.count + 1) if number not in there]
    if missing:
        raise UploadIncomplete(missing)


def _require_same(named: Sequence[NamedPart], parts: Sequence[Part]) -> None:
    if [(part.number, part.etag) for part in named] != [(part.number, part.etag.strip('" ')) for part in parts]:
        raise MalformedRequest("parts", "are not those that the storage has; look at the upload, or leave them out")
