"""The settings of one app, read once from its config; every mistake is reported in one go."""

from __future__ import annotations

import difflib
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from flask_rindle.types import MAX_SECONDS

MAX_STORAGE_CHARACTERS = 64
# More threads than a process is good for.
MAX_WORKERS = 256
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)+/?")
JOB_BACKENDS = ("embedded", "celery", "inline")

DEFAULTS: Mapping[str, Any] = {
    "RINDLE_STORAGES": None,
    "RINDLE_JOBS": "embedded",
    "RINDLE_WORKERS": 2,
    "RINDLE_URL_PREFIX": "/rindle",
    "RINDLE_SIGNED_URL_TTL": 900,
    "RINDLE_UPLOAD_SESSION_TTL": 86_400,
    "RINDLE_TMP_DIR": None,
    "RINDLE_EVENTS_URL": None,
    "RINDLE_JOB_TTL": 7 * 86_400,
    "RINDLE_EVENT_TTL": 30 * 86_400,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What `RINDLE_*` and `SECRET_KEY` say. `tmp_dir=None` is the system's."""

    storages: Mapping[str, Mapping[str, Any]]
    jobs: str
    workers: int
    url_prefix: str
    signed_url_ttl: timedelta
    upload_session_ttl: timedelta
    tmp_dir: Path | None
    job_ttl: timedelta
    event_ttl: timedelta
    events_url: str | None = field(repr=False)
    secret_keys: tuple[str, ...] = field(repr=False)


def find_problems(config: Mapping[str, Any]) -> list[str]:
    """What is wrong with the config, each with what to write instead."""
    values = {**DEFAULTS, **{key: value for key, value in config.items() if key.startswith("RINDLE_")}}
    return [
        *_unknown_keys(values),
        *_check_secret(config),
        *_check_storages(values["RINDLE_STORAGES"]),
        *_check_jobs(values),
        *_check_numbers(values),
        *_check_paths(values),
        *_check_events_url(values["RINDLE_EVENTS_URL"]),
    ]


def read_settings(config: Mapping[str, Any], instance_path: str) -> Settings:
    """The settings of a config in which `find_problems` found none."""
    values = {**DEFAULTS, **config}
    tmp_dir = values["RINDLE_TMP_DIR"]
    return Settings(
        storages=read_storages(config, instance_path),
        jobs=values["RINDLE_JOBS"],
        workers=values["RINDLE_WORKERS"],
        url_prefix=values["RINDLE_URL_PREFIX"].rstrip("/"),
        signed_url_ttl=timedelta(seconds=values["RINDLE_SIGNED_URL_TTL"]),
        upload_session_ttl=timedelta(seconds=values["RINDLE_UPLOAD_SESSION_TTL"]),
        tmp_dir=None if tmp_dir is None else Path(tmp_dir),
        job_ttl=timedelta(seconds=values["RINDLE_JOB_TTL"]),
        event_ttl=timedelta(seconds=values["RINDLE_EVENT_TTL"]),
        events_url=values["RINDLE_EVENTS_URL"],
        secret_keys=(*(config.get("SECRET_KEY_FALLBACKS") or ()), config["SECRET_KEY"]),
    )


def read_storages(config: Mapping[str, Any], instance_path: str) -> dict[str, dict[str, Any]]:
    """The options of each storage, of those that are written as they should be."""
    given = config.get("RINDLE_STORAGES")
    if given is None:
        return {"default": {"backend": "local", "root": Path(instance_path) / "rindle"}}
    storages = given.items() if isinstance(given, Mapping) else ()
    return {name: dict(options) for name, options in storages if isinstance(options, Mapping) and "backend" in options}


def _unknown_keys(values: Mapping[str, Any]) -> Iterator[str]:
    for key in values:
        if key not in DEFAULTS:
            near = difflib.get_close_matches(key, DEFAULTS, n=1)
            yield f"{key} is no setting; " + (f"write {near[0]}" if near else f"there are {', '.join(DEFAULTS)}")


def _check_secret(config: Mapping[str, Any]) -> Iterator[str]:
    if not _is_key(config.get("SECRET_KEY")):
        yield "SECRET_KEY is not set; tickets and links are signed with it: set it to a long random value"
    fallbacks = config.get("SECRET_KEY_FALLBACKS")
    if fallbacks is not None and not (isinstance(fallbacks, (list, tuple)) and all(map(_is_key, fallbacks))):
        yield "SECRET_KEY_FALLBACKS is no list of keys; write a list of non-empty ones, or leave it out"


def _is_key(key: object) -> bool:
    return isinstance(key, (str, bytes)) and len(key) > 0


def _check_storages(storages: object) -> Iterator[str]:
    if storages is None:
        return
    if not isinstance(storages, Mapping) or not storages:
        yield 'RINDLE_STORAGES is no dict; write {"default": {"backend": "local", "root": "/srv/media"}}'
        return
    for name, options in storages.items():
        if not isinstance(name, str) or not isinstance(options, Mapping) or not options.get("backend"):
            yield f'RINDLE_STORAGES[{name!r}] has no backend; write {{"backend": "local", "root": "/srv/media"}}'
        elif not 0 < len(name) <= MAX_STORAGE_CHARACTERS:
            yield f"RINDLE_STORAGES[{name!r}]: write a name of at most {MAX_STORAGE_CHARACTERS} characters"


def _check_jobs(values: Mapping[str, Any]) -> Iterator[str]:
    if values["RINDLE_JOBS"] not in JOB_BACKENDS:
        yield f"RINDLE_JOBS={values['RINDLE_JOBS']!r}; write one of {', '.join(JOB_BACKENDS)}"


def _check_numbers(values: Mapping[str, Any]) -> Iterator[str]:
    ranges = {
        "RINDLE_WORKERS": (0, MAX_WORKERS),
        "RINDLE_SIGNED_URL_TTL": (1, MAX_SECONDS),
        "RINDLE_UPLOAD_SESSION_TTL": (1, MAX_SECONDS),
        "RINDLE_JOB_TTL": (1, MAX_SECONDS),
        "RINDLE_EVENT_TTL": (1, MAX_SECONDS),
    }
    for key, (lowest, highest) in ranges.items():
        if type(values[key]) is not int or not lowest <= values[key] <= highest:
            yield f"{key}={values[key]!r}; write a whole number from {lowest} to {highest}, such as {DEFAULTS[key]}"


def _check_paths(values: Mapping[str, Any]) -> Iterator[str]:
    prefix, tmp_dir = values["RINDLE_URL_PREFIX"], values["RINDLE_TMP_DIR"]
    if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix):
        yield f"RINDLE_URL_PREFIX={prefix!r}; write a path such as /rindle"
    if tmp_dir is not None and not _can_be_written(tmp_dir):
        yield f"RINDLE_TMP_DIR={tmp_dir!r} is no directory that can be written to; make it, or leave it out"


def _check_events_url(url: object) -> Iterator[str]:
    if url is None:
        return
    if not isinstance(url, str):
        yield "RINDLE_EVENTS_URL is no text; write a URL such as redis://host:6379/0, or leave it out"


def _can_be_written(directory: object) -> bool:
    """Tried, not asked for: the system says yes to root, whatever will happen."""
    if not isinstance(directory, (str, Path)):
        return False
    try:
        with tempfile.TemporaryFile(dir=directory):
            return True
    except (OSError, ValueError):
        return False
