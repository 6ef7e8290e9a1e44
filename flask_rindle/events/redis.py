"""Wake-ups between processes over Redis."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import TimeoutError as RedisTimeout
from redis.retry import Retry

from flask_rindle.events.channel import LISTEN_SECONDS, NAME, SEND_SECONDS, ReconnectingChannel

# A connection that has been silent for the first is asked, and given up after the second.
PING_SECONDS = 30.0
DEAD_SECONDS = 60.0


class RedisChannel(ReconnectingChannel):
    """Rings by `PUBLISH`; every database number of a server hears the same ones."""

    server = "Redis"

    def __init__(self, url: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Connects to nothing. Raises ValueError for a URL that Redis's client does not take."""
        super().__init__(monotonic=monotonic)
        self._url = url
        self._client(SEND_SECONDS)

    def connect_sender(self) -> RedisSender:
        """A connection that rings, made within `SEND_SECONDS`."""
        return RedisSender(self._client(SEND_SECONDS))

    def connect_listener(self) -> RedisListener:
        """A connection that hears, made within `LISTEN_SECONDS`."""
        return RedisListener(self._client(LISTEN_SECONDS), self._monotonic)

    def _client(self, seconds: float) -> Redis:
        return Redis.from_url(
            self._url,
            socket_connect_timeout=seconds,
            socket_timeout=seconds,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )


class RedisSender:
    """One connection that publishes."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    def send(self, payload: str) -> None:
        """Hand a payload over to the server. Raises TimeoutError, or an error of Redis's client."""
        try:
            self._client.publish(NAME, payload)
        except RedisTimeout as error:
            raise TimeoutError from error

    def close(self) -> None:
        """End the connection."""
        self._client.close()


class RedisListener:
    """One connection that has subscribed."""

    def __init__(self, client: Redis, monotonic: Callable[[], float]) -> None:
        """Raises where the server does not confirm the subscription in time."""
        self._client = client
        self._monotonic = monotonic
        self._heard_at = monotonic()
        self._has_asked = False
        self._pubsub = client.pubsub()  # type: ignore[no-untyped-call]
        try:
            self._subscribe()
        except Exception:
            self.close()
            raise

    def receive(self, seconds: float) -> Iterable[str]:
        """What has arrived, after waiting for it for a while. Raises when the connection is gone."""
        message = self._next(seconds)
        if message is not None:
            self._heard_at = self._monotonic()
            self._has_asked = False
        else:
            self._check_silence()
        if message is None or message["type"] != "message":
            return ()
        data = message["data"]
        return (data.decode(errors="replace") if isinstance(data, bytes) else str(data),)

    def close(self) -> None:
        """End the connection."""
        self._pubsub.close()
        self._client.close()

    def _subscribe(self) -> None:
        self._pubsub.subscribe(NAME)
        if self._next(LISTEN_SECONDS) is None:
            raise TimeoutError

    def _next(self, seconds: float) -> dict[str, Any] | None:
        message: dict[str, Any] | None = self._pubsub.get_message(timeout=seconds)
        return message

    def _check_silence(self) -> None:
        silence = self._monotonic() - self._heard_at
        if silence > DEAD_SECONDS:
            raise TimeoutError
        if silence > PING_SECONDS and not self._has_asked:
            self._has_asked = True
            # The client's own health check sends, and never misses an answer.
            self._pubsub.ping()
