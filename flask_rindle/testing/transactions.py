"""The rule "no bytes in a transaction", as something that tests can switch on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest.mock import patch
from weakref import WeakSet

from flask import current_app, has_app_context
from sqlalchemy import event
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction

from flask_rindle.models.database import in_transaction
from flask_rindle.storage.base import Storage
from flask_rindle.storage.local import Local
from flask_rindle.storage.memory import Memory

# `url` is missing: it makes a text and touches nothing.
VERBS = ("put", "read", "stat", "delete", "save_to", "presign_put", "promote")


class _Written(threading.local):
    """The sessions of this thread that have written and not ended since."""

    def __init__(self) -> None:
        self.sessions: WeakSet[Session] = WeakSet()


_written = _Written()


@contextmanager
def no_io_in_transaction(*storages: type[Storage]) -> Iterator[None]:
    """Storage verbs raise AssertionError while this thread has a transaction of the library's own open.

    So they do while the host's session of the current context has written and not ended. Hooks
    that run after a commit are outside of it. A job that swallowed the error is noticed too: it is
    raised again at the end of the block. `storages`: further classes to watch.
    """
    broken: list[AssertionError] = []
    watched: tuple[type[Storage], ...] = (Local, Memory, *storages)
    with ExitStack() as stack:
        for cls in watched:
            for verb in VERBS:
                if verb in vars(cls):
                    stack.enter_context(patch.object(cls, verb, _guarded(cls, verb, broken)))
        stack.enter_context(_noticing_writes())
        yield
    if broken:
        raise broken[0]


def _guarded(cls: type[Storage], verb: str, broken: list[AssertionError]) -> Callable[..., Any]:
    call: Callable[..., Any] = getattr(cls, verb)

    @wraps(call)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if in_transaction() or _host_has_written():
            broken.append(AssertionError(f"{cls.__name__}.{verb} was called while a transaction is open"))
            raise broken[-1]
        return call(*args, **kwargs)

    return guarded


def _host_has_written() -> bool:
    db = current_app.extensions.get("sqlalchemy") if has_app_context() else None
    return db is not None and db.session.registry.has() and db.session() in _written.sessions


@contextmanager
def _noticing_writes() -> Iterator[None]:
    # Ours must hear of the end before the hooks that run after it.
    listeners: list[tuple[str, Callable[..., None], bool]] = [
        ("after_flush", _after_flush, False),
        ("do_orm_execute", _on_execute, False),
        ("after_commit", _after_commit, True),
        ("after_transaction_end", _after_end, False),
    ]
    for name, listener, first in listeners:
        event.listen(Session, name, listener, insert=first)
    try:
        yield
    finally:
        for name, listener, _ in listeners:
            event.remove(Session, name, listener)
        _written.sessions.clear()


def _after_flush(session: Session, _context: object) -> None:
    _written.sessions.add(session)


def _on_execute(state: ORMExecuteState) -> None:
    if not state.is_select:
        _written.sessions.add(state.session)


def _after_commit(session: Session) -> None:
    if not session.in_nested_transaction():
        _written.sessions.discard(session)


def _after_end(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        _written.sessions.discard(session)
