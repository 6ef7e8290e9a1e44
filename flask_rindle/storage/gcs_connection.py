"""Google's client and its connections: made at first use, anew in each process, and closed together."""

from __future__ import annotations

import logging
from threading import Lock
from typing import Any

import google.auth
import requests
from google.auth.credentials import AnonymousCredentials
from google.auth.transport.requests import AuthorizedSession
from google.cloud import storage
from google.cloud.storage.retry import DEFAULT_RETRY
from google.oauth2 import service_account
from requests.adapters import HTTPAdapter

from flask_rindle.forks import renew_after_fork
from flask_rindle.storage.gcs_errors import redact
from flask_rindle.storage.gcs_options import Options

SCOPES = ("https://www.googleapis.com/auth/devstorage.full_control",)
TIMEOUT = (10, 60)  # to connect, and between two bytes
RETRY = DEFAULT_RETRY.with_delay(initial=0.2, maximum=5.0).with_timeout(30.0)
CONNECTIONS = 32


class HidesSecrets(logging.Filter):
    """Takes session ids out of what urllib3 logs about each request, down to DEBUG."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(redact(value) if isinstance(value, str) else value for value in record.args)
        return True


HIDES_SECRETS = HidesSecrets()


class KeyElsewhere(service_account.Credentials):  # type: ignore[misc]
    """A service account's key for a server that is not Google's: nobody there knows what Google allows it."""

    def _maybe_start_regional_access_boundary_refresh(self, request: object, url: str) -> None:
        pass


class Connection:
    """The way to one bucket, for all threads of a process."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.signer = _signer(options)
        logging.getLogger("urllib3.connectionpool").addFilter(HIDES_SECRETS)
        self._open: tuple[Any, Any, requests.Session] | None = None
        self._left: list[object] = []
        self.start_afresh()
        renew_after_fork(self)

    def start_afresh(self) -> None:
        """Share no socket with the process that was forked.

        Its pools are put aside and not closed: another thread may have held their locks, and closing waits for them.
        """
        self._lock = Lock()
        self._left.append(self._open)
        self._open = None

    @property
    def client(self) -> Any:
        """Google's client."""
        return self._opened()[0]

    @property
    def authorized(self) -> Any:
        """For requests of our own with the credentials."""
        return self._opened()[1]

    @property
    def bare(self) -> requests.Session:
        """For session URIs, which need no credentials and get none: they come from a database."""
        return self._opened()[2]

    def blob(self, key: str) -> Any:
        """A handle of the object; no request."""
        return self.bucket.blob(key, kms_key_name=self.options.kms_key_name)

    @property
    def bucket(self) -> Any:
        """A handle of the bucket; no request."""
        return self.client.bucket(self.options.bucket)

    def close(self) -> None:
        """Close every connection."""
        with self._lock:
            opened, self._open = self._open, None
        for session in opened[1:] if opened else ():
            session.close()

    def _opened(self) -> tuple[Any, Any, requests.Session]:
        with self._lock:
            if self._open is None:
                self._open = self._connect()
            return self._open

    def _connect(self) -> tuple[Any, Any, requests.Session]:
        credentials, project = self._credentials()
        authorized, bare = AuthorizedSession(credentials), requests.Session()
        for session in (authorized, bare):
            for scheme in ("https://", "http://"):
                session.mount(scheme, HTTPAdapter(pool_maxsize=CONNECTIONS))
        client = storage.Client(
            project=project,
            credentials=credentials,
            _http=authorized,
            client_options={"api_endpoint": self.options.endpoint},
        )
        # Newer releases fetch the bucket's metadata in a thread of their own, for traces; that needs a permission more.
        client._bucket_metadata_cache = None  # noqa: SLF001
        return client, authorized, bare

    def _credentials(self) -> tuple[Any, str | None]:
        options = self.options
        if self.signer is not None:
            return self.signer.with_scopes(SCOPES), options.project
        if not options.is_google:
            return AnonymousCredentials(), options.project
        # Google's own search: a file, gcloud, the machine's metadata.
        found, project = google.auth.default(scopes=SCOPES)
        return found, options.project or project


def _signer(options: Options) -> Any:
    """The service account's key, ready to sign; None without one."""
    if options.key is None:
        return None
    kind = service_account.Credentials if options.is_google else KeyElsewhere
    try:
        return kind.from_service_account_info(options.key)
    except ValueError:
        msg = "the private_key of credentials is none; write the dict of the JSON that Google made, or its path"
        raise ValueError(msg) from None
