"""The exception tree.

RindleError
├─ ConfigurationError(problems)          wrong set-up; raised while declaring or in init_app
│   ├─ InvalidProfile(profile, problems)
│   └─ MissingExtra(feature, extra)
├─ UnknownName(kind, name, known)        a profile, storage, owner, slot or variant nobody declared
├─ OwnerUnsaved(owner_type)              the owner has no primary key yet
├─ CapabilityMissing(owner, capability)
│   ├─ UploadUnsupported  └─ DeliveryUnsupported
├─ NotAuthorized(action)
├─ InvalidToken(purpose)  ├─ ExpiredToken(purpose)
├─ NotFound(kind, id)
├─ NotDeliverable(id, state)             the asset has no verified bytes yet, or none any more
├─ RejectedUpload                        the sender can mend it; never retried
│   ├─ MalformedRequest(field, problem)
│   ├─ TicketInvalid  ├─ TicketExpired  ├─ TicketUsed
│   ├─ SessionClosed(state)  ├─ UploadIncomplete(missing)
│   ├─ TooLarge(limit_bytes, size_bytes)  ├─ EmptyUpload  ├─ SizeMismatch(declared_bytes, stored_bytes)
│   ├─ TypeRefused(content_type, allowed)  ├─ ExtensionRefused(extension, allowed)
│   ├─ ExtensionMismatch(extension, content_type)  ├─ ChecksumMismatch  ├─ ContentChanged
│   ├─ TooManyPixels(limit_pixels, width, height)  ├─ MediaDamaged  └─ ScanRefused(scanner, reason)
├─ LifecycleError
│   ├─ TransitionRefused(kind, id, from_state, to_state)
│   └─ LostRace(kind, id)                retryable
├─ StorageError(storage, key)            retryable: trouble passes, credentials get mended
│   ├─ ObjectNotFound  ├─ ObjectChanged  ├─ InvalidKey          these five are facts, not trouble
│   ├─ UploadGone      ├─ PartsRefused
│   └─ StorageDenied   ├─ StorageFull    └─ StorageUnavailable
├─ ProcessingError
│   ├─ MediaUnsupported(content_type)  ├─ OutputWrong(reason)
│   ├─ SandboxFailed(reason)             retryable; the child died or ran out of time or memory
│   └─ ScannerUnavailable(scanner)       retryable; it could not look
├─ DatabaseBusy                          retryable
├─ DatabaseUnavailable(problem)          retryable; away, full, or not as it should be
├─ HostTrouble(problem)                  retryable; the machine refused a file, a process, memory
├─ Snoozed(delay)                        flow; the work is put off, and no attempt is used up
│   └─ WorkInProgress(asset_id)          somebody is at the asset
├─ Discarded(reason)                     flow; the work has lost its reason, and is not tried again
├─ OpenTransaction                       the caller's own SQLite write transaction is in the way
└─ Cancelled                             flow, not failure; ends a job quietly

Every class has a stable `code`. Data are attributes and the sentence is built here, so that the
same facts make the log line, the HTTP answer and the test.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import ClassVar

MOST_NAMED = 100
INTERNAL_MESSAGE = "Something went wrong on the server. Try again in a moment."


class RindleError(Exception):
    """Root of everything that flask-rindle raises on purpose."""

    code: ClassVar[str] = "rindle_error"
    retryable: ClassVar[bool] = False

    @property
    def public_message(self) -> str:
        """The sentence that may leave the server."""
        return INTERNAL_MESSAGE

    @property
    def facts(self) -> dict[str, object]:
        """JSON-ready facts that may leave the server, beside code and sentence."""
        return {}


class ConfigurationError(RindleError):
    """The set-up is wrong; `problems` lists every mistake with what to write instead."""

    code = "configuration_error"

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(("flask-rindle is not set up correctly:", *(f"- {p}" for p in self.problems))))


class InvalidProfile(ConfigurationError):
    """A profile class is wrong; raised where the class is made."""

    code = "invalid_profile"

    def __init__(self, profile: str, problems: Iterable[str]) -> None:
        self.profile = profile
        super().__init__(f"{profile}: {problem}" for problem in problems)


class MissingExtra(ConfigurationError, ImportError):
    """An optional package is needed for a feature that is switched on."""

    code = "missing_extra"

    def __init__(self, feature: str, extra: str) -> None:
        self.feature = feature
        self.extra = extra
        super().__init__([f"{feature} needs more packages: pip install 'flask-rindle[{extra}]'"])


class UnknownName(RindleError):
    """A name that nobody declared; `known` lists the declared ones."""

    code = "unknown_name"

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        self.kind = kind
        self.name = name
        self.known = tuple(sorted(known))
        super().__init__(f"There is no {kind} called {name!r}. Known: {', '.join(self.known) or 'none'}.")


class OwnerUnsaved(RindleError):
    """An owner without a primary key cannot be remembered."""

    code = "owner_unsaved"

    def __init__(self, owner_type: str) -> None:
        self.owner_type = owner_type
        super().__init__(f"This {owner_type} has no primary key yet: add it to the session and flush first.")


class CapabilityMissing(RindleError):
    """A storage or processor was asked for something that it cannot do; nothing is downgraded."""

    code = "capability_missing"

    def __init__(self, owner: str, capability: str) -> None:
        self.owner = owner
        self.capability = capability
        super().__init__(f"{owner} cannot {capability}. Choose another backend, or another way.")


class UploadUnsupported(CapabilityMissing):
    """The storage cannot take an upload in this way."""

    code = "upload_unsupported"

    @property
    def public_message(self) -> str:
        return "This kind of upload is not available here."

    @property
    def facts(self) -> dict[str, object]:
        return {"capability": self.capability}


class DeliveryUnsupported(CapabilityMissing):
    """The storage cannot deliver in this way."""

    code = "delivery_unsupported"


class NotAuthorized(RindleError):
    """The authorizer said no."""

    code = "not_authorized"

    def __init__(self, action: str) -> None:
        self.action = action
        super().__init__(f"Not allowed to {action}.")

    @property
    def public_message(self) -> str:
        return "You are not allowed to see this."


class InvalidToken(RindleError):
    """A signed token was altered, cut short, or made for another purpose."""

    code = "invalid_token"

    def __init__(self, purpose: str) -> None:
        self.purpose = purpose
        super().__init__(f"This {purpose} token is not valid.")

    @property
    def public_message(self) -> str:
        return "This link is not valid. Reload the page that it came from."


class ExpiredToken(RindleError):
    """A signed token is genuine and too old."""

    code = "expired_token"

    def __init__(self, purpose: str) -> None:
        self.purpose = purpose
        super().__init__(f"This {purpose} token has expired.")

    @property
    def public_message(self) -> str:
        return "This link has expired. Reload the page that it came from."


class NotFound(RindleError):
    """There is no such row, or the asker may not know that there is."""

    code = "not_found"

    def __init__(self, kind: str, id: object) -> None:  # noqa: A002 - the field's own name
        self.kind = kind
        self.id = id
        super().__init__(f"There is no {kind} {id}.")

    @property
    def public_message(self) -> str:
        return f"There is no such {self.kind.replace('_', ' ')}."


class NotDeliverable(RindleError):
    """The asset is still being checked, was refused, or is being removed."""

    code = "not_deliverable"

    def __init__(self, id: object, state: str) -> None:  # noqa: A002
        self.id = id
        self.state = state
        super().__init__(f"Asset {id} is {state}: there is nothing to deliver.")

    @property
    def public_message(self) -> str:
        return "This file is not available."


class RejectedUpload(RindleError):
    """The upload is refused for a reason that its sender can understand and mend."""

    code = "rejected_upload"

    @property
    def public_message(self) -> str:
        return str(self)


class MalformedRequest(RejectedUpload):
    """A field of the request is missing or has the wrong shape."""

    code = "malformed_request"

    def __init__(self, field: str, problem: str) -> None:
        self.field = field
        self.problem = problem
        super().__init__(f"{field} {problem}.")

    @property
    def facts(self) -> dict[str, object]:
        return {"field": self.field}


class TicketInvalid(RejectedUpload):
    """The upload ticket is missing, altered, or made for something else."""

    code = "ticket_invalid"

    def __init__(self) -> None:
        super().__init__("This upload form is not valid. Reload the page and choose the file again.")


class TicketExpired(RejectedUpload):
    """The upload ticket is genuine and too old."""

    code = "ticket_expired"

    def __init__(self) -> None:
        super().__init__("This upload form has expired. Reload the page and choose the file again.")


class TicketUsed(RejectedUpload):
    """All uploads that the ticket allows have been opened."""

    code = "ticket_used"

    def __init__(self, max_files: int) -> None:
        self.max_files = max_files
        super().__init__(
            "This upload form has been used already. Reload the page to send another file."
            if max_files == 1
            else f"This form takes {max_files} files, and has them. Reload the page to send more."
        )

    @property
    def facts(self) -> dict[str, object]:
        return {"max_files": self.max_files}


class SessionClosed(RejectedUpload):
    """The upload session is over: completed, cancelled, failed or expired."""

    code = "session_closed"

    def __init__(self, state: str) -> None:
        self.state = state
        super().__init__(f"This upload is already {state}. Start a new one.")

    @property
    def facts(self) -> dict[str, object]:
        return {"state": self.state}


class UploadIncomplete(RejectedUpload):
    """Completion was asked for and the bytes are not there."""

    code = "upload_incomplete"

    def __init__(self, missing: Iterable[int] = ()) -> None:
        """`missing`: the numbers of the parts that are not there, of an upload in parts."""
        self.missing = tuple(missing)
        super().__init__("The file has not arrived yet. Send it, then complete the upload.")

    @property
    def facts(self) -> dict[str, object]:
        return {"missing": list(self.missing[:MOST_NAMED])} if self.missing else {}


class TooLarge(RejectedUpload):
    """The file has more bytes than the profile takes."""

    code = "too_large"

    def __init__(self, limit_bytes: int, size_bytes: int | None = None) -> None:
        self.limit_bytes = limit_bytes
        self.size_bytes = size_bytes
        super().__init__(f"The file is too large. Send one of at most {format_bytes(limit_bytes)}.")

    @property
    def facts(self) -> dict[str, object]:
        return {"limit_bytes": self.limit_bytes, "size_bytes": self.size_bytes}


class EmptyUpload(RejectedUpload):
    """No file was chosen, or it has no bytes."""

    code = "empty_upload"

    def __init__(self) -> None:
        super().__init__("The file is empty. Choose another one.")


class SizeMismatch(RejectedUpload):
    """The stored bytes are not as many as the sender announced."""

    code = "size_mismatch"

    def __init__(self, declared_bytes: int, stored_bytes: int) -> None:
        self.declared_bytes = declared_bytes
        self.stored_bytes = stored_bytes
        super().__init__(f"The file did not arrive whole: {stored_bytes} of {declared_bytes} bytes. Send it again.")

    @property
    def facts(self) -> dict[str, object]:
        return {"declared_bytes": self.declared_bytes, "stored_bytes": self.stored_bytes}


class TypeRefused(RejectedUpload):
    """The type, declared or found in the bytes, is not one that the profile takes."""

    code = "type_refused"

    def __init__(self, content_type: str, allowed: Iterable[str]) -> None:
        self.content_type = content_type
        self.allowed = tuple(sorted(allowed))
        names = ", ".join(type_name(known) for known in self.allowed)
        super().__init__(f"Files of type {content_type} are not accepted here. Send {names}.")

    @property
    def facts(self) -> dict[str, object]:
        return {"content_type": self.content_type, "allowed": list(self.allowed)}


class ExtensionRefused(RejectedUpload):
    """The file name's extension is not one that the profile takes."""

    code = "extension_refused"

    def __init__(self, extension: str, allowed: Iterable[str]) -> None:
        self.extension = extension
        self.allowed = tuple(sorted(allowed))
        super().__init__(
            f"Files named {extension or 'without an extension'} are not accepted here. Send {', '.join(self.allowed)}."
        )

    @property
    def facts(self) -> dict[str, object]:
        return {"extension": self.extension, "allowed": list(self.allowed)}


