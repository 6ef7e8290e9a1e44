"""The options of a GCS storage, checked: what is wrong is a ValueError or TypeError that says what to write."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

FARTHEST = 2**63 - 1  # the last byte that Google's numbers can name
GOOGLE = "https://storage.googleapis.com"
STORAGE_CLASSES = ("STANDARD", "NEARLINE", "COLDLINE", "ARCHIVE")
KEY_FIELDS = ("type", "client_email", "private_key", "token_uri")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_KMS_KEY = re.compile(r"projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+")

Key = Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a bucket is reached with; `key` is the service account's, None where the environment has another way."""

    bucket: str
    key: Key | None = field(repr=False)
    project: str | None
    endpoint: str
    public_base_url: str | None
    kms_key_name: str | None
    storage_class: str | None

    @property
    def is_google(self) -> bool:
        """Whether the environment's own credentials may be sent there."""
        return (urlsplit(self.endpoint).hostname or "").endswith(".googleapis.com")


def checked_options(
    *,
    bucket: str,
    credentials: Mapping[str, object] | str | os.PathLike[str] | None,
    project: str | None,
    endpoint_url: str | None,
    public_base_url: str | None,
    kms_key_name: str | None,
    storage_class: str | None,
) -> Options:
    """The options as they are used."""
    _require_text(
        bucket=bucket,
        project=project,
        endpoint_url=endpoint_url,
        public_base_url=public_base_url,
        kms_key_name=kms_key_name,
        storage_class=storage_class,
    )
    _require(_BUCKET.fullmatch(bucket or ""), f"bucket={bucket!r} is no bucket's name; write one such as my-app-media")
    _require(
        kms_key_name is None or _KMS_KEY.fullmatch(kms_key_name),
        f"kms_key_name={kms_key_name!r} names no key; write projects/…/locations/…/keyRings/…/cryptoKeys/…",
    )
    _require(
        storage_class in (None, *STORAGE_CLASSES),
        f"storage_class={storage_class!r} is unknown; write one of {', '.join(STORAGE_CLASSES)}",
    )
    key = _key(credentials)
    own_project = key.get("project_id") if key else None
    return Options(
        bucket=bucket,
        key=key,
        project=project or (own_project if isinstance(own_project, str) else None),
        endpoint=_base_url("endpoint_url", endpoint_url, "http://127.0.0.1:4443") or GOOGLE,
        public_base_url=_base_url("public_base_url", public_base_url, "https://media.example.com"),
        kms_key_name=kms_key_name,
        storage_class=storage_class,
    )


def _require(fact: object, otherwise: str) -> None:
    if not fact:
        raise ValueError(otherwise)


def _require_text(**values: object) -> None:
    for name, value in values.items():
        if value is not None and not isinstance(value, str):
            msg = f"{name} is {type(value).__name__}; write a string"
            raise TypeError(msg)


def _base_url(name: str, value: str | None, example: str) -> str | None:
    if value is None:
        return None
    parts = urlsplit(value)
    plain = parts.scheme in ("http", "https") and parts.hostname and not parts.query and not parts.fragment
    _require(plain and "@" not in parts.netloc, f"{name} is no plain http(s) URL; write one such as {example}")
    return value.rstrip("/")


def _key(credentials: Mapping[str, object] | str | os.PathLike[str] | None) -> Key | None:
    """The service account's key that was given, or that the environment names."""
    if credentials is None:
        return _key_of_environment()
    found: object = _read(os.fspath(credentials)) if isinstance(credentials, str | os.PathLike) else credentials
    if not isinstance(found, Mapping):
        msg = f"credentials is {type(found).__name__}; write the dict of a service account's JSON, or its path"
        raise TypeError(msg)
    missing = [name for name in KEY_FIELDS if not isinstance(found.get(name), str)]
    _require(
        not missing and found["type"] == "service_account",
        f"credentials is no service account's key (it lacks {', '.join(missing) or 'the type service_account'}); "
        "write the dict of the JSON that Google made for the account, or its path",
    )
    return dict(found)


def _key_of_environment() -> Key | None:
    """The key that GOOGLE_APPLICATION_CREDENTIALS names; None when it names something that cannot sign."""
    path = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    if not path:
        return None
    found = _read(path)
    return _key(found) if found.get("type") == "service_account" else None


def _read(path: str) -> Mapping[str, object]:
    # Whatever is wrong, neither the text nor the parser's message is shown: it may be the key itself.
    msg = "credentials is no path of a JSON file; write the path of a service account's key, or its dict"
    try:
        found = json.loads(Path(path).read_text())
    except (OSError, ValueError):
        raise ValueError(msg) from None
    if not isinstance(found, dict):
        raise ValueError(msg)  # noqa: TRY004 - the file is wrong, not the argument
    return found
