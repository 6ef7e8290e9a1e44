"""The library's own transactions, beside the host's session and on the host's database.

On SQLite they run on an engine of their own, which takes the write lock when a transaction begins
(a lock that is taken halfway can only fail, not wait), enforces foreign keys, and uses WAL; the
host's connections keep their own settings.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar, cast

from sqlalchemy import Connection, Engine, GenerativeSelect, Insert, Table, create_engine, event, select
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import DeclarativeBase, Session, SessionTransaction
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from flask_rindle.errors import DatabaseBusy, DatabaseUnavailable, OpenTransaction
from flask_rindle.forks import renew_after_fork

log = logging.getLogger("flask_rindle.database")

DEFAULT_BUSY_TIMEOUT_SECONDS = 5.0
Query = TypeVar("Query", bound=GenerativeSelect)
_HOOKS = "rindle_on_commit"
_COMMITTED = "rindle_committed"
# MariaDB: no server, lost server, no disk, no more connections, shutting down.
_AWAY_CODES = frozenset({2002, 2003, 2005, 2006, 2013, 2055, 1021, 1028, 1030, 1040, 1041, 1053, 1114, 1129, 1203})
_AWAY_TEXTS = ("unable to open", "disk is full", "disk I/O", "readonly database", "malformed")
_BUSY_CODES = frozenset({"55P03", "40P01", "40001", 1205, 1213, 1020})


class _Open(threading.local):
    """The library's own sessions and connections of this thread whose transaction has not ended."""

    def __init__(self) -> None:
        self.sessions: list[Session | Connection] = []


_open = _Open()


def in_transaction() -> bool:
    """Whether the calling thread is inside a transaction or a read of the library's own.

    Hooks that run after a commit are outside of it.
    """
    return bool(_open.sessions)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Binds:
    """What sessions are bound to, and on which each statement commits itself."""

    writer: Engine
    reader: Engine
    autocommit: Engine


