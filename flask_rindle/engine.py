"""The engine: everything of one app, built once by `init_app` and frozen."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from flask import current_app
from sqlalchemy import Engine as SqlEngine
from sqlalchemy import inspect
from sqlalchemy.orm import Session

from flask_rindle.arrivals import Arrivals
from flask_rindle.attachments import Attachments, Owners
from flask_rindle.delivery import Delivery
from flask_rindle.errors import ConfigurationError, MissingExtra
from flask_rindle.events.base import Channel, Topic
from flask_rindle.events.memory import ChangeBell, SharedWakeups
from flask_rindle.events.open import open_channel
from flask_rindle.jobs.base import JobBackend
from flask_rindle.jobs.crew import Crew, Workplace
from flask_rindle.jobs.embedded import EmbeddedJobs
from flask_rindle.jobs.inline import InlineJobs
from flask_rindle.links import Links
from flask_rindle.models.database import DEFAULT_BUSY_TIMEOUT_SECONDS, Database
from flask_rindle.objects import Objects
from flask_rindle.ops.leftovers import Leftovers
from flask_rindle.ops.repair import Repair
from flask_rindle.ops.retention import Retention, Sweeper
from flask_rindle.outbox import Outbox
from flask_rindle.pipeline.run import Pipeline
from flask_rindle.pipeline.tools import Tools
from flask_rindle.processing.base import Processor
from flask_rindle.processing.images import ImageProcessor
from flask_rindle.processing.probes import FileProbe
from flask_rindle.processing.sandbox import Sandbox
from flask_rindle.profiles import Profile, ProfileRegistry
from flask_rindle.readiness import Feed
from flask_rindle.security.tokens import Tokens
from flask_rindle.security.vault import Vault
from flask_rindle.sessions import Sessions
from flask_rindle.settings import Settings
from flask_rindle.storage.base import LinksThroughApp, Storage, Storages
from flask_rindle.types import Clock
from flask_rindle.uploads.broker import UploadBroker
from flask_rindle.uploads.multipart import Multipart
from flask_rindle.uploads.proxied import Proxied
from flask_rindle.uploads.resumable import Resumable
from flask_rindle.uploads.tickets import Tickets

StorageFactory = Callable[..., Storage]

MAX_OWNER_CHARACTERS = 64
BACKENDS: Mapping[str, str] = {
    "local": "flask_rindle.storage.local:Local",
    "memory": "flask_rindle.storage.memory:Memory",
    "s3": "flask_rindle.storage.s3:S3",
    "gcs": "flask_rindle.storage.gcs:GCS",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What the engine needs of the app around it."""

    sql_engine: Callable[[], SqlEngine]
    session: Callable[[], Session | None]
    context: Callable[[], AbstractContextManager[object]]
    base_path: Callable[[], str]
    actor: Callable[[], str | None]
    busy_timeout_seconds: float = DEFAULT_BUSY_TIMEOUT_SECONDS


@dataclass(frozen=True, kw_only=True)
class Engine:
    """The services of one app, wired."""

    settings: Settings
    clock: Clock
    host: Host
    profiles: ProfileRegistry
    storages: Mapping[str, Storage]
    owners: Owners
    database: Database
    tokens: Tokens
    links: Links
    tickets: Tickets
    outbox: Outbox
    attachments: Attachments
    uploads: UploadBroker
    proxied: Proxied
    delivery: Delivery
    objects: Objects
    pipeline: Pipeline
    workplace: Workplace
    jobs: JobBackend
    repair: Repair
    retention: Retention
    leftovers: Leftovers
    feed: Feed
    sandbox: Sandbox
    channel: Channel | None

    def close(self) -> None:
        """End the threads, children and connections of this process. Nothing is lost."""
        self.jobs.stop()
        if self.channel is not None:
            self.channel.close()
        self.sandbox.close()
        for storage in self.storages.values():
            storage.close()
        self.database.dispose()


def current_engine() -> Engine:
    """The engine of the current app. Raises ConfigurationError when it has none."""
    engine = current_app.extensions.get("rindle")
    if not isinstance(engine, Engine):
        raise ConfigurationError([f"the app {current_app.name!r} has no Rindle; call rindle.init_app(app, db)"])
    return engine


