"""The four transition tables, and the one function that moves a row along them.

News that comes twice is no error: a row that is already where it is sent stays there, and no event
is written. Nothing leaves `quarantined` but to be deleted, and nothing leaves `deleted`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any, cast

from sqlalchemy import ColumnElement, CursorResult, and_, select, update
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from flask_rindle import signals
from flask_rindle.errors import LostRace, TransitionRefused
from flask_rindle.models.asset import Asset, Variant
from flask_rindle.models.database import on_commit
from flask_rindle.models.event import Event
from flask_rindle.models.provider import ProviderAsset
from flask_rindle.models.states import AssetState, ProviderState, SessionState, VariantState
from flask_rindle.models.upload import UploadSession

Table = Mapping[str, frozenset[str]]
Row = Asset | Variant | UploadSession | ProviderAsset


def _table(edges: Mapping[StrEnum, str]) -> Table:
    return {state.value: frozenset(targets.split()) for state, targets in edges.items()}


_A, _V, _S, _P = AssetState, VariantState, SessionState, ProviderState

ASSET: Table = _table(
    {
        _A.STAGED: "validating deleted",
        _A.VALIDATING: "analyzing quarantined deleted",
        _A.ANALYZING: "promoting quarantined deleted",
        _A.PROMOTING: "available quarantined deleted",
        _A.AVAILABLE: "processing transcoding ready degraded quarantined deleted",
        _A.PROCESSING: "transcoding ready degraded quarantined deleted",
        _A.TRANSCODING: "processing ready degraded quarantined deleted",
        _A.READY: "processing transcoding degraded quarantined deleted",
        _A.DEGRADED: "processing transcoding ready quarantined deleted",
        _A.QUARANTINED: "deleted",
        _A.DELETED: "",
    }
)

VARIANT: Table = _table(
    {
        _V.PLANNED: "queued cancelled",
        _V.QUEUED: "processing cancelled",
        # Back to queued: its worker died or was stopped, or trouble passed by that is no verdict.
        _V.PROCESSING: "ready failed cancelled queued",
        _V.READY: "stale missing purged",
        _V.STALE: "queued missing purged",
        # Back to ready: the bytes were found again.
        _V.MISSING: "queued ready purged",
        _V.FAILED: "queued purged",
        _V.CANCELLED: "queued purged",
        _V.PURGED: "",
    }
)

UPLOAD_SESSION: Table = _table(
    {
        _S.INITIALIZED: "signed uploading verifying aborted expired failed",
        _S.SIGNED: "resuming uploading uploaded verifying aborted expired failed",
        _S.RESUMING: "uploading uploaded verifying aborted expired failed",
        _S.UPLOADING: "resuming uploaded verifying aborted expired failed",
        _S.UPLOADED: "verifying aborted expired failed",
        # Back to uploaded: the storage did not answer, which says nothing about the bytes.
        _S.VERIFYING: "completed failed uploaded",
        _S.COMPLETED: "",
        _S.ABORTED: "",
        _S.EXPIRED: "",
        _S.FAILED: "",
    }
)

PROVIDER_ASSET: Table = _table(
    {
        # News may overtake each other, so a later state may come first.
        _P.PENDING: "uploading processing ready errored deleted",
        # Back to pending: the provider refused for now, and nothing is there yet.
        _P.UPLOADING: "pending processing ready errored deleted",
        _P.PROCESSING: "ready errored deleted",
        _P.READY: "errored deleted",
        # The provider's word counts for more than an error that we recorded.
        _P.ERRORED: "pending uploading processing ready deleted",
        _P.DELETED: "",
    }
)

TABLES: Mapping[type[Row], tuple[str, Table]] = {
    Asset: ("asset", ASSET),
    Variant: ("variant", VARIANT),
    UploadSession: ("upload_session", UPLOAD_SESSION),
    ProviderAsset: ("provider_asset", PROVIDER_ASSET),
}

_WORKING = frozenset({_V.PLANNED, _V.QUEUED, _V.PROCESSING})
_ROLLABLE = frozenset({_A.AVAILABLE, _A.PROCESSING, _A.TRANSCODING, _A.READY, _A.DEGRADED})


def move(
    db_session: Session,
    row: Row,
    to: StrEnum,
    *,
    now: datetime,
    only_if: ColumnElement[bool] | None = None,
    **values: Any,
) -> bool:
    """Send a row to a state, with the columns that change beside it; False when it is there already.

    One compare-and-set on the state that `row` shows, and on `only_if`; one event, in the caller's
    transaction; the signal fires after its commit. Raises TransitionRefused where the table has no
    such edge, and LostRace when the row has left that state, or `only_if` is no longer so.
    """
    kind, table = TABLES[type(row)]
    source = row.state
    if source == to.value:
        return False
    if to.value not in table[source]:
        raise TransitionRefused(kind, row.id, source, to.value)
    unchanged = type(row).state == source if only_if is None else and_(type(row).state == source, only_if)
    _compare_and_set(db_session, row, unchanged, {"state": to.value, "updated_at": now, **values})
    _record(db_session, row, source, now)
    return True


def _compare_and_set(db_session: Session, row: Row, unchanged: ColumnElement[bool], values: Mapping[str, Any]) -> None:
    cls = type(row)
    statement = update(cls).where(cls.id == row.id, unchanged).values(**values)
    result = cast("CursorResult[Any]", db_session.execute(statement, execution_options={"synchronize_session": False}))
    if result.rowcount != 1:
        raise LostRace(TABLES[cls][0], row.id)
    for name, value in values.items():
        set_committed_value(row, name, value)


def _record(db_session: Session, row: Row, source: str, now: datetime) -> None:
    kind = TABLES[type(row)][0]
    facts: dict[str, Any] = {
        "asset_id": row.id if isinstance(row, Asset) else row.asset_id,
        "name": row.name if isinstance(row, Variant) else None,
        "from_state": source,
        "to_state": row.state,
    }
    db_session.add(Event(kind=kind, subject_id=row.id, created_at=now, **facts))
    on_commit(db_session, partial(signals.ALL[f"rindle.{kind}.state_change"].send, kind, id=row.id, **facts))


def roll_up(db_session: Session, asset_id: uuid.UUID, *, now: datetime) -> None:
    """Bring an asset's state in line with its variants'. A quarantined or deleted one stays so.

    Locks the asset's row, so that of two variants that end together the second sees the first.
    """
    asset = db_session.get(Asset, asset_id, with_for_update=True, populate_existing=True)
    if asset is None or asset.state not in _ROLLABLE:
        return
    states = db_session.scalars(select(Variant.state).where(Variant.asset_id == asset_id)).all()
    move(db_session, asset, rolled_up(asset.kind, states), now=now)


def rolled_up(kind: str, states: Iterable[str]) -> AssetState:
    """The state of an asset of this kind whose variants are in these states."""
    present = set(states)
    if present & _WORKING:
        return AssetState.PROCESSING if kind == "image" else AssetState.TRANSCODING
    if present & {_V.FAILED, _V.CANCELLED, _V.MISSING}:
        return AssetState.DEGRADED
    return AssetState.READY
