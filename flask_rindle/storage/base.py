"""The storage port: five verbs, and one small class for each ability beyond them.

Promises that every adapter keeps, and that `flask_rindle.testing.contracts` checks:

- `put` replaces whole or not at all: a failed put leaves the old object, or none;
- `read` of a missing key raises at the call, not on the tenth chunk; ranges are half open;
- `delete` is quiet when nothing is there; `stat` is the truth about size;
- an etag changes whenever other bytes are written under a key;
- an error of the source that `put` reads from leaves unchanged;
- `url` raises CapabilityMissing for a kind of link that is not declared;
- every failure leaves as a `StorageError` with the SDK's own as its cause;
- no method shows a signed URL in a repr or a log, and none opens a database session;
- an adapter can be used from several threads at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, ClassVar, Literal, Protocol, TypeVar

from flask_rindle.errors import CapabilityMissing, InvalidKey, UnknownName
from flask_rindle.types import GB, KB, MB, ByteRange, Checksum, Disposition

MAX_KEY_CHARACTERS = 512
MAX_SEGMENT_BYTES = 255
CHUNK_BYTES = 1024 * 1024


class Capability(StrEnum):
    """What a storage can do beyond the five verbs. A closed vocabulary."""

    SIGNED_URL = "signed_url"
    PUBLIC_URL = "public_url"
    PRESIGNED_PUT = "presigned_put"
    MULTIPART_UPLOAD = "multipart_upload"
    RESUMABLE_UPLOAD = "resumable_upload"
    PROMOTE = "promote"
    CORS = "cors"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """What a storage knows about one object; `content_type` is None where it keeps none."""

    key: str
    size_bytes: int
    etag: str
    content_type: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkTerms:
    """What a download URL grants; `expires_in=None` asks for a permanent, unsigned one."""

    expires_in: timedelta | None
    content_type: str
    disposition: Disposition
    filename: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PutTerms:
    """What a presigned PUT grants: these bytes and no others, for so long."""

    expires_in: timedelta
    content_type: str
    size_bytes: int
    checksum: Checksum | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PresignedUpload:
    """Where and how a client sends its bytes. The URL is a bearer secret until it expires."""

    url: str = field(repr=False)
    method: Literal["PUT"] = "PUT"
    headers: Mapping[str, str]
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadTerms:
    """What an upload in several requests will be; `size_bytes` is None where nobody knows yet."""

    content_type: str
    size_bytes: int | None
    public: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a multipart upload as the storage has it; numbers begin with 1."""

    number: int
    size_bytes: int
    etag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PartLimits:
    """What a storage takes as parts; the last one may be smaller than the smallest."""

    smallest_bytes: int = 5 * MB
    largest_bytes: int = 5 * GB
    most: int = 10_000
    largest_object_bytes: int = 5 * 1024 * GB


class ResumableState(StrEnum):
    """Where a resumable upload stands at its storage."""

    IN_PROGRESS = "in_progress"
    COMPLETE = "complete"
    EXPIRED = "expired"  # gone: too old, cancelled, or never known


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumableStart:
    """Where the bytes of a resumable upload go. Whoever has the URI can send them: it is a bearer secret."""

    uri: str = field(repr=False)
    upload_id: str = field(repr=False)
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumableProgress:
    """How many bytes the storage has for good, from the first one on."""

    committed_bytes: int
    state: ResumableState


class AppLinks(Protocol):
    """Makes URLs of the app itself, for storages that have no HTTP server of their own."""

    def file_url(self, storage: str, key: str, terms: LinkTerms) -> str: ...

    def put(self, storage: str, key: str, terms: PutTerms) -> PresignedUpload: ...