def build_storages(
    storages: Mapping[str, Mapping[str, Any]], factories: Mapping[str, StorageFactory]
) -> tuple[Storages, list[str]]:
    """The storages that can be built, and what is wrong with the others."""
    built = Storages()
    problems: list[str] = []
    for name, options in storages.items():
        try:
            built[name] = _build_storage(name, options, factories)
        except MissingExtra as error:
            problems += error.problems
        except (ImportError, AttributeError) as error:
            known = ", ".join(sorted({*BACKENDS, *factories}))
            problems.append(f"RINDLE_STORAGES[{name!r}]: {error}; write one of {known}, or package.module:Class")
        except (TypeError, ValueError, OSError) as error:
            problems.append(f"RINDLE_STORAGES[{name!r}]: {error}")
    return built, problems


def _build_storage(name: str, options: Mapping[str, Any], factories: Mapping[str, StorageFactory]) -> Storage:
    rest = dict(options)
    backend = rest.pop("backend")
    if not isinstance(backend, str):
        msg = f"backend={backend!r} is no name"
        raise TypeError(msg)
    if backend in factories:
        return factories[backend](name, **rest)
    module, _, attribute = BACKENDS.get(backend, backend).partition(":")
    if not attribute:
        msg = f"there is no backend {backend!r}"
        raise ImportError(msg)
    storage = getattr(importlib.import_module(module), attribute)(name, **rest)
    if not isinstance(storage, Storage):
        msg = f"{backend} is not a Storage"
        raise TypeError(msg)
    return storage


def find_profile_problems(
    profiles: Sequence[type[Profile]], storages: Collection[str], processors: Sequence[Processor]
) -> list[str]:
    """What a profile asks for and this set-up does not have."""
    wrong = [profile for profile in profiles if not _is_profile(profile)]
    if wrong:
        return [f"profiles has {profile!r}; write classes that subclass Profile" for profile in wrong]
    names = [profile.name for profile in profiles]
    problems = [f"two profiles are called {name!r}; give one of them another name" for name in _twice(names)]
    for profile in profiles:
        if profile.storage not in storages:
            problems.append(f"profile {profile.name!r}: there is no storage {profile.storage!r} in RINDLE_STORAGES")
        problems += [
            f"profile {profile.name!r}, variant {name!r}: nothing here makes {recipe.content_type} from "
            f"{' or '.join(sorted(recipe.source_kinds))}; leave the variant out"
            for name, recipe in profile.variants.items()
            if not any(processor.accepts(recipe) for processor in processors)
        ]
    return problems


def find_life_problems(
    profiles: Sequence[type[Profile]], storages: Mapping[str, Storage], url_ttl: object
) -> list[str]:
    """Which signed URLs would live longer than their storage allows. Lives in seconds."""
    problems: list[str] = []
    for name, storage in storages.items():
        if storage.longest_url is None:
            continue
        most = int(storage.longest_url.total_seconds())
        lives = {"RINDLE_SIGNED_URL_TTL": url_ttl} | {
            f"profile {profile.name!r}: signed_url_ttl": profile.signed_url_ttl
            for profile in profiles
            if _is_profile(profile) and profile.storage == name
        }
        problems += [
            f"{where}={life}: URLs of storage {name!r} live {most} seconds at most; write no more than that"
            for where, life in lives.items()
            if isinstance(life, int) and life > most
        ]
    return problems


def _is_profile(profile: object) -> bool:
    return isinstance(profile, type) and issubclass(profile, Profile) and profile is not Profile


def find_owner_problems(owners: Any) -> list[str]:
    """Which owners are no model classes, or have names that no row could hold."""
    if not isinstance(owners, Mapping):
        return [f'owners={owners!r}; write names and model classes, such as {{"user": User}}']
    return [
        f'owners has {name!r}: {cls!r}; write names and model classes, such as {{"user": User}}'
        for name, cls in owners.items()
        if not (isinstance(name, str) and 0 < len(name) <= MAX_OWNER_CHARACTERS)
        or not (isinstance(cls, type) and inspect(cls, raiseerr=False) is not None)
    ]


