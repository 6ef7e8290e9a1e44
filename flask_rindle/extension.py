"""`Rindle`: declared once, given to any number of apps."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any, BinaryIO, TypedDict, Unpack

from flask import Flask, has_app_context, has_request_context, request
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Engine as SqlEngine
from sqlalchemy.orm import Session

from flask_rindle import signals
from flask_rindle.attachments import OwnerKey
from flask_rindle.cli import group
from flask_rindle.engine import Engine, Host, StorageFactory, build_engine, build_parts, current_engine
from flask_rindle.errors import ConfigurationError, MalformedRequest, RindleError, UnknownName
from flask_rindle.models import Asset, Attachment, UploadSession, Variant, metadata
from flask_rindle.models.base import PLAIN_DATETIME, UTCDateTime
from flask_rindle.models.database import DEFAULT_BUSY_TIMEOUT_SECONDS
from flask_rindle.models.states import Strategy, VariantState
from flask_rindle.profiles import Profile
from flask_rindle.readiness import Feed
from flask_rindle.security.origins import is_origin
from flask_rindle.settings import find_problems, read_settings, read_storages
from flask_rindle.slots import asset_id_of, host_session, ticket_for
from flask_rindle.storage.base import PresignedUpload, Storage, StoredObject
from flask_rindle.templating import RindleTemplates, events_token
from flask_rindle.types import Checksum, Clock, Disposition, life, parse_id, utcnow
from flask_rindle.uploads.announcement import Announcement
from flask_rindle.uploads.answers import Completion, MultipartUpload, ResumableStatus, ResumableUpload
from flask_rindle.uploads.multipart import parse_parts
from flask_rindle.uploads.strategies import best_strategy
from flask_rindle.web import make_blueprint

AssetLike = Asset | uuid.UUID | str
SessionLike = UploadSession | uuid.UUID | str


class FileToCome(TypedDict, total=False):
    """What is known of a file before its bytes come, and where it belongs."""

    filename: str | None
    content_type: str | None
    byte_size: int | None
    checksum: str | Checksum | None
    owner: object
    slot: str | None
    actor: str | None


class Rindle:
    """The extension. Holds nothing of an app; each app has an engine of its own."""

    def __init__(self, app: Flask | None = None, db: SQLAlchemy | None = None, **options: Any) -> None:
        """Declare the extension; with an app, set it up at once as `init_app` does."""
        self._factories: dict[str, StorageFactory] = {}
        if app is not None:
            if db is None:
                raise ConfigurationError(["Rindle(app) needs the database; write Rindle(app, db, profiles=[...])"])
            self.init_app(app, db, **options)

    @property
    def version(self) -> str:
        """The version of the package."""
        return package_version("flask-rindle")

    @property
    def engine(self) -> Engine:
        """The current app's engine. Raises ConfigurationError outside an app that has one."""
        return current_engine()

    def register_storage(self, name: str, factory: StorageFactory) -> None:
        """Make a backend available to RINDLE_STORAGES: `factory(name, **options)` gives the storage."""
        self._factories[name] = factory

    def on(self, event: str, fn: Callable[..., object]) -> Callable[..., object]:
        """Call `fn(sender, **facts)` after each commit that the event tells of, such as `asset.state_change`."""
        name = event if event.startswith("rindle.") else f"rindle.{event}"
        if name not in signals.ALL:
            raise UnknownName("event", event, signals.ALL)
        signals.ALL[name].connect(fn, weak=False)
        return fn

    def init_app(
        self,
        app: Flask,
        db: SQLAlchemy,
        *,
        profiles: Sequence[type[Profile]] = (),
        owners: Mapping[str, type] | None = None,
        actor: Callable[[], str | None] | None = None,
        clock: Clock = utcnow,
    ) -> None:
        """Set the app up. Raises one ConfigurationError with every mistake in it.

        `owners`: the host's model classes by names that stay. `actor`: names who is asking, as
        text, or None; tickets are made out to it and authorizers are asked about it.
        """
        if "rindle" in app.extensions:
            raise ConfigurationError([f"the app {app.name!r} has a Rindle already; call init_app once"])
        owners = {} if owners is None else owners
        given: Any = profiles
        profiles = list(given) if isinstance(given, Iterable) else [given]
        storages = read_storages(app.config, app.instance_path)
        parts = build_parts(
            storages,
            jobs=app.config.get("RINDLE_JOBS"),
            events_url=app.config.get("RINDLE_EVENTS_URL"),
            url_ttl=app.config.get("RINDLE_SIGNED_URL_TTL"),
            profiles=profiles,
            owners=owners,
            factories=self._factories,
        )
        problems = [*find_problems(app.config), *_find_database_problems(app, db), *parts.problems]
        if problems:
            raise ConfigurationError(problems)
        settings = read_settings(app.config, app.instance_path)
        host = _host(app, db, actor or (lambda: None))
        app.extensions["rindle"] = build_engine(settings, host, parts, profiles=profiles, owners=owners, clock=clock)
        _share_tables(db)
        _add_faces(app)

    # Uploads

    def upload_ticket(
        self,
        profile: type[Profile] | str,
        *,
        owner: object = None,
        slot: str | None = None,
        actor: str | None = None,
        max_files: int = 1,
        expires_in: int = 3600,
    ) -> str:
        """A ticket for upload routes; its holder may upload. `expires_in` in seconds."""
        engine = self.engine
        declared = engine.profiles.get(profile)
        ticket = ticket_for(engine, declared, owner=owner, slot=slot, actor=actor, max_files=max_files)
        return engine.tickets.issue(ticket, expires_in=life("expires_in", expires_in))

    def initiate_upload(self, profile: type[Profile] | str, **file: Unpack[FileToCome]) -> UploadSession:
        """Open a session for one file. Raises what the profile refuses."""
        return self._open(profile, file)

    def sign_upload(self, session: SessionLike) -> PresignedUpload:
        """A URL to PUT the bytes at. Raises UploadUnsupported, SessionClosed, NotFound."""
        return self.engine.uploads.sign(_session_id(session))

    def verify_completion(self, session: SessionLike) -> Completion:
        """Make sure that the bytes are there, and hand the asset to the pipeline. Safe to call twice."""
        return self.engine.uploads.complete(_session_id(session))

    verify_upload = verify_completion

    def cancel_upload(self, session: SessionLike) -> None:
        """End the session and remove what has arrived. Raises SessionClosed when it was completed."""
        self.engine.uploads.cancel(_session_id(session))

    def initiate_multipart_upload(self, profile: type[Profile] | str, **file: Unpack[FileToCome]) -> MultipartUpload:
        """Open a session for one file that comes in parts, each to a URL of its own; `byte_size` must be given.

        Raises UploadUnsupported, and what the profile refuses.
        """
        session = self._begin(self._open(profile, file, Strategy.MULTIPART))
        return MultipartUpload.of(session)

    def sign_multipart_part(self, session: SessionLike, number: int) -> PresignedUpload:
        """A URL to PUT one part at; numbers begin with 1. Raises UploadUnsupported, SessionClosed, MalformedRequest."""
        (signed,) = self.engine.uploads.sign_parts(_session_id(session), [number])
        return signed

    def complete_multipart_upload(self, session: SessionLike, parts: Iterable[object] | None = None) -> Completion:
        """Have the parts put together, and hand the asset to the pipeline. Safe to call twice.

        `parts`: numbers and etags, as `(1, "…")` or `{"number": 1, "etag": "…"}`; None takes the storage's word.
        Raises UploadIncomplete with the numbers that are missing.
        """
        named = None if parts is None else parse_parts(parts)
        return self.engine.uploads.complete(_session_id(session), named)

    def initiate_resumable_session(
        self, profile: type[Profile] | str, *, origin: str | None = None, **file: Unpack[FileToCome]
    ) -> ResumableUpload:
        """Open a session for one file that the storage itself can resume.

        `origin`: the page that will send the bytes, such as `https://example.org`. Raises UploadUnsupported.
        """
        if origin is not None and not is_origin(origin):
            raise MalformedRequest("origin", "must be written https://example.org, as browsers name a page")
        session = self._begin(self._open(profile, file, Strategy.RESUMABLE), origin=origin)
        return ResumableUpload.of(session, self.engine.uploads.resumable.uri(session))

    def resumable_session_status(self, session: SessionLike) -> ResumableStatus:
        """How far a resumable upload is, in its storage's words; one that is all there is completed by this."""
        return self.engine.uploads.resumable_status(_session_id(session))

    def cancel_resumable_session(self, session: SessionLike) -> None:
        """End the session, at the storage too. Raises SessionClosed when it was completed."""
        self.engine.uploads.cancel(_session_id(session))

    def upload(
        self,
        profile: type[Profile] | str,
        file: BinaryIO,
        *,
        filename: str | None = None,
        content_type: str | None = None,
        owner: object = None,
        slot: str | None = None,
        actor: str | None = None,
    ) -> Asset:
        """Take a file that the app holds, through the same gate as every other. Streams it.

        `file`: anything with `read`; its own `filename` and `mimetype` are used if none are given.
        """
        engine = self.engine
        declared = engine.profiles.get(profile)
        ticket = ticket_for(engine, declared, owner=owner, slot=slot, actor=actor)
        announced = Announcement.of(
            filename or getattr(file, "filename", None), content_type or getattr(file, "mimetype", None), None, None
        )
        session = engine.uploads.open(ticket, announced, strategy=Strategy.FORM)
        return engine.proxied.receive(session.id, file).asset

    def events_token(self, *topics: str, expires_in: int = 3600) -> str:
        """A token for the event stream; topics are written `asset:<id>`. `expires_in` in seconds."""
        assets = [asset_id_of(topic.removeprefix("asset:")) for topic in topics]
        return events_token(self.engine, assets, expires_in=life("expires_in", expires_in))

    # Attachments

    def attach(
        self, asset: AssetLike, owner: object, slot: str, *, position: int = 0, db_session: Session | None = None
    ) -> Attachment:
        """Put an asset in an owner's slot, in `db.session` or the given one; the host commits.

        What stood there is purged after that commit, unless somebody else shows it.
        """
        engine, session = self._join(db_session)
        key = engine.owners.key(owner)
        return engine.attachments.attach(session, asset_id_of(asset), key, slot, position=position)

    def detach(
        self, owner: object, slot: str, *, position: int | None = None, db_session: Session | None = None
    ) -> None:
        """Empty an owner's slot, or one place of it; quiet when it is empty. The host commits."""
        engine, session = self._join(db_session)
        engine.attachments.detach(session, engine.owners.key(owner), slot, position=position)

    def attachment_for(self, owner: object, slot: str, *, db_session: Session | None = None) -> Attachment | None:
        """The first attachment in a slot, with asset and variants; None when it is empty."""
        engine, session = self._join(db_session)
        key = engine.owners.key(owner)
        return next(iter(engine.attachments.find(session, [key], [slot])[key][slot]), None)

    def attachments_for(
        self, owners: Iterable[object], *slots: str, db_session: Session | None = None
    ) -> dict[OwnerKey, dict[str, list[Attachment]]]:
        """The attachments of many owners by owner and slot, in three statements whatever their number."""
        engine, session = self._join(db_session)
        return engine.attachments.find(session, [engine.owners.key(owner) for owner in owners], slots)

    def owner_key(self, owner: object) -> OwnerKey:
        """How rows name this owner; the key of what `attachments_for` gives."""
        return self.engine.owners.key(owner)

    def ready_variants_for(self, asset: AssetLike) -> list[Variant]:
        """The variants that can be delivered, by name in order."""
        found = self.engine.feed.asset(asset_id_of(asset))
        return [variant for variant in found.variants if variant.state == VariantState.READY]

    # Delivery

    def url(
        self,
        asset_or_profile: AssetLike | type[Profile],
        key: str | None = None,
        *,
        actor: object = None,
        expires_in: int | None = None,
        disposition: Disposition = "inline",
        filename: str | None = None,
    ) -> str:
        """Where the original is, or the object under a key of a profile's storage. `expires_in` in seconds.

        Raises NotAuthorized, NotDeliverable, DeliveryUnsupported.
        """
        engine = self.engine
        who = engine.host.actor() if actor is None else actor
        lasts = None if expires_in is None else life("expires_in", expires_in)
        if isinstance(asset_or_profile, type):
            if not isinstance(key, str):
                raise MalformedRequest("key", "must be given with a profile, as text")
            profile = engine.profiles.get(asset_or_profile)
            return engine.delivery.key_url(
                profile, key, actor=who, expires_in=lasts, disposition=disposition, filename=filename
            )
        asset = _loaded(engine.feed, asset_or_profile)
        engine.delivery.authorize(asset, who)
        return engine.delivery.original_url(asset, expires_in=lasts, disposition=disposition, filename=filename)

    def variant_url(
        self,
        asset: AssetLike,
        name: str,
        *,
        fallback: str | None = "original",
        actor: object = None,
        expires_in: int | None = None,
    ) -> str:
        """Where a variant is; until it is ready the original, or NotDeliverable with `fallback=None`."""
        engine = self.engine
        lasts = None if expires_in is None else life("expires_in", expires_in)
        found = engine.feed.asset(asset_id_of(asset))
        engine.delivery.authorize(found, engine.host.actor() if actor is None else actor, variant=name)
        ready = engine.delivery.ready_variant(found, name)
        if ready is not None:
            return engine.delivery.variant_url(found, ready, expires_in=lasts)
        return engine.delivery.fallback_url(found, name, fallback, expires_in=lasts)

    # Objects under bare keys: no row is written, and nothing is checked against the profile

    def storage_for(self, profile: type[Profile] | str) -> Storage:
        """The storage that new uploads of a profile go to."""
        return self.engine.objects.storage_for(profile)

    def store(
        self, profile: type[Profile] | str, key: str, file: BinaryIO, *, content_type: str | None = None
    ) -> StoredObject:
        """Store everything that `file` gives under a key of the profile's storage, replacing what was there."""
        return self.engine.objects.store(profile, key, file, content_type=content_type)

    def store_variant(
        self,
        profile: type[Profile] | str,
        key: str,
        file: BinaryIO,
        *,
        asset: AssetLike,
        name: str,
        content_type: str | None = None,
    ) -> StoredObject:
        """As `store`, for a derivative that the host makes itself; a failure is logged with asset and name."""
        return self.engine.objects.store_variant(
            profile, key, file, asset=asset_id_of(asset), name=name, content_type=content_type
        )

    def download(self, profile: type[Profile] | str, key: str, path: str | Path) -> StoredObject:
        """Write an object into a new file at `path`, and tell which version it was. Raises ObjectNotFound."""
        return self.engine.objects.download(profile, key, Path(path))

    def head(self, profile: type[Profile] | str, key: str) -> StoredObject:
        """Size in bytes, etag and type of an object. Raises ObjectNotFound."""
        return self.engine.objects.head(profile, key)

    def delete(self, profile: type[Profile] | str, key: str) -> None:
        """Remove an object; no error when there is none."""
        self.engine.objects.delete(profile, key)

    def presigned_put(
        self,
        profile: type[Profile] | str,
        key: str,
        *,
        byte_size: int,
        content_type: str | None = None,
        checksum: str | Checksum | None = None,
        expires_in: int | None = None,
    ) -> PresignedUpload:
        """A URL to PUT just these bytes at; `expires_in` in seconds. Raises UploadUnsupported, MalformedRequest."""
        return self.engine.objects.presigned_put(
            profile, key, byte_size=byte_size, content_type=content_type, checksum=checksum, expires_in=expires_in
        )

    # Repair

    def cancel_processing(self, asset: AssetLike) -> list[str]:
        """Call off every variant that is not made yet, also one that is being made; their names. Raises NotFound."""
        return self.engine.repair.cancel_processing(asset_id_of(asset))

    def requeue_variants(self, asset: AssetLike, variant_names: Collection[str] | None = None) -> list[str]:
        """Have variants made again: what failed or was cancelled, or what is named and not as it should be.

        The names of those that will be. Raises NotFound, UnknownName, NotDeliverable.
        """
        return self.engine.repair.requeue_variants(asset_id_of(asset), variant_names)

    def _open(self, profile: type[Profile] | str, file: FileToCome, strategy: Strategy | None = None) -> UploadSession:
        engine = self.engine
        strategy = strategy or best_strategy(self.storage_for(profile), size_bytes=None)
        declared = engine.profiles.get(profile)
        ticket = ticket_for(engine, declared, owner=file.get("owner"), slot=file.get("slot"), actor=file.get("actor"))
        announced = Announcement.of(
            file.get("filename"), file.get("content_type"), file.get("byte_size"), file.get("checksum")
        )
        return engine.uploads.open(ticket, announced, strategy=strategy)

    def _begin(self, session: UploadSession, *, origin: str | None = None) -> UploadSession:
        uploads = self.engine.uploads
        try:
            return uploads.begin(session.id, origin=origin)
        except RindleError as error:
            uploads.fail(session.id, error)
            raise

    def _join(self, db_session: Session | None) -> tuple[Engine, Session]:
        return self.engine, host_session() if db_session is None else db_session


