"""The options of S3: each mistake says what to write instead, and no secret shows."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, NoCredentialsError, ReadTimeoutError
from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from flask_rindle import Rindle
from flask_rindle.errors import (
    ConfigurationError,
    MissingExtra,
    ObjectChanged,
    ObjectNotFound,
    PartsRefused,
    StorageDenied,
    StorageError,
    StorageFull,
    StorageUnavailable,
    UploadGone,
)
from flask_rindle.storage.s3 import S3
from flask_rindle.storage.s3_errors import OF_UPLOADS, translate
from flask_rindle.storage.s3_objects import STAGING

SECRETS = {"access_key_id": "AKIDEXAMPLE", "secret_access_key": "wJalrXUtnFEMI", "session_token": "FwoGZXIvYXdz"}

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"bucket": ""}, "my-app-media"),
    ({"bucket": "s3://media"}, "my-app-media"),
    ({"bucket": "media/folder"}, "my-app-media"),
    ({"endpoint_url": "s3.example.com"}, r"https://s3\.example\.com"),
    ({"endpoint_url": "https://user:secret@s3.example.com"}, r"https://s3\.example\.com"),
    ({"public_endpoint": "ftp://s3.example.com"}, r"https://s3\.example\.com"),
    ({"public_base_url": "https://cdn.example.com/?a=b"}, r"https://s3\.example\.com"),
    ({"public_base_url": ""}, r"https://s3\.example\.com"),
    ({"endpoint_url": "https://s3.example.com:port"}, r"https://s3\.example\.com"),
    ({"access_key_id": "AKID"}, "write both, or neither"),
    ({"secret_access_key": "secret"}, "write both, or neither"),
    ({"session_token": "token"}, "access_key_id and secret_access_key beside it"),
    ({"region": ""}, "leave it out"),
    ({"server_side_encryption": "aes"}, "AES256, aws:kms"),
    ({"kms_key_id": "key"}, 'server_side_encryption="aws:kms"'),
    ({"kms_key_id": "key", "server_side_encryption": "AES256"}, 'server_side_encryption="aws:kms"'),
    ({"storage_class": "standard ia"}, "STANDARD_IA"),
]


@pytest.mark.parametrize(("options", "advice"), WRONG, ids=str)
def test_a_mistake_says_what_to_write(options: dict[str, Any], advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        S3("media", **{"bucket": "media", **options})


@pytest.mark.parametrize(
    "options", [{"bucket": None}, {"bucket": 3}, {"path_style": "yes"}, {"if_none_match": None}, {"region": 1}], ids=str
)
def test_a_value_of_another_kind_says_which(options: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=r"write (text|True or False|one such as)"):
        S3("media", **{"bucket": "media", **options})


def test_every_option_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "storages.md").read_text()
    section = text.partition("\n## S3\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", section, re.M)
    documented = {name for cell in cells for name in re.findall(r"\w+", cell)}
    assert documented == set(inspect.signature(S3).parameters) - {"name"}


def test_the_documented_rules_are_json() -> None:
    text = (Path(__file__).parents[2] / "docs" / "storages.md").read_text()
    section = text.partition("\n## S3\n")[2].partition("\n## ")[0]
    policy, lifecycle = map(json.loads, re.findall(r"^```json\n(.*?)^```$", section, re.M | re.S))
    assert {action for each in policy["Statement"] for action in each["Action"]} >= {"s3:ListBucket", "s3:PutObject"}
    assert lifecycle["Rules"][0]["Filter"] == {"Prefix": STAGING}


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(TypeError, match="buckets"):
        S3("media", buckets="media")  # type: ignore[call-arg]


def test_mistakes_are_reported_by_init_app() -> None:
    app = Flask("host")
    app.config.update(
        SECRET_KEY="x" * 32,
        SQLALCHEMY_DATABASE_URI="sqlite://",
        RINDLE_STORAGES={"media": {"backend": "s3", "bucket": "s3://media"}},
    )
    with pytest.raises(ConfigurationError, match=r"RINDLE_STORAGES\['media'\]: bucket='s3://media' is no bucket name"):
        Rindle().init_app(app, SQLAlchemy(app), profiles=[])


@pytest.mark.parametrize("options", [{}, {"path_style": True}, {"server_side_encryption": "AES256"}])
def test_right_options_are_taken_without_asking_a_server(options: dict[str, Any]) -> None:
    S3("media", bucket="my-bucket.example", endpoint_url="http://127.0.0.1:1", **SECRETS, **options).close()


def test_neither_repr_nor_a_mistake_shows_a_secret() -> None:
    storage = S3("media", bucket="media", **SECRETS)
    shown = f"{storage!r} {storage.bucket!r} {storage.bucket.options!r} {vars(storage)} {vars(storage.bucket)}"
    with pytest.raises(ValueError, match="bucket") as caught:
        S3("media", bucket="", **SECRETS)
    for secret in SECRETS.values():
        assert secret not in shown
        assert secret not in str(caught.value)


def test_the_sdk_is_loaded_by_the_first_storage_only() -> None:
    code = (
        "import sys, flask_rindle.storage.s3 as s3\n"
        "before = 'boto3' in sys.modules or 'botocore' in sys.modules\n"
        "s3.S3('media', bucket='media')\n"
        "print(before, 'boto3' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_without_the_sdk_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(MissingExtra, match=r"pip install 'flask-rindle\[s3\]'") as caught:
        S3("media", bucket="media")
    assert caught.value.extra == "s3"
    assert "'media'" in caught.value.feature


# ---- what answers mean


def answer(status: int, code: str) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")


MEANINGS: list[tuple[Exception, type[StorageError]]] = [
    (answer(404, "NoSuchKey"), ObjectNotFound),
    (answer(404, "404"), ObjectNotFound),
    (answer(404, "NoSuchBucket"), StorageError),
    (answer(404, "NoSuchUpload"), UploadGone),
    (answer(400, "InvalidPart"), PartsRefused),
    (answer(400, "InvalidPartOrder"), PartsRefused),
    (answer(400, "EntityTooSmall"), PartsRefused),
    (answer(412, "PreconditionFailed"), ObjectChanged),
    (answer(412, "412"), ObjectChanged),
    (answer(409, "ConditionalRequestConflict"), StorageUnavailable),
    (answer(403, "AccessDenied"), StorageDenied),
    (answer(403, "403"), StorageDenied),
    (answer(403, "InvalidAccessKeyId"), StorageDenied),
    (answer(403, "SignatureDoesNotMatch"), StorageDenied),
    (answer(403, "RequestTimeTooSkewed"), StorageDenied),
    (answer(403, "InvalidObjectState"), StorageError),
    (answer(400, "ExpiredToken"), StorageDenied),
    (answer(400, "AuthorizationHeaderMalformed"), StorageDenied),
    (answer(401, "Unauthorized"), StorageDenied),
    (answer(403, "QuotaExceeded"), StorageFull),
    (answer(507, "507"), StorageFull),
    (answer(429, "429"), StorageUnavailable),
    (answer(500, "InternalError"), StorageUnavailable),
    (answer(502, "Bad Gateway"), StorageUnavailable),
    (answer(503, "SlowDown"), StorageUnavailable),
    (answer(400, "RequestTimeout"), StorageUnavailable),
    (answer(400, "MalformedXML"), StorageError),
    (ConnectionResetError(), StorageUnavailable),
    (ReadTimeoutError(endpoint_url="http://s3"), StorageUnavailable),
    (NoCredentialsError(), StorageDenied),
]


@pytest.mark.parametrize(("error", "meaning"), MEANINGS, ids=str)
def test_an_answer_leaves_as_what_it_means(error: Exception, meaning: type[StorageError]) -> None:
    with pytest.raises(StorageError) as caught, translate("media", "a"):
        raise error
    assert type(caught.value) is meaning
    assert caught.value.__cause__ is error
    assert (caught.value.storage, caught.value.key) == ("media", "a")


@pytest.mark.parametrize("error", [answer(404, "NoSuchKey"), answer(404, "404"), answer(404, "NoSuchUpload")], ids=str)
def test_an_upload_that_is_not_there_is_gone(error: ClientError) -> None:
    """Whatever the server calls it."""
    with pytest.raises(UploadGone), translate("media", "a", OF_UPLOADS):
        raise error


def test_what_is_none_of_the_sdks_passes() -> None:
    with pytest.raises(RuntimeError), translate("media", "a"):
        raise RuntimeError


def test_a_servers_text_is_not_repeated() -> None:
    """It could hold anything."""
    with pytest.raises(StorageError) as caught, translate("media", "a"):
        raise answer(418, "see https://s3.example.com/?X-Amz-Signature=abc")
    assert "Signature" not in str(caught.value)
    assert "418" in str(caught.value)
