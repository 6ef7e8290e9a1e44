"""Wake-ups between processes over the database that is there anyway: PostgreSQL's NOTIFY.

This speaks with libpq itself, because `psycopg.connect` waits for two seconds at least, and a statement for ever.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Iterable, Sequence

from psycopg import OperationalError, ProgrammingError, pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from flask_rindle.events.channel import LISTEN_SECONDS, NAME, SEND_SECONDS, ReconnectingChannel

# A peer that is gone without a word is noticed after about a minute.
_KEEPALIVE = {"keepalives": 1, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
_DONE = {pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK}


class PostgresChannel(ReconnectingChannel):
    """Rings by `NOTIFY`, for the processes on the same database."""

    server = "PostgreSQL"

    def __init__(self, url: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Connects to nothing. Raises ValueError for a URL that libpq does not take."""
        super().__init__(monotonic=monotonic)
        try:
            given = conninfo_to_dict(url.replace("postgresql+psycopg://", "postgresql://", 1))
        except ProgrammingError:
            raise ValueError("libpq cannot read this URL") from None  # its own words quote it
        self._conninfo = make_conninfo("", **{"application_name": "flask-rindle", **_KEEPALIVE, **given})

    def connect_sender(self) -> PostgresSender:
        """A connection that rings, made within `SEND_SECONDS`."""
        return PostgresSender(_Link(self._conninfo, SEND_SECONDS))

    def connect_listener(self) -> PostgresListener:
        """A connection that hears, made within `LISTEN_SECONDS`."""
        return PostgresListener(_Link(self._conninfo, LISTEN_SECONDS))


class PostgresSender:
    """One connection that notifies."""

    def __init__(self, link: _Link) -> None:
        self._link = link

    def send(self, payload: str) -> None:
        """Hand a payload over to the server. Raises TimeoutError or psycopg.Error."""
        self._link.execute("SELECT pg_notify($1, $2)", [NAME, payload], SEND_SECONDS)

    def close(self) -> None:
        """End the connection."""
        self._link.close()


class PostgresListener:
    """One connection that listens."""

    def __init__(self, link: _Link) -> None:
        """Raises TimeoutError or psycopg.Error."""
        self._link = link
        try:
            link.execute(f"LISTEN {NAME}", [], LISTEN_SECONDS)
        except Exception:
            link.close()
            raise

    def receive(self, seconds: float) -> Iterable[str]:
        """What has arrived, after waiting for it for a while. Raises when the connection is gone."""
        return self._link.notifications(seconds)

    def close(self) -> None:
        """End the connection."""
        self._link.close()


class _Link:
    """A connection outside any transaction, every step of which has a deadline."""

    def __init__(self, conninfo: str, seconds: float) -> None:
        ends_at = time.monotonic() + seconds
        self._connection = pq.PGconn.connect_start(conninfo.encode())
        try:
            self._connect(ends_at)
        except Exception:
            self.close()
            raise
        self._connection.nonblocking = 1

    def _connect(self, ends_at: float) -> None:
        waits = {
            pq.PollingStatus.READING: selectors.EVENT_READ,
            pq.PollingStatus.WRITING: selectors.EVENT_WRITE,
        }
        while self._connection.status != pq.ConnStatus.BAD:
            status = pq.PollingStatus(self._connection.connect_poll())
            if status == pq.PollingStatus.OK:
                return
            if status not in waits:
                break
            self._wait(waits[status], ends_at)
        raise OperationalError("the connection was refused")

    def execute(self, statement: str, values: Sequence[str], seconds: float) -> None:
        ends_at = time.monotonic() + seconds
        self._connection.send_query_params(statement.encode(), [value.encode() for value in values])
        while self._connection.flush():
            self._wait(selectors.EVENT_WRITE, ends_at)
        while True:
            while self._connection.is_busy():
                self._wait(selectors.EVENT_READ, ends_at)
                self._connection.consume_input()
            result = self._connection.get_result()
            if result is None:
                return
            if result.status not in _DONE:
                raise OperationalError("the statement was refused")

    def notifications(self, seconds: float) -> list[str]:
        try:
            self._wait(selectors.EVENT_READ, time.monotonic() + seconds)
        except TimeoutError:
            return []
        self._connection.consume_input()
        arrived = iter(self._connection.notifies, None)
        return [notification.extra.decode(errors="replace") for notification in arrived]

    def close(self) -> None:
        self._connection.finish()

    def _wait(self, event: int, ends_at: float) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._connection.socket, event)
            if not selector.select(max(ends_at - time.monotonic(), 0)):
                raise TimeoutError
