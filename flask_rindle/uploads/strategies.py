"""The roads that bytes can take to a storage. The server chooses; nothing is downgraded on the way."""

from __future__ import annotations

from enum import StrEnum

from flask_rindle.storage.base import PresignsPut, Storage, can


class Strategy(StrEnum):
    """How the bytes of a session arrive. All roads end in the same gate."""

    FORM = "form"  # through the app, in a multipart form
    PRESIGNED_PUT = "presigned_put"  # to the storage, at a signed URL


def best_strategy(storage: Storage) -> Strategy:
    """Past the app where the storage can do it, through the app where not."""
    return Strategy.PRESIGNED_PUT if can(storage, PresignsPut) else Strategy.FORM