class Storage(ABC):
    """Bytes under keys. Construct with the options of `RINDLE_STORAGES`; `name` is its key there."""

    name: str
    capabilities: frozenset[Capability] = frozenset()
    longest_url: timedelta | None = None  # the longest life of a signed URL; None: as long as anybody likes

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def put(self, key: str, source: BinaryIO, *, content_type: str | None = None, public: bool = False) -> StoredObject:
        """Store everything that `source` gives, replacing what was there.

        `public`: whether caches that people share may keep it, for storages that serve by themselves.
        """

    @abstractmethod
    def read(self, key: str, byte_range: ByteRange | None = None) -> Iterator[bytes]:
        """The bytes in bounded chunks. Past the end there is nothing. Raises ObjectNotFound."""

    @abstractmethod
    def stat(self, key: str) -> StoredObject:
        """Size, etag and type. Raises ObjectNotFound."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove the object; no error when there is none."""

    @abstractmethod
    def url(self, key: str, terms: LinkTerms) -> str:
        """A URL to download from, made without looking whether the object exists."""

    def save_to(self, key: str, path: Path) -> StoredObject:
        """Write the object into a new file at `path` and tell which version it was.

        Raises ObjectNotFound, and leaves no file behind when it fails.
        """
        before = self.stat(key)
        with path.open("xb") as target:
            try:
                for chunk in self.read(key):
                    target.write(chunk)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
        return before

    def tidy(self) -> int:
        """Remove what writers that died left half done, and nothing that one is at; how many pieces that were."""
        return 0

    def close(self) -> None:  # noqa: B027 - most storages hold nothing
        """Let go of connections; the storage is not used afterwards."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


class Ability(ABC):
    """Something that only some storages can do."""

    capability: ClassVar[Capability]


class PresignsPut(Ability):
    """A client can be given a URL to PUT one object at."""

    capability = Capability.PRESIGNED_PUT
    largest_put_bytes: int | None = None

    @abstractmethod
    def presign_put(self, key: str, terms: PutTerms) -> PresignedUpload:
        """A URL that takes just these bytes.

        Repeating the PUT before it expires does no harm: it succeeds, or is answered 412 because the object is there.
        """


class UploadsParts(Ability):
    """An object can be sent in numbered parts, in any order and at once, and put together at the end.

    An upload that is over, one way or another, is not there any more: UploadGone, but for `abort_parts`.
    """

    capability = Capability.MULTIPART_UPLOAD
    part_limits = PartLimits()

    @abstractmethod
    def start_parts(self, key: str, terms: UploadTerms) -> str:
        """Begin an upload; its id at the storage. Nothing can be seen under the key until it is complete."""

    @abstractmethod
    def presign_part(
        self, key: str, upload_id: str, number: int, *, size_bytes: int, expires_in: timedelta
    ) -> PresignedUpload:
        """A URL that takes this part, of just this size. Repeating the PUT replaces the part."""

    @abstractmethod
    def put_part(self, key: str, upload_id: str, number: int, source: BinaryIO, *, size_bytes: int) -> Part:
        """Send a part from here, replacing one of the same number."""

    @abstractmethod
    def list_parts(self, key: str, upload_id: str) -> list[Part]:
        """The parts that the storage has, by number."""

    @abstractmethod
    def complete_parts(self, key: str, upload_id: str, parts: Sequence[Part]) -> StoredObject:
        """Put these parts together, in this order; what stands under the key afterwards.

        A repeated call after success returns the same answer. Raises PartsRefused when the storage
        has other parts, or one that is too small.
        """

    @abstractmethod
    def abort_parts(self, key: str, upload_id: str | None) -> None:
        """Remove what has come in, and refuse what still comes; quiet when the upload is over.

        None is for a caller who cannot know the id: every upload under the key.
        """


class UploadsResumably(Ability):
    """An object can be sent from its first byte to its last in requests that go on where the last one broke off."""

    capability = Capability.RESUMABLE_UPLOAD
    chunk_bytes = 256 * KB  # every request but the last sends a multiple of it

    @abstractmethod
    def start_resumable(self, key: str, terms: UploadTerms, *, origin: str | None = None) -> ResumableStart:
        """Begin an upload. `origin`: the page, as browsers name it, that will send the bytes."""

    @abstractmethod
    def resumable_progress(self, key: str, uri: str) -> ResumableProgress:
        """How far it is, in the storage's own words; EXPIRED when it knows the upload no more."""

    @abstractmethod
    def cancel_resumable(self, key: str, uri: str) -> None:
        """Remove what has come in, and refuse what still comes; quiet when the upload is over."""


class Promotes(Ability):
    """An object can be moved to its final key under the condition that nobody has rewritten it."""

    capability = Capability.PROMOTE

    @abstractmethod
    def promote(
        self, source_key: str, target_key: str, *, etag: str, content_type: str | None = None, public: bool = False
    ) -> StoredObject:
        """Move the object if its etag is still `etag`; what stands at the target afterwards.

        A repeated call after success returns the same answer. `content_type`: what the bytes turned out to be,
        None to leave it; `public` as in `put`. Raises ObjectChanged when the source was overwritten, with
        nothing left at the target, and ObjectNotFound.
        """


class ConfiguresCors(Ability):
    """Browsers of other origins can be allowed to send to the storage."""

    capability = Capability.CORS

    @abstractmethod
    def cors_rules(self, origins: Sequence[str]) -> object:
        """What these origins need, as the provider's own tools take it in JSON. Raises ValueError for no origin."""

    @abstractmethod
    def apply_cors(self, origins: Sequence[str]) -> None:
        """Replace the storage's rules by these."""


class Storages(dict[str, Storage]):
    """The storages of one app by name; UnknownName for one that is configured no more."""

    def __missing__(self, name: str) -> Storage:
        raise UnknownName("storage", name, self)


class LinksThroughApp(ABC):
    """A storage whose URLs are routes of the app; the engine hands it `links` once."""

    links: AppLinks


A = TypeVar("A", bound=Ability)


def require(storage: Storage, ability: type[A], error: type[CapabilityMissing] = CapabilityMissing) -> A:
    """The storage seen as `ability`, or `error`. The only place that asks what a storage can do."""
    adapter: object = storage
    if ability.capability in storage.capabilities and isinstance(adapter, ability):
        return adapter
    raise error(f"storage {storage.name!r}", ability.capability)


def can(storage: Storage, ability: type[Ability]) -> bool:
    """Whether `require` would succeed."""
    return ability.capability in storage.capabilities and isinstance(storage, ability)


def check_key(storage: str, key: str) -> str:
    """The key, if it is relative, clean, short enough and not hidden; else InvalidKey."""
    segments = key.split("/")
    clean = (
        0 < len(key) <= MAX_KEY_CHARACTERS
        and "\\" not in key
        and not key.startswith(".")
        and key.isprintable()
        and max(len(segment.encode()) for segment in segments) <= MAX_SEGMENT_BYTES
        and all(segment not in ("", ".", "..") for segment in segments)
    )
    if not clean:
        raise InvalidKey(storage, key)
    return key