def _session_id(session: SessionLike) -> uuid.UUID:
    found = session.id if isinstance(session, UploadSession) else parse_id(session)
    if found is None:
        raise UnknownName("upload", session, ())
    return found


def _loaded(feed: Feed, asset: AssetLike) -> Asset:
    return asset if isinstance(asset, Asset) else feed.asset(asset_id_of(asset))


def _host(app: Flask, db: SQLAlchemy, actor: Callable[[], str | None]) -> Host:
    def sql_engine() -> SqlEngine:
        with app.app_context():
            return db.engine

    def session() -> Session | None:
        if not has_app_context() or not db.session.registry.has():
            return None
        return db.session()

    def base_path() -> str:
        root = request.script_root if has_request_context() else app.config["APPLICATION_ROOT"]
        return f"{root.rstrip('/')}{app.config.get('RINDLE_URL_PREFIX', '/rindle').rstrip('/')}"

    @contextmanager
    def context() -> Iterator[object]:
        with app.app_context() as pushed:
            yield pushed

    arguments = (app.config.get("SQLALCHEMY_ENGINE_OPTIONS") or {}).get("connect_args") or {}
    timeout = arguments.get("timeout", DEFAULT_BUSY_TIMEOUT_SECONDS)
    return Host(
        sql_engine=sql_engine,
        session=session,
        context=context,
        base_path=base_path,
        actor=actor,
        busy_timeout_seconds=timeout if isinstance(timeout, (int, float)) else DEFAULT_BUSY_TIMEOUT_SECONDS,
    )


