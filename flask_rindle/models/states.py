"""The words that state columns hold."""

from __future__ import annotations

from enum import StrEnum


class AssetState(StrEnum):
    """From a reserved row to a deliverable original with all its variants."""

    STAGED = "staged"  # the row is reserved, bytes are on their way
    VALIDATING = "validating"  # the bytes are there
    ANALYZING = "analyzing"  # the gate looks at them
    PROMOTING = "promoting"  # they passed and move to their final key
    AVAILABLE = "available"  # the original can be delivered
    PROCESSING = "processing"  # pictures are being made
    TRANSCODING = "transcoding"  # video or audio is being made
    READY = "ready"  # every variant is there
    DEGRADED = "degraded"  # the original is there, some variant is not
    QUARANTINED = "quarantined"  # refused by the gate; never delivered
    DELETED = "deleted"  # no link is made any more; its bytes are being removed


class VariantState(StrEnum):
    """One derivative of an asset."""

    PLANNED = "planned"
    QUEUED = "queued"
    PROCESSING = "processing"
    READY = "ready"
    STALE = "stale"  # made by an older recipe
    MISSING = "missing"  # its bytes are gone
    FAILED = "failed"
    CANCELLED = "cancelled"
    PURGED = "purged"


class SessionState(StrEnum):
    """One upload, from its ticket to its completion."""

    INITIALIZED = "initialized"
    SIGNED = "signed"  # a client holds a URL to write at
    RESUMING = "resuming"
    UPLOADING = "uploading"  # bytes are coming in through the app
    UPLOADED = "uploaded"
    VERIFYING = "verifying"
    COMPLETED = "completed"
    ABORTED = "aborted"
    EXPIRED = "expired"
    FAILED = "failed"


class Strategy(StrEnum):
    """How the bytes of an upload arrive. All roads end in the same gate."""

    FORM = "form"  # through the app, in a multipart form
    PRESIGNED_PUT = "presigned_put"  # to the storage, at a signed URL
    MULTIPART = "multipart"  # to the storage, in numbered parts at a signed URL each
    RESUMABLE = "resumable"  # to the storage, in requests that go on where the last one broke off


class ProviderState(StrEnum):
    """An asset's mirror at a streaming provider."""

    PENDING = "pending"
    UPLOADING = "uploading"
    PROCESSING = "processing"
    READY = "ready"
    ERRORED = "errored"
    DELETED = "deleted"


class JobState(StrEnum):
    """A piece of background work."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RunOutcome(StrEnum):
    """How one attempt at a job ended."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    RETRIED = "retried"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RELEASED = "released"
    LOST = "lost"


DELIVERABLE = frozenset(
    {
        AssetState.AVAILABLE,
        AssetState.PROCESSING,
        AssetState.TRANSCODING,
        AssetState.READY,
        AssetState.DEGRADED,
    }
)
SETTLED = frozenset({AssetState.READY, AssetState.DEGRADED, AssetState.QUARANTINED, AssetState.DELETED})
SESSION_OVER = frozenset({SessionState.COMPLETED, SessionState.ABORTED, SessionState.EXPIRED, SessionState.FAILED})
