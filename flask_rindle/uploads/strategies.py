"""Which road the bytes of an upload take. The server chooses; nothing is downgraded on the way."""

from __future__ import annotations

from collections.abc import Mapping

from flask_rindle.errors import UploadUnsupported
from flask_rindle.models.states import Strategy
from flask_rindle.storage.base import Ability, PresignsPut, Storage, UploadsParts, UploadsResumably, can, require
from flask_rindle.types import MB

# From here on a bad line is likelier than not to break a request, so the bytes come in several.
LARGE_BYTES = 32 * MB
NEEDED: Mapping[Strategy, type[Ability]] = {
    Strategy.PRESIGNED_PUT: PresignsPut,
    Strategy.MULTIPART: UploadsParts,
    Strategy.RESUMABLE: UploadsResumably,
}
# Once such an upload is complete no URL is left that could write to its key.
SEALED = frozenset({Strategy.MULTIPART, Strategy.RESUMABLE})


def best_strategy(storage: Storage, size_bytes: int | None) -> Strategy:
    """Past the app where the storage can do it, through the app where not; a large one so that it can be resumed."""
    resumable = [road for road in (Strategy.MULTIPART, Strategy.RESUMABLE) if can(storage, NEEDED[road])]
    if size_bytes is not None and size_bytes > LARGE_BYTES and resumable:
        return resumable[0]
    return Strategy.PRESIGNED_PUT if can(storage, PresignsPut) else Strategy.FORM


def require_strategy(storage: Storage, strategy: Strategy) -> None:
    """Nothing, or UploadUnsupported with the capability that the storage lacks."""
    if strategy in NEEDED:
        require(storage, NEEDED[strategy], UploadUnsupported)
