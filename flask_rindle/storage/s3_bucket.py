"""One bucket as calls: clients that are made when they are needed, and errors in our own words."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from threading import Lock
from typing import Any

from flask_rindle.errors import InvalidKey, MissingExtra, ObjectNotFound, StorageError
from flask_rindle.forks import renew_after_fork
from flask_rindle.storage.base import check_key
from flask_rindle.storage.s3_errors import Meanings, code_of, translate
from flask_rindle.storage.s3_options import S3Options

CONNECT_SECONDS = 5
READ_SECONDS = 60
ATTEMPTS = 4
CONNECTIONS = 50
MAX_KEY_BYTES = 1024


class Bucket:
    """The bucket of one storage; from several threads at once, and anew in a forked process."""

    def __init__(self, storage: str, options: S3Options) -> None:
        """Connects to nothing. Raises MissingExtra without boto3."""
        try:
            importlib.import_module("boto3")
        except ImportError as error:
            feature = f'storage {storage!r} with the backend "s3"'
            raise MissingExtra(feature, "s3") from error
        self.storage = storage
        self.options = options
        self._known_to_exist = False
        self.start_afresh()
        renew_after_fork(self)

    def start_afresh(self) -> None:
        """Forget clients whose sockets belong to the process that was forked."""
        self._lock = Lock()
        self._session: Any = None
        self._clients: dict[str | None, Any] = {}

    def check(self, key: str) -> str:
        """The key, if S3 takes it."""
        if len(check_key(self.storage, key).encode()) > MAX_KEY_BYTES:
            raise InvalidKey(self.storage, key)
        return key

    def call(
        self, operation: str, key: str, params: Mapping[str, Any] | None = None, *, meanings: Meanings | None = None
    ) -> dict[str, Any]:
        """The server's answer about an object, or about a place for one. Raises StorageError."""
        with self.translate(key, meanings):
            try:
                call = getattr(self.client(), operation)
                answer: dict[str, Any] = call(Bucket=self.options.bucket, Key=key, **(params or {}))
            except Exception as error:
                self._require_bucket(error)
                raise
        self._known_to_exist = True
        return answer

    def head(self, key: str) -> dict[str, Any]:
        """What the server knows about the object. Raises ObjectNotFound."""
        return self.call("head_object", key)

    def find(self, key: str) -> dict[str, Any] | None:
        """What the server knows about the object; None when there is none."""
        try:
            return self.head(key)
        except ObjectNotFound:
            return None

    def sign(self, operation: str, key: str, params: Mapping[str, Any], seconds: int) -> str:
        """A URL for one such request, to the address that browsers use."""
        with self.translate(key):
            url: str = self.client(self.options.public_endpoint or self.options.endpoint_url).generate_presigned_url(
                operation, Params={"Bucket": self.options.bucket, "Key": key, **params}, ExpiresIn=seconds
            )
        return url

    def translate(self, key: str, meanings: Meanings | None = None) -> AbstractContextManager[None]:
        """Errors of the SDK leave in our own words."""
        return translate(self.storage, key, meanings)

    def client(self, endpoint_url: str | None = None) -> Any:
        """The SDK's client for an address, `endpoint_url` of the options as a rule."""
        address = endpoint_url or self.options.endpoint_url
        with self._lock:
            if address not in self._clients:
                self._clients[address] = self._make_client(address)
            return self._clients[address]

    def close(self) -> None:
        """Close the connections; they are made again when somebody asks."""
        with self._lock:
            clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()

    def _make_client(self, address: str | None) -> Any:
        import boto3

        options = self.options
        if self._session is None:
            self._session = boto3.session.Session(
                aws_access_key_id=options.access_key_id,
                aws_secret_access_key=options.secret_access_key,
                aws_session_token=options.session_token,
                region_name=options.region,
            )
        return self._session.client("s3", endpoint_url=address, config=_config(options))

    def _require_bucket(self, error: Exception) -> None:
        """Tell a missing bucket from a missing object, where the answer has no body to say which."""
        from botocore.exceptions import ClientError

        if self._known_to_exist or code_of(error) != "404":
            return
        try:
            self.client().head_bucket(Bucket=self.options.bucket)
        except ClientError as missing:
            if code_of(missing) == "404":
                raise StorageError(self.storage, self.options.bucket, "there is no such bucket") from error


def _addressing(options: S3Options) -> dict[str, str]:
    if options.path_style is None and options.endpoint_url is not None:
        return {}
    # Left to itself, the SDK signs for an address of AWS that redirects to the region's: browsers do not follow.
    return {"addressing_style": "path" if options.path_style else "virtual"}


def _config(options: S3Options) -> Any:
    from botocore.config import Config

    return Config(
        signature_version="s3v4",
        s3=_addressing(options),
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        max_pool_connections=CONNECTIONS,
        # Servers other than AWS refuse the checksums that the SDK adds by itself, in presigned URLs above all.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