class Database:
    """Short transactions of the library's own, and short reads."""

    def __init__(
        self,
        host_engine: Callable[[], Engine],
        host_session: Callable[[], Session | None],
        *,
        busy_timeout_seconds: float = DEFAULT_BUSY_TIMEOUT_SECONDS,
    ) -> None:
        """`host_session`: the session that the calling thread has open in the host, or None."""
        self._host_engine = host_engine
        self._host_session = host_session
        self._busy_timeout_ms = int(busy_timeout_seconds * 1000)
        self._lock = threading.Lock()
        self._made: _Binds | None = None
        renew_after_fork(self)

    def start_afresh(self) -> None:
        """Forget connections that were made before a fork: they are the parent's, to speak on and to close."""
        self._lock = threading.Lock()
        _open.sessions = []
        if self._made is not None and not self.has_one_writer:
            self._made.writer.dispose(close=False)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A transaction that is durable when the block ends, and undone when it raises.

        Rows stay readable afterwards. Raises DatabaseBusy, and on SQLite OpenTransaction when
        the calling thread would wait for its own uncommitted changes.
        """
        with self._session(self._binds().writer) as session:
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A short read that takes no write lock."""
        with self._session(self._binds().reader) as session:
            yield session

    @contextmanager
    def statements(self) -> Iterator[Connection]:
        """A connection on which each statement is a transaction, durable when it returns. See `writes_at_once`."""
        with translate_busy(), self._binds().autocommit.connect() as connection, _noted(connection):
            yield connection

    @cached_property
    def writes_at_once(self) -> bool:
        """Whether a single statement can do what elsewhere takes several and a transaction around them."""
        if self._binds().writer.dialect.name != "postgresql":
            return False
        with self.statements() as connection:
            # By itself a statement has the server's own isolation, and a stricter one would refuse it after each race.
            return connection.exec_driver_sql("SHOW transaction_isolation").scalar() == "read committed"

    @property
    def has_one_writer(self) -> bool:
        """Whether a transaction keeps all others from writing, as on SQLite."""
        return self._binds().writer.dialect.name == "sqlite"

    def dispose(self) -> None:
        """Close the library's own connections."""
        if self._made is not None:
            self._made.reader.dispose()

    @contextmanager
    def _session(self, bind: Engine) -> Iterator[Session]:
        with translate_busy(), Session(bind, expire_on_commit=False) as session, _noted(session), session.begin():
            yield session

    def _binds(self) -> _Binds:
        """Made at the first use, by one thread for all: the host's engine needs the app to be set up."""
        with self._lock:
            if self._made is None:
                self._made = self._make_binds(self._host_engine())
            return self._made

    def _make_binds(self, host: Engine) -> _Binds:
        if host.dialect.name == "sqlite":
            own = self._sqlite_engine(host)
            return _Binds(writer=own.execution_options(rindle_begin="IMMEDIATE"), reader=own, autocommit=own)
        # A pool of our own: a request whose session holds a connection must not wait for a second one of the same pool.
        # MariaDB's default isolation would answer a compare-and-set from an old snapshot.
        own = create_engine(host.url, pool=host.pool.recreate(), isolation_level="READ COMMITTED")
        return _Binds(writer=own, reader=own, autocommit=own.execution_options(isolation_level="AUTOCOMMIT"))

    def _sqlite_engine(self, host: Engine) -> Engine:
        engine = create_engine(host.url)
        event.listen(engine, "connect", self._set_up_connection)
        event.listen(engine, "checkout", _refuse_after_fork)
        event.listen(engine, "begin", self._begin)
        return engine

    def _set_up_connection(self, connection: Any, record: ConnectionPoolEntry) -> None:
        record.info["pid"] = os.getpid()
        connection.isolation_level = None  # we say BEGIN, the driver does not
        connection.execute("PRAGMA busy_timeout=0")
        # Refused while somebody writes; it is kept in the file, so a later connection sets it for all.
        with suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA journal_mode=WAL")
        for pragma in ("synchronous=NORMAL", "foreign_keys=ON", f"busy_timeout={self._busy_timeout_ms}"):
            connection.execute(f"PRAGMA {pragma}")

    def _begin(self, connection: Connection) -> None:
        mode = connection.get_execution_options().get("rindle_begin", "DEFERRED")
        if mode == "DEFERRED" or not self._caller_may_hold_the_lock():
            connection.exec_driver_sql(f"BEGIN {mode}")
            return
        connection.exec_driver_sql("PRAGMA busy_timeout=0")
        try:
            connection.exec_driver_sql(f"BEGIN {mode}")
        except OperationalError as error:
            raise OpenTransaction from error
        finally:
            connection.exec_driver_sql(f"PRAGMA busy_timeout={self._busy_timeout_ms}")

    def _caller_may_hold_the_lock(self) -> bool:
        session = self._host_session()
        if session is None or not session.is_active or not session.in_transaction():
            return False
        driver = session.connection(bind_arguments={"bind": self._host_engine()}).connection.dbapi_connection
        return bool(getattr(driver, "in_transaction", False))


@contextmanager
def _noted(session: Session | Connection) -> Iterator[None]:
    _open.sessions.append(session)
    try:
        yield
    finally:
        _forget(session)


def _forget(session: Session | Connection) -> None:
    if session in _open.sessions:
        _open.sessions.remove(session)


def _refuse_after_fork(_connection: object, record: ConnectionPoolEntry, proxy: PoolProxiedConnection) -> None:
    """An SQLite connection must not be carried over a fork; the pool makes a new one instead."""
    if record.info["pid"] != os.getpid():
        record.dbapi_connection = proxy.dbapi_connection = None  # type: ignore[misc]
        raise DisconnectionError("the connection was made before a fork")


@contextmanager
def translate_busy() -> Iterator[None]:
    """Turn the drivers' ways to say "locked" into DatabaseBusy, and "away" into DatabaseUnavailable."""
    try:
        yield
    except PoolTimeout as error:
        raise DatabaseBusy from error
    except DBAPIError as error:
        if is_busy(error):
            raise DatabaseBusy from error
        if is_away(error):
            raise DatabaseUnavailable(str(error.orig)) from error
        raise