class ExtensionMismatch(RejectedUpload):
    """The file name says one type and the bytes are another."""

    code = "extension_mismatch"

    def __init__(self, extension: str, content_type: str) -> None:
        self.extension = extension
        self.content_type = content_type
        super().__init__(f"The file is named {extension} and holds {content_type}. Rename or convert it.")

    @property
    def facts(self) -> dict[str, object]:
        return {"extension": self.extension, "content_type": self.content_type}


class ChecksumMismatch(RejectedUpload):
    """The stored bytes do not have the checksum that the sender announced."""

    code = "checksum_mismatch"

    def __init__(self, algorithm: str) -> None:
        self.algorithm = algorithm
        super().__init__("The file was damaged on its way. Send it again.")


class ContentChanged(RejectedUpload):
    """The staged object was overwritten after it had been verified."""

    code = "content_changed"

    def __init__(self) -> None:
        super().__init__("The file was changed after it had been checked, so it was refused. Send it again.")


class TooManyPixels(RejectedUpload):
    """Width times height is more than the profile takes."""

    code = "too_many_pixels"

    def __init__(self, limit_pixels: int, width: int, height: int) -> None:
        self.limit_pixels = limit_pixels
        self.width = width
        self.height = height
        super().__init__(
            f"The picture is too large: {width} × {height} pixels. "
            f"Send one of at most {limit_pixels / 1_000_000:g} megapixels."
        )

    @property
    def facts(self) -> dict[str, object]:
        return {"limit_pixels": self.limit_pixels, "width": self.width, "height": self.height}


