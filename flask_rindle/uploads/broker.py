"""Upload sessions: open, sign, receive, complete, cancel.

Every verb reads and claims in one short transaction, talks to the storage with none open, and
records in another.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session

from flask_rindle import policy, signals
from flask_rindle.arrivals import Arrival, Arrivals
from flask_rindle.errors import (
    LostRace,
    MalformedRequest,
    NotFound,
    ObjectNotFound,
    RejectedUpload,
    RindleError,
    SessionClosed,
    TicketUsed,
    TooLarge,
    UploadGone,
    UploadIncomplete,
    UploadUnsupported,
)
from flask_rindle.lifecycle import move
from flask_rindle.models.asset import Asset
from flask_rindle.models.database import Database, insert_unless_taken, on_commit
from flask_rindle.models.states import SESSION_OVER, AssetState, SessionState, Strategy
from flask_rindle.models.upload import UploadSession
from flask_rindle.outbox import JobKind, Outbox
from flask_rindle.profiles import Profile, ProfileRegistry
from flask_rindle.security.mime import extension_for, kind_of
from flask_rindle.security.names import incoming_key, sealed_key
from flask_rindle.sessions import Sessions
from flask_rindle.storage.base import (
    LinksThroughApp,
    PresignedUpload,
    PresignsPut,
    PutTerms,
    ResumableState,
    Storage,
    StoredObject,
    UploadsParts,
    UploadsResumably,
    require,
)
from flask_rindle.types import Checksum, Clock, new_id
from flask_rindle.uploads.announcement import Announcement
from flask_rindle.uploads.answers import Completion, ResumableStatus
from flask_rindle.uploads.multipart import Multipart, NamedPart, choose_part_bytes
from flask_rindle.uploads.resumable import Resumable
from flask_rindle.uploads.strategies import SEALED, best_strategy, require_strategy
from flask_rindle.uploads.tickets import Ticket

_SHORTEST_URL = timedelta(seconds=1)


class UploadBroker:
    """The one way to upload: sessions own the bytes until the pipeline takes them over."""

    def __init__(
        self,
        *,
        profiles: ProfileRegistry,
        storages: Mapping[str, Storage],
        database: Database,
        outbox: Outbox,
        sessions: Sessions,
        arrivals: Arrivals,
        multipart: Multipart,
        resumable: Resumable,
        clock: Clock,
        session_ttl: timedelta,
        url_ttl: timedelta,
    ) -> None:
        self._profiles = profiles
        self._storages = storages
        self._database = database
        self._outbox = outbox
        self._sessions = sessions
        self._arrivals = arrivals
        self.multipart = multipart
        self.resumable = resumable
        self._clock = clock
        self._session_ttl = session_ttl
        self._url_ttl = url_ttl

    def open(self, ticket: Ticket, announced: Announcement, *, strategy: Strategy | None = None) -> UploadSession:
        """Reserve an asset and a session. Raises what the policy refuses, and TicketUsed."""
        profile = self._profiles.get(ticket.profile)
        policy.check_declared(
            profile,
            filename=announced.filename,
            content_type=announced.content_type,
            byte_size=announced.byte_size,
        )
        storage = self._storages[profile.storage]
        chosen = strategy or best_strategy(storage, announced.byte_size)
        road = self._road(storage, chosen, announced.byte_size)
        with self._database.transaction() as db_session:
            asset = self._stage_asset(db_session, profile, announced)
            values = self._session_values(ticket, announced, asset, chosen) | road
            values["upload_key"] = self._upload_key(values["id"], asset, announced, chosen)
            session = self._reserve(db_session, ticket, values)
            self._outbox.add(db_session, JobKind.EXPIRE, asset.id, not_before=session.expires_at)
            on_commit(db_session, lambda: signals.upload_start.send(profile.name, session_id=session.id))
            return session

    def _road(self, storage: Storage, strategy: Strategy, size_bytes: int | None) -> dict[str, Any]:
        """What the road adds to the session; what it cannot take is refused before there is one."""
        require_strategy(storage, strategy)
        if strategy not in (Strategy.PRESIGNED_PUT, Strategy.MULTIPART):
            return {}
        if size_bytes is None:
            raise MalformedRequest("byte_size", "must be given, so that the upload can be held to it")
        if strategy is Strategy.MULTIPART:
            return {"part_bytes": choose_part_bytes(size_bytes, require(storage, UploadsParts).part_limits)}
        limit = require(storage, PresignsPut).largest_put_bytes
        if limit is not None and size_bytes > limit:
            raise TooLarge(limit, size_bytes)
        return {}

    def begin(self, session_id: uuid.UUID, *, origin: str | None = None) -> UploadSession:
        """Make the storage ready for an upload in parts, or one that it can resume. Safe to call twice.

        `origin`: the page that will send the bytes, as browsers name it.
        """
        session = self.live(session_id)
        public = self._profiles.get(session.profile).public
        if session.strategy == Strategy.MULTIPART:
            self.multipart.begin(session, public=public)
        elif session.strategy == Strategy.RESUMABLE:
            self.resumable.begin(session, public=public, origin=origin)
        return self.live(session_id)

    def sign_parts(self, session_id: uuid.UUID, numbers: Sequence[int]) -> list[PresignedUpload]:
        """A URL for each of these parts. Raises MalformedRequest, SessionClosed, UploadUnsupported."""
        return self.multipart.sign(self.live(session_id), numbers)

    def look(self, session_id: uuid.UUID) -> tuple[UploadSession, Arrival]:
        """The session and what its storage has of it; more bytes than last time give it its whole time again.

        Raises SessionClosed, also when the storage lost the upload, and TooLarge.
        """
        session = self.live(session_id)
        arrival = self._arrivals.look(session)
        if arrival.received_bytes > (session.received_bytes or 0):
            self._prolong(session, arrival)
        if arrival.state is ResumableState.EXPIRED:
            self.fail(session_id, UploadGone(session.storage, session.upload_key))
            session, _ = self.find(session_id)  # another request may have completed it, and its bytes moved on
            if session.state != SessionState.COMPLETED:
                raise SessionClosed(session.state)
        return session, arrival

    def _prolong(self, session: UploadSession, arrival: Arrival) -> None:
        limit = self._profiles.get(session.profile).max_bytes
        if limit is not None and arrival.received_bytes > limit:
            error = TooLarge(limit, arrival.received_bytes)
            self.fail(session.id, error)
            raise error
        with self._database.transaction() as db_session:
            self._sessions.prolong(db_session, session, received_bytes=arrival.received_bytes)

    def _stage_asset(self, db_session: Session, profile: type[Profile], announced: Announcement) -> Asset:
        now = self._clock()
        asset = Asset(
            id=new_id(),
            profile=profile.name,
            storage=profile.storage,
            kind=kind_of(announced.content_type),
            filename=announced.filename,
            created_at=now,
            updated_at=now,
        )
        db_session.add(asset)
        db_session.flush()
        return asset

    def _session_values(
        self, ticket: Ticket, announced: Announcement, asset: Asset, strategy: Strategy
    ) -> dict[str, Any]:
        session_id, now, owner = new_id(), self._clock(), ticket.owner
        return {
            "id": session_id,
            "asset_id": asset.id,
            "profile": asset.profile,
            "storage": asset.storage,
            "strategy": strategy.value,
            "filename": announced.filename,
            "content_type": announced.content_type,
            "declared_bytes": announced.byte_size,
            "checksum": None if announced.checksum is None else str(announced.checksum),
            "ticket_id": ticket.id,
            "actor": ticket.actor,
            "owner_type": None if owner is None else owner.type,
            "owner_id": None if owner is None else owner.id,
            "slot": ticket.slot,
            "append": ticket.append,
            "expires_at": now + self._session_ttl,
            "created_at": now,
            "updated_at": now,
        }

    def _upload_key(self, session_id: uuid.UUID, asset: Asset, announced: Announcement, strategy: Strategy) -> str:
        # Where everybody may read, nothing lies under a key of its own before it has passed the gate.
        if strategy in SEALED and not self._profiles.get(asset.profile).public:
            return sealed_key(asset.profile, asset.id, extension_for(announced.content_type))
        return incoming_key(session_id)

    def _reserve(self, db_session: Session, ticket: Ticket, values: Mapping[str, Any]) -> UploadSession:
        """The session at the first free place of its ticket; TicketUsed when there is none."""
        taken = set(db_session.scalars(select(UploadSession.ticket_place).filter_by(ticket_id=ticket.id)))
        for place in (place for place in range(ticket.max_files) if place not in taken):
            if insert_unless_taken(db_session, UploadSession, {**values, "ticket_place": place}):
                return db_session.get_one(UploadSession, values["id"])
        raise TicketUsed(ticket.max_files)

    def find(self, session_id: uuid.UUID) -> tuple[UploadSession, Asset | None]:
        """The session as the server knows it, and its asset while there is one. Raises NotFound."""
        with self._database.reading() as db_session:
            return self._load(db_session, session_id)

    def find_repeat(self, ticket: Ticket, announced: Announcement, *, is_whole: bool = False) -> UploadSession | None:
        """The live or completed session that this very file was announced in with this ticket before.

        `is_whole`: the caller has all the bytes, so one will do that was announced without a checksum and has none.
        """
        checksum = None if announced.checksum is None else str(announced.checksum)
        same = UploadSession.checksum.is_not_distinct_from(checksum)
        if is_whole:
            same = or_(same, and_(UploadSession.checksum.is_(None), UploadSession.state != SessionState.COMPLETED))
        query = select(UploadSession).where(
            UploadSession.ticket_id == ticket.id,
            UploadSession.ticket_place.is_not(None),
            UploadSession.filename == announced.filename,
            UploadSession.content_type == announced.content_type,
            UploadSession.declared_bytes == announced.byte_size,
            same,
        )
        with self._database.reading() as db_session:
            return db_session.scalars(query.order_by(UploadSession.created_at.desc())).first()

    def give_up(self, session_id: uuid.UUID) -> None:
        """End a session whose bytes stopped coming, for another that brings them anew; quiet when it is over."""
        with self._database.transaction() as db_session:
            session, asset = self._load(db_session, session_id)
            if session.state not in SESSION_OVER:
                values: dict[str, Any] = {"error_code": "superseded", "error_detail": "The file was sent again."}
                self._sessions.abandon(db_session, session, asset, SessionState.FAILED, **values)

    def sign(self, session_id: uuid.UUID) -> PresignedUpload:
        """A URL to PUT the bytes at; asking again gives a fresh one. Raises UploadUnsupported, SessionClosed."""
        session = self.live(session_id)
        if session.strategy != Strategy.PRESIGNED_PUT:
            raise UploadUnsupported(f"upload {session.id}", PresignsPut.capability)
        presigner = require(self._storages[session.storage], PresignsPut, UploadUnsupported)
        if session.declared_bytes is None:
            raise MalformedRequest("byte_size", "must be given when the upload is opened")
        life = min(self._url_ttl, session.expires_at - self._clock())
        if life < _SHORTEST_URL:
            raise SessionClosed(SessionState.EXPIRED)
        # Noted before there is a URL: whoever ends the session has to know until when bytes may come.
        self._note_signed(session_id, None if isinstance(presigner, LinksThroughApp) else self._clock() + life)
        terms = PutTerms(
            expires_in=life,
            content_type=session.content_type,
            size_bytes=session.declared_bytes,
            checksum=None if session.checksum is None else Checksum.parse(session.checksum),
        )
        return presigner.presign_put(session.upload_key, terms)

    def _note_signed(self, session_id: uuid.UUID, writable_until: datetime | None) -> None:
        """`writable_until`: None where the app itself refuses late writers."""
        with self._database.transaction() as db_session:
            session, _ = self._hold(db_session, session_id)
            if session.state in SESSION_OVER:
                raise SessionClosed(session.state)
            if session.state == SessionState.INITIALIZED:
                move(db_session, session, SessionState.SIGNED, now=self._clock())
            if writable_until is not None:
                session.writable_until = writable_until

    def resumable_status(self, session_id: uuid.UUID) -> ResumableStatus:
        """How far a resumable upload is; one that is all there is completed by this. Raises UploadUnsupported."""
        session, _ = self.find(session_id)
        if session.strategy != Strategy.RESUMABLE:
            raise UploadUnsupported(f"upload {session.id}", UploadsResumably.capability)
        if session.state in SESSION_OVER and session.state != SessionState.COMPLETED:
            return ResumableStatus(session=session, committed_bytes=0, state=ResumableState.EXPIRED)
        if session.state == SessionState.COMPLETED:
            return _all_there(session)
        try:
            session, arrival = self.look(session_id)
        except SessionClosed:
            return self.resumable_status(session_id)
        if arrival.state is ResumableState.COMPLETE or session.state == SessionState.COMPLETED:
            return _all_there(self.complete(session_id).session)
        return ResumableStatus(session=session, committed_bytes=arrival.received_bytes, state=arrival.state)

    def complete(self, session_id: uuid.UUID, parts: Sequence[NamedPart] | None = None) -> Completion:
        """Make sure that the bytes are there, and hand the asset to the pipeline. Safe to call twice.

        `parts`: what a client that was told etags believes to have sent; None believes the storage.
        Raises UploadIncomplete, SessionClosed, and what the policy refuses.
        """
        done = self._already_complete(session_id)
        if done is not None:
            return done
        try:
            session = self.live(session_id)
            if session.strategy == Strategy.MULTIPART:
                self._assemble(session, parts)
            return self._complete(session)
        except (LostRace, SessionClosed, UploadIncomplete):
            # Somebody else may have completed it meanwhile, and the pipeline may have moved the bytes on.
            done = self._already_complete(session_id)
            if done is None:
                raise
            return done

    def _assemble(self, session: UploadSession, parts: Sequence[NamedPart] | None) -> None:
        try:
            self.multipart.assemble(session, parts)
        except UploadGone as error:
            self.fail(session.id, error)
            raise SessionClosed(SessionState.FAILED) from error

    def _complete(self, session: UploadSession) -> Completion:
        stored = self._stat(session)
        try:
            profile = self._profiles.get(session.profile)
            policy.check_stored(profile, declared_bytes=session.declared_bytes, stored_bytes=stored.size_bytes)
        except RejectedUpload as error:
            self.fail(session.id, error)
            raise
        return self._record_completion(session.id, stored)

    def cancel(self, session_id: uuid.UUID) -> None:
        """End the session and remove what has arrived; quiet when it is cancelled already."""
        with self._database.transaction() as db_session:
            session, asset = self._hold(db_session, session_id)
            if session.state in SESSION_OVER and session.state != SessionState.ABORTED:
                raise SessionClosed(session.state)
            self._sessions.abandon(db_session, session, asset, SessionState.ABORTED)

    def _stat(self, session: UploadSession) -> StoredObject:
        try:
            return self._storages[session.storage].stat(session.upload_key)
        except ObjectNotFound as error:
            raise UploadIncomplete from error

    def _already_complete(self, session_id: uuid.UUID) -> Completion | None:
        session, asset = self.find(session_id)
        if session.state != SessionState.COMPLETED:
            return None
        if asset is None:
            raise NotFound("asset", session.asset_id)
        return Completion(session, asset)

    def _record_completion(self, session_id: uuid.UUID, stored: StoredObject) -> Completion:
        now = self._clock()
        with self._database.transaction() as db_session:
            session, asset = self._hold(db_session, session_id)
            if session.state in SESSION_OVER or asset is None:
                raise LostRace("upload_session", session_id)
            move(db_session, session, SessionState.VERIFYING, now=now)
            move(
                db_session,
                session,
                SessionState.COMPLETED,
                now=now,
                verified_at=now,
                etag=stored.etag,
                received_bytes=stored.size_bytes,
                session_uri=None,
            )
            move(db_session, asset, AssetState.VALIDATING, now=now, byte_size=stored.size_bytes)
            if session.writable_until is None:
                self._outbox.forget(db_session, asset.id, JobKind.EXPIRE)
            self._outbox.add(db_session, JobKind.PROMOTE, asset.id)
            facts: dict[str, Any] = {"session_id": session.id, "asset_id": asset.id}
            on_commit(db_session, partial(signals.upload_stop.send, session.profile, **facts))
            return Completion(session, asset)

    def live(self, session_id: uuid.UUID) -> UploadSession:
        """The session, if it can still go on; one whose time is over ends here. Raises NotFound, SessionClosed."""
        session, _ = self.find(session_id)
        if session.state not in SESSION_OVER and self._is_expired(session):
            self._expire_or_prolong(session)
            session, _ = self.find(session_id)
        self.require_live(session)
        return session

    def require_live(self, session: UploadSession) -> None:
        """Nothing, or SessionClosed for a session that is over or out of time."""
        if session.state in SESSION_OVER:
            raise SessionClosed(session.state)
        if self._is_expired(session):
            raise SessionClosed(SessionState.EXPIRED)

    def _is_expired(self, session: UploadSession) -> bool:
        return self._clock() >= session.expires_at

    def _expire_or_prolong(self, session: UploadSession) -> None:
        """Somebody asks, so bytes that are there count; where there are none, the time is over."""
        if session.strategy in SEALED and self._arrivals.look(session).received_bytes:
            with self._database.transaction() as db_session:
                self._sessions.prolong(db_session, session)
        late = UploadSession.expires_at <= self._clock()
        with suppress(LostRace), self._database.transaction() as db_session:
            fresh, asset = self._hold(db_session, session.id)
            if fresh.state not in SESSION_OVER:
                self._sessions.abandon(db_session, fresh, asset, SessionState.EXPIRED, only_if=late)

    def fail(self, session_id: uuid.UUID, error: BaseException) -> None:
        """End a session that ran into trouble, and say which; quiet when it is over."""
        code = error.code if isinstance(error, RindleError) else "connection_lost"
        detail = error.public_message if isinstance(error, RindleError) else "The connection broke off."
        with self._database.transaction() as db_session:
            session, asset = self._hold(db_session, session_id)
            if session.state not in SESSION_OVER:
                values: dict[str, Any] = {"error_code": code, "error_detail": detail}
                self._sessions.abandon(db_session, session, asset, SessionState.FAILED, **values)

    def _hold(self, db_session: Session, session_id: uuid.UUID) -> tuple[UploadSession, Asset | None]:
        """As it is now, until the caller's commit: no other request can move it meanwhile."""
        db_session.get(UploadSession, session_id, with_for_update=True)
        return self._load(db_session, session_id)

    def _load(self, db_session: Session, session_id: uuid.UUID) -> tuple[UploadSession, Asset | None]:
        session = db_session.get(UploadSession, session_id)
        if session is None:
            raise NotFound("upload", session_id)
        asset = None if session.asset_id is None else db_session.get(Asset, session.asset_id)
        return session, asset


def _all_there(session: UploadSession) -> ResumableStatus:
    return ResumableStatus(session=session, committed_bytes=session.received_bytes or 0, state=ResumableState.COMPLETE)
