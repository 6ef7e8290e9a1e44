"""Settings: all mistakes at once, each with what to write instead."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from flask_rindle import Profile, Rindle
from flask_rindle.errors import ConfigurationError, InvalidProfile
from flask_rindle.models import Asset
from flask_rindle.settings import DEFAULTS, find_problems, read_settings

FINE = {"SECRET_KEY": "x" * 32}


class Avatar(Profile):
    pass


def test_defaults_are_fine_and_as_documented() -> None:
    assert find_problems(FINE) == []
    settings = read_settings(FINE, "/srv/instance")
    assert settings.storages == {"default": {"backend": "local", "root": Path("/srv/instance/rindle")}}
    assert (settings.jobs, settings.workers, settings.url_prefix) == ("embedded", 2, "/rindle")
    assert (settings.signed_url_ttl, settings.upload_session_ttl) == (timedelta(minutes=15), timedelta(days=1))
    assert settings.tmp_dir is None


def test_given_values_are_read(tmp_path: Path) -> None:
    config = {
        **FINE,
        "SECRET_KEY_FALLBACKS": ["old"],
        "RINDLE_STORAGES": {"media": {"backend": "memory"}},
        "RINDLE_JOBS": "inline",
        "RINDLE_WORKERS": 5,
        "RINDLE_URL_PREFIX": "/media/",
        "RINDLE_SIGNED_URL_TTL": 60,
        "RINDLE_UPLOAD_SESSION_TTL": 61,
        "RINDLE_TMP_DIR": str(tmp_path),
    }
    assert find_problems(config) == []
    settings = read_settings(config, "/srv/instance")
    assert settings.storages == {"media": {"backend": "memory"}}
    assert (settings.jobs, settings.workers, settings.url_prefix) == ("inline", 5, "/media")
    assert (settings.signed_url_ttl, settings.upload_session_ttl) == (timedelta(seconds=60), timedelta(seconds=61))
    assert settings.tmp_dir == tmp_path
    assert settings.secret_keys == ("old", "x" * 32), "oldest first, the last one signs"


def test_keys_are_not_shown() -> None:
    assert "x" * 32 not in repr(read_settings(FINE, "/srv"))


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"SECRET_KEY": None}, "SECRET_KEY", "long random value"),
    ({"SECRET_KEY": ""}, "SECRET_KEY", "long random value"),
    ({"RINDLE_STORAGE": {}}, "RINDLE_STORAGE", "write RINDLE_STORAGES"),
    ({"RINDLE_XYZZY_PLUGH": 1}, "RINDLE_XYZZY_PLUGH", "there are RINDLE_"),
    ({"RINDLE_STORAGES": {}}, "RINDLE_STORAGES", '{"default": {"backend": "local"'),
    ({"RINDLE_STORAGES": "local"}, "RINDLE_STORAGES", '{"default": {"backend": "local"'),
    ({"RINDLE_STORAGES": {"media": {}}}, "RINDLE_STORAGES['media']", '{"backend": "local"'),
    ({"RINDLE_STORAGES": {"media": "local"}}, "RINDLE_STORAGES['media']", '{"backend": "local"'),
    ({"RINDLE_STORAGES": {1: {"backend": "memory"}}}, "RINDLE_STORAGES[1]", '{"backend": "local"'),
    ({"RINDLE_JOBS": "cellery"}, "RINDLE_JOBS='cellery'", "embedded"),
    ({"RINDLE_WORKERS": -1}, "RINDLE_WORKERS=-1", "from 0 to 256"),
    ({"RINDLE_WORKERS": True}, "RINDLE_WORKERS=True", "from 0 to 256"),
    ({"RINDLE_WORKERS": "2"}, "RINDLE_WORKERS='2'", "from 0 to 256"),
    ({"RINDLE_SIGNED_URL_TTL": -1}, "RINDLE_SIGNED_URL_TTL=-1", "900"),
    ({"RINDLE_UPLOAD_SESSION_TTL": 1.5}, "RINDLE_UPLOAD_SESSION_TTL=1.5", "86400"),
    ({"RINDLE_URL_PREFIX": "rindle"}, "RINDLE_URL_PREFIX='rindle'", "/rindle"),
    ({"RINDLE_URL_PREFIX": "/"}, "RINDLE_URL_PREFIX='/'", "/rindle"),
    ({"RINDLE_URL_PREFIX": "//"}, "RINDLE_URL_PREFIX='//'", "/rindle"),
    ({"RINDLE_URL_PREFIX": None}, "RINDLE_URL_PREFIX=None", "/rindle"),
    ({"RINDLE_TMP_DIR": "/no/such/folder"}, "RINDLE_TMP_DIR='/no/such/folder'", "make it"),
    ({"RINDLE_TMP_DIR": 7}, "RINDLE_TMP_DIR=7", "make it"),
    ({"RINDLE_TMP_DIR": "/proc"}, "RINDLE_TMP_DIR='/proc'", "can be written to"),
    ({"RINDLE_TMP_DIR": __file__}, "RINDLE_TMP_DIR=", "can be written to"),
    ({"RINDLE_TMP_DIR": "a\0b"}, "RINDLE_TMP_DIR=", "can be written to"),
    ({"SECRET_KEY": 5}, "SECRET_KEY", "long random value"),
    ({"SECRET_KEY": [5]}, "SECRET_KEY", "long random value"),
    ({"SECRET_KEY_FALLBACKS": "old"}, "SECRET_KEY_FALLBACKS", "write a list"),
    ({"SECRET_KEY_FALLBACKS": [""]}, "SECRET_KEY_FALLBACKS", "non-empty"),
    ({"SECRET_KEY_FALLBACKS": [None]}, "SECRET_KEY_FALLBACKS", "non-empty"),
    ({"SECRET_KEY_FALLBACKS": 5}, "SECRET_KEY_FALLBACKS", "write a list"),
    ({"SECRET_KEY_FALLBACKS": [5]}, "SECRET_KEY_FALLBACKS", "non-empty"),
    ({"RINDLE_SIGNED_URL_TTL": 10**15}, "RINDLE_SIGNED_URL_TTL=1000", "from 1 to 315360000"),
    ({"RINDLE_UPLOAD_SESSION_TTL": 10**11}, "RINDLE_UPLOAD_SESSION_TTL=1000", "from 1 to 315360000"),
    ({"RINDLE_WORKERS": 10**5}, "RINDLE_WORKERS=100000", "from 0 to 256"),
    ({"RINDLE_JOB_TTL": 0}, "RINDLE_JOB_TTL=0", "from 1 to 315360000, such as 604800"),
    ({"RINDLE_EVENT_TTL": "1"}, "RINDLE_EVENT_TTL='1'", "such as 2592000"),
    ({"RINDLE_EVENTS_URL": 5}, "RINDLE_EVENTS_URL is no text", "redis://host:6379/0"),
    ({"RINDLE_URL_PREFIX": "/r/<x>"}, "RINDLE_URL_PREFIX='/r/<x>'", "/rindle"),
    ({"RINDLE_URL_PREFIX": "/a b"}, "RINDLE_URL_PREFIX='/a b'", "/rindle"),
    ({"RINDLE_URL_PREFIX": "//evil"}, "RINDLE_URL_PREFIX='//evil'", "/rindle"),
    ({"RINDLE_URL_PREFIX": "/é?x"}, "RINDLE_URL_PREFIX='/é?x'", "/rindle"),
    ({"RINDLE_JOBS": ["embedded"]}, "RINDLE_JOBS=['embedded']", "embedded"),
    ({"RINDLE_STORAGES": {"x" * 65: {"backend": "memory"}}}, "RINDLE_STORAGES['xxx", "at most 64 characters"),
]


@pytest.mark.parametrize(("config", "names", "remedy"), WRONG, ids=[f"{w[1]}-{n}" for n, w in enumerate(WRONG)])
def test_a_mistake_is_named_with_its_remedy(config: dict[str, Any], names: str, remedy: str) -> None:
    (problem,) = find_problems({**FINE, **config})
    assert names in problem
    assert remedy in problem


def test_the_hosts_other_settings_are_nobodys_business() -> None:
    assert find_problems({**FINE, "RINDLESS": 1, "DEBUG": True}) == []


def test_every_setting_is_known_by_its_prefix() -> None:
    assert all(key.startswith("RINDLE_") for key in DEFAULTS)


def test_all_mistakes_come_at_once_out_of_init_app(make_app: Callable[..., Flask]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_app(
            SECRET_KEY="",
            RINDLE_WORKERS=-1,
            RINDLE_EVENTS_URL="http://x",
            RINDLE_JOBS="none",
            RINDLE_STORAGES={"media": {}},
        )
    text = " ".join(caught.value.problems)
    assert all(
        name in text
        for name in (
            "SECRET_KEY",
            "RINDLE_WORKERS",
            "RINDLE_JOBS",
            "RINDLE_STORAGES['media'] has no backend",
            "RINDLE_EVENTS_URL has http://",
        )
    )


@pytest.mark.parametrize(
    "options",
    [
        {"backend": dict},
        {"backend": ["local"]},
        {"backend": "local"},
        {"backend": "local", "root": ""},
        {"backend": "local", "root": None},
        {"backend": "local", "root": "/etc/passwd"},
        {"backend": "local", "root": "a\0b"},
        {"backend": "os:getcwd"},
        {"backend": ".x:y"},
        {"backend": "no such"},
        {"backend": "memory", 5: 6},
    ],
    ids=str,
)
def test_a_storage_that_cannot_be_built_is_a_mistake_in_the_set_up(
    make_app: Callable[..., Flask], options: dict[Any, Any]
) -> None:
    with pytest.raises(ConfigurationError, match=r"RINDLE_STORAGES\['default'\]"):
        make_app(RINDLE_STORAGES={"default": options})


class Nobody:
    """No model."""


@pytest.mark.parametrize("profiles", [["avatar"], [Avatar()], [Profile], [None], None, 5])
def test_what_is_no_profile_is_a_mistake_in_the_set_up(make_app: Callable[..., Flask], profiles: Any) -> None:
    with pytest.raises(ConfigurationError, match="write classes that subclass Profile"):
        init(make_app, profiles=profiles)


@pytest.mark.parametrize(
    "owners",
    [
        [Nobody],
        "user",
        5,
        {"user": Nobody},
        {"user": "User"},
        {"user": Asset()},
        {"u" * 65: Asset},
        {"": Asset},
        {5: Asset},
    ],
)
def test_what_is_no_owner_is_a_mistake_in_the_set_up(make_app: Callable[..., Flask], owners: Any) -> None:
    with pytest.raises(ConfigurationError, match="write names and model classes"):
        init(make_app, owners=owners)


def init(make_app: Callable[..., Flask], **options: Any) -> None:
    """`init_app` of another app on the same kind of config."""
    app = Flask("other")
    app.config.update({**make_app().config})
    db = SQLAlchemy(app)
    Rindle().init_app(app, db, **options)


def test_a_profile_whose_links_would_outlive_the_calendar_is_refused() -> None:
    with pytest.raises(InvalidProfile, match="at most 315360000 seconds"):
        type("Archive", (Profile,), {"signed_url_ttl": 10**15})