class MediaDamaged(RejectedUpload):
    """The file claims a type that its bytes do not keep: truncated, corrupt or a trap."""

    code = "media_damaged"

    def __init__(self, content_type: str) -> None:
        self.content_type = content_type
        super().__init__("The file is damaged or incomplete and cannot be opened. Send another copy.")

    @property
    def facts(self) -> dict[str, object]:
        return {"content_type": self.content_type}


class ScanRefused(RejectedUpload):
    """A scanner of the profile refused the content."""

    code = "scan_refused"

    def __init__(self, scanner: str, reason: str) -> None:
        self.scanner = scanner
        self.reason = reason
        super().__init__("The file was refused by a security check.")


class LifecycleError(RindleError):
    """A row could not go to the state that was asked for."""

    code = "lifecycle_error"


class TransitionRefused(LifecycleError):
    """The table has no such edge: a bug, or news that came too late."""

    code = "transition_refused"

    def __init__(self, kind: str, id: object, from_state: str, to_state: str) -> None:  # noqa: A002
        self.kind = kind
        self.id = id
        self.from_state = from_state
        self.to_state = to_state
        super().__init__(f"{kind} {id} is {from_state} and cannot become {to_state}.")


class LostRace(LifecycleError):
    """Somebody else moved the row first; read it again and decide anew."""

    code = "lost_race"
    retryable = True

    def __init__(self, kind: str, id: object) -> None:  # noqa: A002
        self.kind = kind
        self.id = id
        super().__init__(f"{kind} {id} was changed by somebody else meanwhile.")


