"""From a URL to the channel between processes."""

from __future__ import annotations

from urllib.parse import urlsplit

from flask_rindle.errors import MissingExtra
from flask_rindle.events.channel import ReconnectingChannel

_REDIS = ("redis", "rediss", "unix")
_POSTGRESQL = ("postgresql", "postgresql+psycopg")
_ADVICE = "write one such as redis://host:6379/0 or postgresql://user@host/database, or leave it out"


def find_url_problem(url: str) -> str | None:
    """What is wrong with a URL and what to write instead, without the URL; None for one that can be tried."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return f"RINDLE_EVENTS_URL cannot be read, perhaps for a sign that needs percent-encoding; {_ADVICE}"
    if parts.scheme not in (*_REDIS, *_POSTGRESQL):
        scheme = f"{parts.scheme}://" if "://" in url else "no scheme"
        return f"RINDLE_EVENTS_URL has {scheme}, which carries no wake-ups; {_ADVICE}"
    if not url.startswith(f"{parts.scheme}://"):
        return f"RINDLE_EVENTS_URL has no // after {parts.scheme}:; {_ADVICE}"
    if parts.scheme == "unix" and not parts.path.strip("/"):
        return f"RINDLE_EVENTS_URL has no path to a socket; {_ADVICE}"
    return None


def open_channel(url: str | None) -> ReconnectingChannel | None:
    """The channel that a URL names, not connected yet; None without one. Raises ValueError and MissingExtra."""
    if not url:
        return None
    problem = find_url_problem(url)
    if problem is not None:
        raise ValueError(problem)
    try:
        return _redis(url) if urlsplit(url).scheme in _REDIS else _postgresql(url)
    except ValueError:
        problem = f"RINDLE_EVENTS_URL has a part that its server's client does not understand; {_ADVICE}"
        raise ValueError(problem) from None  # the cause may quote the URL


def _redis(url: str) -> ReconnectingChannel:
    try:
        from flask_rindle.events.redis import RedisChannel
    except ImportError as error:
        raise MissingExtra("RINDLE_EVENTS_URL", "redis") from error
    return RedisChannel(url)


def _postgresql(url: str) -> ReconnectingChannel:
    try:
        from flask_rindle.events.postgresql import PostgresChannel
    except ImportError as error:
        raise MissingExtra("RINDLE_EVENTS_URL", "postgresql") from error
    return PostgresChannel(url)
