"""What the verbs of uploads answer with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import parse_qs, urlsplit

from flask_rindle.models.asset import Asset
from flask_rindle.models.upload import UploadSession
from flask_rindle.storage.base import ResumableState
from flask_rindle.uploads.multipart import Layout


@dataclass(frozen=True, slots=True)
class Completion:
    """A completed session and its asset, which the pipeline now looks at."""

    session: UploadSession
    asset: Asset


@dataclass(frozen=True, slots=True, kw_only=True)
class MultipartUpload:
    """An upload in parts of `part_size` bytes, the last one smaller. `part_headers` go with every part."""

    session: UploadSession
    upload_id: str = field(repr=False)
    upload_key: str
    part_size: int
    part_count: int
    part_headers: Mapping[str, str]

    @classmethod
    def of(cls, session: UploadSession) -> MultipartUpload:
        """The upload of a session that has begun."""
        layout = Layout.of(session)
        return cls(
            session=session,
            upload_id=str(session.multipart_upload_id),
            upload_key=session.upload_key,
            part_size=layout.part_bytes,
            part_count=layout.count,
            part_headers={},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumableUpload:
    """An upload that its storage can resume. Whoever has the URI can send the bytes: it is a bearer secret."""

    session: UploadSession
    session_uri: str = field(repr=False)
    upload_id: str = field(repr=False)
    expires_at: datetime | None

    @classmethod
    def of(cls, session: UploadSession, uri: str) -> ResumableUpload:
        """The upload of a session that has begun."""
        upload_id = parse_qs(urlsplit(uri).query).get("upload_id", [uri])[0]
        return cls(session=session, session_uri=uri, upload_id=upload_id, expires_at=session.session_uri_expires_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumableStatus:
    """How far a resumable upload is, in its storage's words."""

    session: UploadSession
    committed_bytes: int
    state: ResumableState