class StorageError(RindleError):
    """A storage could not do its work; the SDK's own error is the cause."""

    code = "storage_error"
    retryable = True

    def __init__(self, storage: str, key: str, problem: str = "failed") -> None:
        self.storage = storage
        self.key = key
        super().__init__(f"Storage {storage!r}: {problem} ({key!r}).")


class ObjectNotFound(StorageError):
    """There are no bytes under this key."""

    code = "object_not_found"
    retryable = False

    def __init__(self, storage: str, key: str) -> None:
        super().__init__(storage, key, "there is no such object")


class ObjectChanged(StorageError):
    """The object is not the one whose etag was given."""

    code = "object_changed"
    retryable = False

    def __init__(self, storage: str, key: str) -> None:
        super().__init__(storage, key, "the object was overwritten")


class UploadGone(StorageError):
    """The storage knows this multipart upload no more: completed, aborted or too old."""

    code = "upload_gone"
    retryable = False

    def __init__(self, storage: str, key: str) -> None:
        super().__init__(storage, key, "there is no such multipart upload")


class PartsRefused(StorageError):
    """The parts cannot be put together: one is missing, too small, or not the one that was named."""

    code = "parts_refused"
    retryable = False

    def __init__(self, storage: str, key: str) -> None:
        super().__init__(storage, key, "the parts do not make up the object")


class InvalidKey(StorageError):
    """The key is empty, too long, absolute, or leaves its root."""

    code = "invalid_key"
    retryable = False

    def __init__(self, storage: str, key: str) -> None:
        super().__init__(storage, key[:80], "not a valid key")


class StorageDenied(StorageError):
    """The storage refused the credentials or the permission."""

    code = "storage_denied"

    def __init__(self, storage: str, key: str) -> None:
        super().__init__(storage, key, "access denied; check the credentials and the policy")


class StorageFull(StorageError):
    """There is no room left; nothing half-written was kept."""

    code = "storage_full"

    def __init__(self, storage: str, key: str) -> None:
        super().__init__(storage, key, "no space left")

    @property
    def public_message(self) -> str:
        return "The server has no room for this file at the moment. Try again later."