def _find_database_problems(app: Flask, db: SQLAlchemy) -> list[str]:
    if app.extensions.get("sqlalchemy") is not db:
        return ["this db belongs to another app; call db.init_app(app) before rindle.init_app(app, db)"]
    with app.app_context():
        url = db.engine.url
    in_memory = url.get_backend_name() == "sqlite" and (
        url.database in (None, "", ":memory:") or "mode=memory" in str(url)
    )
    if in_memory:
        return [
            "SQLite in memory has one connection for all, so background work would see and commit your open "
            "transactions; write SQLALCHEMY_DATABASE_URI = 'sqlite:///app.db', in tests a file in a temporary folder"
        ]
    return []


def _share_tables(db: SQLAlchemy) -> None:
    """Show our tables to `db.create_all()`, to Flask-Migrate and to the host's foreign keys."""
    for table in metadata.sorted_tables:
        if table.name not in db.metadata.tables:
            for column in table.to_metadata(db.metadata).columns:
                if isinstance(column.type, UTCDateTime):
                    column.type = PLAIN_DATETIME


def _add_faces(app: Flask) -> None:
    engine: Engine = app.extensions["rindle"]
    blueprint = make_blueprint(engine.settings.url_prefix)
    app.register_blueprint(blueprint)
    app.cli.add_command(group)
    app.jinja_env.globals["rindle_templates"] = RindleTemplates()
    app.before_request(engine.jobs.start)
    if "csrf" in app.extensions:
        # A ticket cannot be forged and is good for one purpose; the form needs no second token.
        app.extensions["csrf"].exempt(blueprint)
