"""The options of an S3 storage, and what is wrong with those that are given."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

ENCRYPTIONS = ("AES256", "aws:kms", "aws:kms:dsse")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_STORAGE_CLASS = re.compile(r"[A-Z0-9_]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Options:
    """What `RINDLE_STORAGES` says of one bucket; None leaves a choice to the SDK. Raises for what is wrong."""

    bucket: str
    region: str | None = None
    endpoint_url: str | None = None
    public_endpoint: str | None = None
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    path_style: bool | None = None
    server_side_encryption: str | None = None
    kms_key_id: str | None = None
    storage_class: str | None = None
    public_base_url: str | None = None
    if_none_match: bool = True

    def __post_init__(self) -> None:
        _check_kinds(self)
        for problem in _problems(self):
            raise ValueError(problem)

    @property
    def for_objects(self) -> Mapping[str, str]:
        """Parameters of every call that makes an object."""
        given = {
            "ServerSideEncryption": self.server_side_encryption,
            "SSEKMSKeyId": self.kms_key_id,
            "StorageClass": self.storage_class,
        }
        return {name: value for name, value in given.items() if value is not None}


def is_web_address(text: str) -> bool:
    """Whether it is an http or https URL with neither user, query nor fragment."""
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 - raises where it is no number
    except ValueError:
        return False
    plain = text.isprintable() and not set(text) & set(" ?#@*")
    return plain and parts.scheme in ("http", "https") and bool(parts.hostname)


def _check_kinds(options: S3Options) -> None:
    flags: dict[str, tuple[type, ...]] = {"path_style": (bool, type(None)), "if_none_match": (bool,)}
    for option in fields(options):
        value: Any = getattr(options, option.name)
        if not isinstance(value, flags.get(option.name, (str, type(None)))):
            words = "True or False" if option.name in flags else "text"
            msg = f"{option.name} is a {type(value).__name__}; write {words}"
            raise TypeError(msg)


def _problems(options: S3Options) -> Iterator[str]:
    if not options.bucket or not _BUCKET.fullmatch(options.bucket):
        yield f"bucket={options.bucket!r} is no bucket name; write one such as my-app-media, without s3:// or a path"
    for name in ("endpoint_url", "public_endpoint", "public_base_url"):
        address = getattr(options, name)
        if address is not None and not is_web_address(address):
            yield f"{name}={address!r} is no web address; write one such as https://s3.example.com, or leave it out"
    yield from _key_problems(options)
    if options.server_side_encryption not in (None, *ENCRYPTIONS):
        yield f"server_side_encryption={options.server_side_encryption!r}; write one of {', '.join(ENCRYPTIONS)}"
    if options.kms_key_id is not None and not (options.server_side_encryption or "").startswith("aws:kms"):
        yield 'kms_key_id is of no use without it: write server_side_encryption="aws:kms" beside it'
    if options.storage_class is not None and not _STORAGE_CLASS.fullmatch(options.storage_class):
        yield f"storage_class={options.storage_class!r}; write it as S3 does, such as STANDARD_IA"


def _key_problems(options: S3Options) -> Iterator[str]:
    if (options.access_key_id is None) != (options.secret_access_key is None):
        yield "access_key_id and secret_access_key belong together; write both, or neither"
    if options.session_token is not None and options.access_key_id is None:
        yield "session_token belongs to a key; write access_key_id and secret_access_key beside it"
    given = (options.access_key_id, options.secret_access_key, options.session_token, options.region)
    if "" in given:
        yield "access_key_id, secret_access_key, session_token or region is empty; fill it in, or leave it out"
