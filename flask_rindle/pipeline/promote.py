"""Promotion: look at the bytes, and either give them their final key or refuse them.

The only place where an asset becomes `available`. Trouble of the storage or of the child process
is retried; only a verdict on the content quarantines.
"""

from __future__ import annotations

import uuid
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from flask_rindle import policy
from flask_rindle.attachments import OwnerKey
from flask_rindle.errors import (
    ContentChanged,
    ObjectChanged,
    ObjectNotFound,
    RejectedUpload,
    UploadIncomplete,
)
from flask_rindle.lifecycle import move, roll_up
from flask_rindle.models.asset import Asset, Variant
from flask_rindle.models.states import AssetState, VariantState
from flask_rindle.models.upload import UploadSession
from flask_rindle.outbox import Claim, JobKind, variants_queue
from flask_rindle.pipeline.tools import Tools
from flask_rindle.processing.base import MediaFacts, Stop
from flask_rindle.security.mime import extension_for
from flask_rindle.security.names import is_staged, original_key
from flask_rindle.storage.base import Promotes, StoredObject, require
from flask_rindle.types import Checksum, new_id


class Promotion:
    """The step of `JobKind.PROMOTE`."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    def run(self, claim: Claim, stop: Stop) -> None:
        """Bring an asset from `validating` to `available`, or to `quarantined` with its reason."""
        found = self._load(claim.asset_id)
        if found is None:
            return
        asset, session = found
        try:
            if asset.state != AssetState.PROMOTING:
                self._judge(asset, session, stop)
            self._publish(asset, session, self._give_final_key(asset, session))
        except RejectedUpload as refusal:
            self._quarantine(asset, session, refusal)

    def give_up(self, claim: Claim, error: Exception) -> None:
        """Nothing is decided about the content: the asset stays where it is, for an operator."""

    def _load(self, asset_id: uuid.UUID) -> tuple[Asset, UploadSession] | None:
        with self._tools.database.transaction() as db_session:
            asset = db_session.get(Asset, asset_id)
            session = db_session.scalars(select(UploadSession).filter_by(asset_id=asset_id)).first()
            if asset is None or session is None:
                return None
            if asset.state == AssetState.VALIDATING:
                move(db_session, asset, AssetState.ANALYZING, now=self._tools.clock())
            return (asset, session) if asset.state in (AssetState.ANALYZING, AssetState.PROMOTING) else None

    def _judge(self, asset: Asset, session: UploadSession, stop: Stop) -> None:
        profile = self._tools.profiles.get(asset.profile)
        with self._tools.run_dir() as directory:
            path = directory / "source"
            stored = self._fetch(session, path)
            facts = self._tools.probe.probe(
                path, allow_mime=profile.allow_mime, max_pixels=profile.max_pixels, stop=stop
            )
            policy.check_content(
                profile,
                path=path,
                filename=session.filename,
                facts=facts,
                checksum=None if session.checksum is None else Checksum.parse(session.checksum),
            )
        self._record_facts(asset, facts, self._final_key(asset, session, stored, facts))

    def _fetch(self, session: UploadSession, path: Path) -> StoredObject:
        try:
            stored = self._tools.storages[session.storage].save_to(session.upload_key, path)
        except ObjectNotFound as error:
            raise UploadIncomplete from error
        if stored.etag != session.etag:
            raise ContentChanged
        return stored

    def _final_key(self, asset: Asset, session: UploadSession, stored: StoredObject, facts: MediaFacts) -> str:
        """Where the bytes are already, if nobody can write there any more and they are served as what they are."""
        if not is_staged(session.upload_key) and stored.content_type == facts.content_type:
            return session.upload_key
        return original_key(asset.profile, asset.id, extension_for(facts.content_type))

    def _record_facts(self, asset: Asset, facts: MediaFacts, final_key: str) -> None:
        with self._tools.database.transaction() as db_session:
            move(
                db_session,
                asset,
                AssetState.PROMOTING,
                now=self._tools.clock(),
                kind=facts.kind,
                content_type=facts.content_type,
                width=facts.width,
                height=facts.height,
                frames=facts.frames,
                thumbhash=facts.thumbhash,
                storage_key=final_key,
            )

    def _give_final_key(self, asset: Asset, session: UploadSession) -> StoredObject:
        if asset.storage_key == session.upload_key:
            return self._stay(session)
        storage = require(self._tools.storages[asset.storage], Promotes)
        try:
            return storage.promote(
                session.upload_key,
                str(asset.storage_key),
                etag=str(session.etag),
                content_type=asset.content_type,
                public=self._tools.profiles.get(asset.profile).public,
            )
        except ObjectChanged as error:
            raise ContentChanged from error
        except ObjectNotFound as error:
            raise UploadIncomplete from error

    def _stay(self, session: UploadSession) -> StoredObject:
        try:
            stored = self._tools.storages[session.storage].stat(session.upload_key)
        except ObjectNotFound as error:
            raise UploadIncomplete from error
        if stored.etag != session.etag:
            raise ContentChanged
        return stored

    def _publish(self, asset: Asset, session: UploadSession, stored: StoredObject) -> None:
        now = self._tools.clock()
        with self._tools.database.transaction() as db_session:
            move(db_session, asset, AssetState.AVAILABLE, now=now, etag=stored.etag, byte_size=stored.size_bytes)
            self._plan_variants(db_session, asset)
            self._attach(db_session, asset, session)
            roll_up(db_session, asset.id, now=now)

    def _plan_variants(self, db_session: Session, asset: Asset) -> None:
        now = self._tools.clock()
        planned = self._tools.profiles.get(asset.profile).planned_for(asset.kind)
        for name, recipe in planned.items():
            variant = Variant(
                id=new_id(),
                asset_id=asset.id,
                name=name,
                recipe_digest=recipe.digest,
                storage=asset.storage,
                created_at=now,
                updated_at=now,
            )
            db_session.add(variant)
            db_session.flush()
            move(db_session, variant, VariantState.QUEUED, now=now)
        if planned:
            queue = variants_queue(asset.kind)
            self._tools.outbox.add(db_session, JobKind.VARIANTS, asset.id, queue=queue)

    def _attach(self, db_session: Session, asset: Asset, session: UploadSession) -> None:
        if session.owner_type is None or session.owner_id is None or session.slot is None:
            return
        owner = OwnerKey(session.owner_type, session.owner_id)
        if session.append:
            self._tools.attachments.append(db_session, asset.id, owner, session.slot)
            return
        self._tools.attachments.attach(db_session, asset.id, owner, session.slot)
        # A slot holds one asset however often it is replaced, so the same form may replace it again.
        _free_place(db_session, session)

    def _quarantine(self, asset: Asset, session: UploadSession, refusal: RejectedUpload) -> None:
        """Keep the verdict, give the ticket's place back, and let the purge remove the bytes.

        Raises LostRace when the asset has moved on since it was loaded: a worker that took over may have
        promoted the bytes, so that they are missing where we looked.
        """
        now = self._tools.clock()
        with self._tools.database.transaction() as db_session:
            move(
                db_session,
                asset,
                AssetState.QUARANTINED,
                now=now,
                storage_key=None,
                error_code=refusal.code,
                error_detail=refusal.public_message,
            )
            _free_place(db_session, session)
            self._tools.outbox.add(db_session, JobKind.PURGE, asset.id)


def _free_place(db_session: Session, session: UploadSession) -> None:
    """Let the session's ticket be used for another file."""
    db_session.get_one(UploadSession, session.id).ticket_place = None
