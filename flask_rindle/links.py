"""URLs of the app itself, for storages that have no HTTP server of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

from flask_rindle.security.tokens import Purpose, Tokens
from flask_rindle.storage.base import LinkTerms, PresignedUpload, PutTerms
from flask_rindle.types import Checksum, Clock, Disposition


@dataclass(frozen=True, slots=True, kw_only=True)
class FileGrant:
    """What the holder of a file link may have."""

    storage: str
    key: str
    content_type: str
    disposition: Disposition
    filename: str
    expires_at: int | None  # seconds since 1970; None for ever


@dataclass(frozen=True, slots=True, kw_only=True)
class PutGrant:
    """What the holder of a PUT link may send."""

    storage: str
    key: str
    content_type: str
    size_bytes: int
    checksum: Checksum | None


class Links:
    """Makes and opens the tokens of `files/<token>`."""

    def __init__(self, tokens: Tokens, clock: Clock, base: Callable[[], str]) -> None:
        """`base`: the path under which the blueprint is mounted right now."""
        self._tokens = tokens
        self._clock = clock
        self._base = base

    def file_url(self, storage: str, key: str, terms: LinkTerms) -> str:
        """A link to download; without an expiry it is always the same, so that anyone may cache it."""
        payload = {"s": storage, "k": key, "t": terms.content_type, "d": terms.disposition, "f": terms.filename}
        expires_at = None if terms.expires_in is None else self._clock() + terms.expires_in
        token = self._tokens.sign(Purpose.FILE, payload, expires_at=expires_at)
        return f"{self._base()}/files/{token}/{quote(terms.filename, safe='')}"

    def put(self, storage: str, key: str, terms: PutTerms) -> PresignedUpload:
        """A link to upload just these bytes."""
        payload = {
            "s": storage,
            "k": key,
            "t": terms.content_type,
            "n": terms.size_bytes,
            "c": None if terms.checksum is None else str(terms.checksum),
        }
        expires_at = self._clock() + terms.expires_in
        token = self._tokens.sign(Purpose.PUT, payload, expires_at=expires_at)
        headers = {"Content-Type": terms.content_type}
        return PresignedUpload(url=f"{self._base()}/files/{token}", headers=headers, expires_at=expires_at)

    def open_file(self, token: str) -> FileGrant:
        """What a download link grants. Raises InvalidToken, ExpiredToken."""
        body = self._tokens.open(Purpose.FILE, token)
        return FileGrant(
            storage=body["s"],
            key=body["k"],
            content_type=body["t"],
            disposition=body["d"],
            filename=body["f"],
            expires_at=body.get("exp"),
        )

    def open_put(self, token: str) -> PutGrant:
        """What an upload link grants. Raises InvalidToken, ExpiredToken."""
        body = self._tokens.open(Purpose.PUT, token)
        checksum = None if body["c"] is None else Checksum.parse(body["c"])
        return PutGrant(
            storage=body["s"], key=body["k"], content_type=body["t"], size_bytes=body["n"], checksum=checksum
        )
