"""The public names as users write them. Only type-checked, never run."""

from __future__ import annotations

import uuid
from io import BytesIO
from typing import assert_type

from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from flask_rindle import GB, MB, Profile, Rindle, attached, attached_many, audio, image, presets, video, waveform
from flask_rindle.delivery import Subject
from flask_rindle.errors import NotAuthorized, RindleError, TooLarge
from flask_rindle.models import Asset, Attachment, UploadSession, Variant
from flask_rindle.slots import Slot
from flask_rindle.storage.base import PresignedUpload, Storage
from flask_rindle.storage.memory import Memory
from flask_rindle.testing.clock import FrozenClock
from flask_rindle.testing.transactions import no_io_in_transaction
from flask_rindle.uploads.answers import Completion


def only_owners(actor: object, action: str, subject: object) -> None:
    if isinstance(subject, Subject) and actor is None:
        raise NotAuthorized(action)


def hear(sender: str, **facts: object) -> None:
    print(sender, facts)


class Avatar(Profile):
    storage = "default"
    allow_mime = {"image/png", "image/jpeg", "image/webp"}  # noqa: RUF012
    allow_extensions = None
    max_bytes = 8 * MB
    max_pixels = 50_000_000
    public = False
    signed_url_ttl = 900
    authorizer = only_owners
    scanners = ()
    variants = {  # noqa: RUF012
        "thumb": image.fit(128, 128),
        "large": image.fit(1024, 1024, format="webp", quality=85),
        "square": image.fill(400, 400, format="avif", gravity="top"),
        "window": image.crop(64, 64),
    }


class Lesson(presets.WebVideo):
    allow_mime = {"video/mp4", "video/quicktime", "video/webm"}  # noqa: RUF012
    max_bytes = 2 * GB
    scrub_strip = True


class Track(Profile):
    variants = {  # noqa: RUF012
        "m4a": audio.m4a_128k(channels=2, normalize=True, two_pass=True),
        "mp3": audio.mp3_128k(),
        "peaks": waveform.overview(),
        "poster": video.poster(),
    }


class User:
    id: int
    avatar = attached("avatar", Avatar)
    gallery = attached_many("gallery", Avatar)


def set_up(app: Flask, db: SQLAlchemy) -> Rindle:
    rindle = Rindle()
    rindle.register_storage("mine", Memory)
    rindle.init_app(app, db, profiles=[Avatar, Lesson], owners={"user": User}, actor=lambda: "ann", clock=FrozenClock())
    rindle.on("asset.state_change", hear)
    return Rindle(app, db, profiles=[Avatar])


def uploads(rindle: Rindle, user: User) -> None:
    assert_type(rindle.version, str)
    assert_type(rindle.upload_ticket(Avatar, owner=user, slot="avatar", max_files=3), str)
    session = rindle.initiate_upload("avatar", filename="a.png", content_type="image/png", byte_size=7)
    assert_type(session, UploadSession)
    assert_type(rindle.sign_upload(session), PresignedUpload)
    assert_type(rindle.verify_completion(session.id), Completion)
    assert_type(rindle.verify_upload(str(session.id)).asset, Asset)
    rindle.cancel_upload(session)
    assert_type(rindle.upload(Avatar, BytesIO(b"x"), filename="a.png", owner=user, slot="avatar"), Asset)
    assert_type(rindle.events_token("asset:1", expires_in=60), str)


def attachments(rindle: Rindle, asset: Asset, user: User) -> None:
    assert_type(rindle.attach(asset, user, "avatar", position=1), Attachment)
    rindle.detach(user, "avatar")
    assert_type(rindle.attachment_for(user, "avatar"), Attachment | None)
    found = rindle.attachments_for([user], "avatar", "gallery")
    assert_type(found[rindle.owner_key(user)]["avatar"], list[Attachment])
    assert_type(rindle.ready_variants_for(uuid.uuid4()), list[Variant])
    assert_type(user.avatar, Slot)
    user.avatar.attach(asset)
    assert_type(user.avatar.url("thumb"), str | None)
    assert_type([shown.id for shown in user.gallery], list[uuid.UUID])


def delivery(rindle: Rindle, asset: Asset) -> None:
    assert_type(rindle.url(asset, expires_in=60, disposition="attachment", filename="a.png"), str)
    assert_type(rindle.url(Avatar, "some/key"), str)
    assert_type(rindle.variant_url(asset, "thumb", fallback=None), str)
    assert_type(rindle.storage_for(Avatar), Storage)


def mistakes(error: RindleError) -> None:
    assert_type(error.code, str)
    assert_type(error.public_message, str)
    if isinstance(error, TooLarge):
        assert_type(error.limit_bytes, int)
    with no_io_in_transaction(Memory):
        pass