class StorageUnavailable(StorageError):
    """The storage did not answer, or answered with trouble of its own."""

    code = "storage_unavailable"

    def __init__(self, storage: str, key: str) -> None:
        super().__init__(storage, key, "not reachable")

    @property
    def public_message(self) -> str:
        return "The file store does not answer at the moment. Try again shortly."


class ProcessingError(RindleError):
    """A variant could not be made."""

    code = "processing_error"


class MediaUnsupported(ProcessingError):
    """No processor opens this type."""

    code = "media_unsupported"

    def __init__(self, content_type: str) -> None:
        self.content_type = content_type
        super().__init__(f"Nothing here can open {content_type}.")


class OutputWrong(ProcessingError):
    """The processor made something else than what the recipe asked for."""

    code = "output_wrong"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"The result is not what the recipe asked for: {reason}.")


class SandboxFailed(ProcessingError):
    """The child process died, ran out of time or memory, or answered nonsense."""

    code = "sandbox_failed"
    retryable = True

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"The decoder process failed: {reason}.")


class ScannerUnavailable(ProcessingError):
    """A scanner could not look at the file, which says nothing about it."""

    code = "scanner_unavailable"
    retryable = True

    def __init__(self, scanner: str) -> None:
        self.scanner = scanner
        super().__init__(f"The scanner {scanner!r} is out of order.")


class DatabaseBusy(RindleError):
    """The database stayed locked for longer than the busy timeout."""

    code = "database_busy"
    retryable = True

    def __init__(self) -> None:
        super().__init__("The database is locked by another writer. Nothing was changed; try again.")

    @property
    def public_message(self) -> str:
        return "The server is busy at the moment. Try again in a few seconds."


class DatabaseUnavailable(RindleError):
    """The database is away, full, or lacks our tables; the driver's error is the cause."""

    code = "database_unavailable"
    retryable = True

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(f"The database refused: {problem}. Look at its server, its disk, and flask db upgrade.")

    @property
    def public_message(self) -> str:
        return "The server is busy at the moment. Try again in a few seconds."


class HostTrouble(RindleError):
    """The operating system refused something that is not about the content."""

    code = "host_trouble"
    retryable = True

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(f"The machine refused: {problem}.")


class Snoozed(RindleError):
    """The work cannot be done yet, which is nobody's failure: it is put off without using up an attempt."""

    code = "snoozed"

    def __init__(self, delay: timedelta, reason: str = "it is too early") -> None:
        self.delay = delay
        super().__init__(f"The work is put off: {reason}.")


class WorkInProgress(Snoozed):
    """A worker is still at the asset, so its bytes cannot be removed yet."""

    code = "work_in_progress"

    def __init__(self, asset_id: object) -> None:
        self.asset_id = asset_id
        super().__init__(timedelta(seconds=2), f"asset {asset_id} is being worked on")


class Discarded(RindleError):
    """The work has lost its reason; its job ends, and is not tried again."""

    code = "discarded"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"There is nothing left to do: {reason}.")


class OpenTransaction(RindleError):
    """On SQLite, the caller's own uncommitted changes would make this call wait for itself."""

    code = "open_transaction"

    def __init__(self) -> None:
        super().__init__(
            "db.session has uncommitted changes, and SQLite has one writer: call db.session.commit() before this, "
            "or pass db_session= where the function takes it."
        )


class Cancelled(RindleError):
    """The work was called off; ends a job quietly."""

    code = "cancelled"

    def __init__(self) -> None:
        super().__init__("The work was cancelled.")


_TYPE_NAMES = {
    "image/jpeg": "JPEG",
    "image/webp": "WebP",
    "image/svg+xml": "SVG",
    "video/webm": "WebM",
    "video/quicktime": "MOV",
}


def type_name(content_type: str) -> str:
    """A media type for people: `JPEG` for `image/jpeg`."""
    family, _, subtype = content_type.partition("/")
    plain = subtype.removeprefix("x-").upper() if family in ("image", "video", "audio") else content_type
    return _TYPE_NAMES.get(content_type, plain)


def format_bytes(count: int) -> str:
    """A byte count for people: `8 MB`, in powers of 1,024."""
    units: Sequence[str] = ("bytes", "KB", "MB", "GB", "TB")
    size = float(count)
    for unit in units:
        if size < 1024 or unit == units[-1]:  # noqa: PLR2004 - the binary step
            break
        size /= 1024
    return f"{f'{size:.1f}'.removesuffix('.0')} {unit}"