def is_busy(error: DBAPIError) -> bool:
    """Whether a lock of somebody else's was in the way."""
    original = error.orig
    codes = (getattr(original, "sqlstate", None), *getattr(original, "args", ())[:1])
    return any(code in _BUSY_CODES or str(code).startswith("database is locked") for code in codes)


def is_away(error: DBAPIError) -> bool:
    """Whether the server or its disk is the trouble, and not what was asked of it.

    Drivers call nearly everything an operational error, MariaDB's a broken CHECK too.
    """
    original = error.orig
    state = getattr(original, "sqlstate", None)
    code = next(iter(getattr(original, "args", ())), None)
    if error.connection_invalidated or isinstance(error, InterfaceError) or code in _AWAY_CODES:
        return True
    if isinstance(original, sqlite3.OperationalError):
        return any(text in str(original) for text in _AWAY_TEXTS)
    # PostgreSQL: a connection that failed has no state; classes 08, 53, 57 and 58 are the server's own trouble.
    failed = isinstance(error, OperationalError) and not isinstance(code, int)
    return failed and (state is None or state[:2] in ("08", "53", "57", "58"))


def insert_unless_taken(session: Session, row: type[DeclarativeBase], values: dict[str, Any]) -> bool:
    """Insert a row, whose `id` is among the values, unless a unique key is taken; whether it was inserted.

    Waits for a concurrent transaction that holds the key, and needs no savepoint, which SQLite's
    driver commits behind the caller's back. Any other fault of the row raises.
    """
    session.flush()
    table = cast("Table", row.__table__)
    session.execute(_insert_unless_taken(session.get_bind().dialect.name, table).values(**values))
    # Counts of rows mean something else in every driver.
    return session.scalar(select(table.c.id).where(table.c.id == values["id"])) is not None


def _insert_unless_taken(dialect: str, table: Table) -> Insert:
    if dialect == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    if dialect == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    # INSERT IGNORE would shorten texts and swallow broken foreign keys.
    return mysql.insert(table).on_duplicate_key_update(id=table.c.id)


def skip_locked(query: Query, session: Session) -> Query:
    """The query, locking the rows that it finds and passing by those that others hold, as far as the database can."""
    return query.with_for_update(skip_locked=can_skip_locked(session))


def can_skip_locked(session: Session) -> bool:
    """Whether a query may pass by rows that others hold. SQLite has one writer, so nobody else holds any."""
    dialect = session.get_bind().dialect
    since = (10, 6) if getattr(dialect, "is_mariadb", False) else (8, 0, 1)
    is_old = dialect.name in ("mysql", "mariadb") and (dialect.server_version_info or ()) < since
    return not is_old


def on_commit(session: Session, hook: Callable[[], object]) -> None:
    """Call `hook` once the session's outermost transaction has been committed; never if it is undone.

    A savepoint that is undone takes its own hooks with it, and no others.
    """
    transaction = session.get_nested_transaction() or session.get_transaction() or session.begin()
    session.info.setdefault(_HOOKS, []).append((transaction, hook))


@event.listens_for(Session, "after_commit")
def _keep_hooks(session: Session) -> None:
    savepoint = session.get_nested_transaction()
    if savepoint is not None:
        hooks = session.info.get(_HOOKS, [])
        hooks[:] = [(savepoint.parent if of is savepoint else of, hook) for of, hook in hooks]
        return
    _forget(session)
    session.info.setdefault(_COMMITTED, []).extend(hook for _, hook in session.info.pop(_HOOKS, []))


@event.listens_for(Session, "after_transaction_end")
def _drop_or_run_hooks(session: Session, transaction: SessionTransaction) -> None:
    """Not before the connection is back in its pool: a hook may need one, and there may be no other."""
    hooks = session.info.get(_HOOKS)
    if hooks:
        hooks[:] = [(of, hook) for of, hook in hooks if of is not transaction]
    if transaction.parent is None:
        for hook in session.info.pop(_COMMITTED, []):
            _run(hook)


def _run(hook: Callable[[], object]) -> None:
    try:
        hook()
    except Exception:
        # The commit stands: a listener's error must not look like its failure.
        log.exception("a hook after a commit failed")
