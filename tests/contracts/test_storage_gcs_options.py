"""The options of GCS: what is wrong is told at once, in words that help, and never with the key in them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from gcs import ACCOUNT, FakeGcs
from gcs_storages import open_storage, put

from flask_rindle.storage import gcs_connection
from flask_rindle.storage.base import Capability
from flask_rindle.storage.gcs import GCS


@pytest.fixture
def fake() -> Iterator[FakeGcs]:
    with FakeGcs() as server:
        yield server


def works(fake: FakeGcs, **options: Any) -> bool:
    with closing(open_storage(fake, **options)) as storage:
        return put(storage, "a") == storage.stat("a") and Capability.SIGNED_URL in storage.capabilities


def test_the_key_may_be_a_dict_or_a_path(fake: FakeGcs, tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    path.write_text(json.dumps(fake.credentials))
    assert works(fake, credentials=fake.credentials)
    assert works(fake, credentials=path)
    assert works(fake, credentials=str(path))


def test_the_environment_may_name_the_key(monkeypatch: pytest.MonkeyPatch, fake: FakeGcs, tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    path.write_text(json.dumps(fake.credentials))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    assert works(fake, credentials=None)


def test_other_credentials_of_the_environment_cannot_sign(
    monkeypatch: pytest.MonkeyPatch, fake: FakeGcs, tmp_path: Path
) -> None:
    path = tmp_path / "user.json"
    path.write_text(json.dumps({"type": "authorized_user", "refresh_token": "secret"}))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    with closing(open_storage(fake, credentials=None)) as storage:
        assert Capability.SIGNED_URL not in storage.capabilities


def test_the_environments_own_go_to_google_only(monkeypatch: pytest.MonkeyPatch, fake: FakeGcs) -> None:
    """What a machine may do is nobody else's business, whatever endpoint is configured."""
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    asked: list[object] = []

    def default(scopes: object) -> tuple[Any, str]:
        asked.append(scopes)
        return gcs_connection.AnonymousCredentials(), "project-of-tests"

    monkeypatch.setattr(gcs_connection.google.auth, "default", default)
    fake.anonymous = True
    with closing(open_storage(fake, credentials=None)) as storage:
        put(storage, "a")
    assert asked == []
    with closing(GCS("media", bucket="any-bucket")) as storage:
        assert storage._bucket._connection.client.project == "project-of-tests"
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("endpoint", "own"),
    [
        (None, True),
        ("https://storage.googleapis.com", True),
        ("https://storage.me-central2.rep.googleapis.com", True),
        ("https://storage.googleapis.com.evil.example", False),
        ("https://evilgoogleapis.com", False),
        ("http://127.0.0.1:4443", False),
    ],
)
def test_an_endpoint_is_googles_or_not(monkeypatch: pytest.MonkeyPatch, endpoint: str | None, own: bool) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    with closing(GCS("media", bucket="any-bucket", endpoint_url=endpoint)) as storage:
        assert storage._bucket._connection.options.is_google is own


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"bucket": ""}, ValueError, "my-app-media"),
        ({"bucket": "gs://media"}, ValueError, "my-app-media"),
        ({"bucket": "Media"}, ValueError, "my-app-media"),
        ({"bucket": None}, ValueError, "my-app-media"),
        ({"bucket": 5}, TypeError, "bucket is int"),
        ({"credentials": 5}, TypeError, "service account"),
        ({"credentials": "/no/such/file.json"}, ValueError, "path"),
        ({"credentials": '{"private_key": "SECRET"}'}, ValueError, "path"),
        ({"credentials": {"private_key": "SECRET"}}, ValueError, "lacks type, client_email, token_uri"),
        (
            {"credentials": {"type": "user", "client_email": "", "private_key": "SECRET", "token_uri": ""}},
            ValueError,
            "the type service_account",
        ),
        ({"project": 5}, TypeError, "project is int"),
        ({"endpoint_url": "127.0.0.1:4443"}, ValueError, "endpoint_url"),
        ({"endpoint_url": "http://user:SECRET@127.0.0.1"}, ValueError, "endpoint_url"),
        ({"public_base_url": "cdn.example.com"}, ValueError, "public_base_url"),
        ({"public_base_url": "https://cdn.example.com/?a=b"}, ValueError, "public_base_url"),
        ({"kms_key_name": "my-key"}, ValueError, "projects/"),
        ({"storage_class": "COLD"}, ValueError, "NEARLINE"),
        ({"region": "x"}, TypeError, "region"),
    ],
)
def test_a_wrong_option_says_what_to_write(options: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error) as caught:
        GCS("media", **{"bucket": "my-bucket", **options})
    assert says in str(caught.value)
    assert "SECRET" not in str(caught.value)


def test_a_key_that_is_none_is_told_without_it(fake: FakeGcs) -> None:
    broken = {**fake.credentials, "private_key": "-----BEGIN PRIVATE KEY-----\nSECRET\n-----END PRIVATE KEY-----\n"}
    with pytest.raises(ValueError, match="private_key") as caught:
        open_storage(fake, credentials=broken)
    assert "SECRET" not in str(caught.value)


def test_a_repr_shows_the_name_only(fake: FakeGcs) -> None:
    with closing(open_storage(fake)) as storage:
        assert repr(storage) == "<GCS 'media'>"
        assert ACCOUNT not in repr(storage._bucket._connection.options)


WITHOUT = """
import sys
sys.modules[sys.argv[1]] = None
from flask_rindle.storage.gcs import GCS
assert not [name for name in sys.modules if name.startswith("google.cloud.storage") and sys.modules[name]]
try:
    GCS("media", bucket="my-bucket")
except ImportError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("module", ["google.cloud.storage", "google.auth"])
def test_a_missing_package_is_named(module: str) -> None:
    """At construction; importing the module needs nothing."""
    told = subprocess.run([sys.executable, "-c", WITHOUT, module], check=True, capture_output=True, text=True).stdout
    assert told.startswith("MissingExtra")
    assert "pip install 'flask-rindle[gcs]'" in told