def _twice(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a set-up names, built as far as it can be, and what is wrong with it."""

    storages: Mapping[str, Storage]
    sandbox: Sandbox
    processors: Sequence[Processor]
    channel: Channel | None
    problems: Sequence[str]


def build_parts(
    storages: Mapping[str, Mapping[str, Any]],
    *,
    jobs: object,
    events_url: object,
    url_ttl: object,
    profiles: Sequence[type[Profile]],
    owners: Mapping[str, type],
    factories: Mapping[str, StorageFactory],
) -> Parts:
    """Everything that can be wrong apart from the settings."""
    sandbox = Sandbox()
    processors = (ImageProcessor(sandbox),)
    built, problems = build_storages(storages, factories)
    problems += find_profile_problems(profiles, storages, processors)
    problems += find_life_problems(profiles, built, url_ttl)
    problems += find_owner_problems(owners)
    problems += find_jobs_problems(jobs)
    channel, trouble = _build_channel(events_url)
    return Parts(
        storages=built, sandbox=sandbox, processors=processors, channel=channel, problems=[*problems, *trouble]
    )


def find_jobs_problems(jobs: object) -> list[str]:
    """What the chosen job backend lacks."""
    if jobs == "celery" and importlib.util.find_spec("celery") is None:
        return list(MissingExtra('RINDLE_JOBS="celery"', "celery").problems)
    return []


def _build_channel(url: object) -> tuple[Channel | None, list[str]]:
    try:
        return (open_channel(url) if isinstance(url, str) else None), []
    except MissingExtra as error:
        return None, list(error.problems)
    except ValueError as error:
        return None, [str(error)]


def build_engine(
    settings: Settings,
    host: Host,
    parts: Parts,
    *,
    profiles: Sequence[type[Profile]],
    owners: Mapping[str, type],
    clock: Clock,
) -> Engine:
    """Wire everything."""
    registry = ProfileRegistry(profiles)
    database = Database(host.sql_engine, host.session, busy_timeout_seconds=host.busy_timeout_seconds)
    tokens = Tokens(settings.secret_keys, clock)
    links = Links(tokens, clock, host.base_path)
    for storage in parts.storages.values():
        if isinstance(storage, LinksThroughApp):
            storage.links = links
    outbox = Outbox(database, clock)
    attachments = Attachments(outbox, clock)
    sessions = Sessions(attachments, clock, settings.upload_session_ttl)
    vault = Vault(settings.secret_keys)
    arrivals = Arrivals(parts.storages, vault)
    pipeline = Pipeline(
        Tools(
            profiles=registry,
            storages=parts.storages,
            database=database,
            outbox=outbox,
            attachments=attachments,
            sessions=sessions,
            arrivals=arrivals,
            probe=FileProbe(parts.sandbox),
            processors=parts.processors,
            clock=clock,
            tmp_dir=settings.tmp_dir,
        )
    )
    retention = Retention(database, clock, job_ttl=settings.job_ttl, event_ttl=settings.event_ttl)
    leftovers = Leftovers(parts.storages, settings.tmp_dir)
    workplace = Workplace(
        outbox=outbox,
        pipeline=pipeline,
        context=host.context,
        clock=clock,
        wakeups=SharedWakeups(parts.channel, Topic.JOBS),
        tidy=Sweeper(retention, leftovers),
    )
    jobs = _build_jobs(settings, workplace, retention, leftovers)
    outbox.send = jobs.send
    uploads = UploadBroker(
        profiles=registry,
        storages=parts.storages,
        database=database,
        outbox=outbox,
        sessions=sessions,
        arrivals=arrivals,
        multipart=Multipart(parts.storages, database, clock, sessions, url_ttl=settings.signed_url_ttl),
        resumable=Resumable(parts.storages, database, clock, vault=vault),
        clock=clock,
        session_ttl=settings.upload_session_ttl,
        url_ttl=settings.signed_url_ttl,
    )
    return Engine(
        settings=settings,
        clock=clock,
        host=host,
        profiles=registry,
        storages=parts.storages,
        owners=Owners(owners),
        database=database,
        tokens=tokens,
        links=links,
        tickets=Tickets(tokens, clock),
        outbox=outbox,
        attachments=attachments,
        uploads=uploads,
        proxied=Proxied(uploads, registry, parts.storages, database=database, clock=clock),
        delivery=Delivery(registry, parts.storages, clock, settings.signed_url_ttl),
        objects=Objects(registry, parts.storages, settings.signed_url_ttl),
        pipeline=pipeline,
        workplace=workplace,
        jobs=jobs,
        repair=Repair(profiles=registry, database=database, outbox=outbox, clock=clock),
        retention=retention,
        leftovers=leftovers,
        feed=Feed(database, ChangeBell(parts.channel)),
        sandbox=parts.sandbox,
        channel=parts.channel,
    )


def _build_jobs(settings: Settings, workplace: Workplace, retention: Retention, leftovers: Leftovers) -> JobBackend:
    if settings.jobs == "inline":
        return InlineJobs(workplace.outbox, workplace.pipeline)
    if settings.jobs == "celery":
        from flask_rindle.jobs.celery import CeleryJobs

        return CeleryJobs(workplace, retention, leftovers)
    return EmbeddedJobs(workplace, [Crew(threads=settings.workers)])
