"""Storages that fail by script."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec, TypeVar

from flask_rindle.storage.base import Storage

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound=Storage)


@dataclass(frozen=True, slots=True)
class ReplyLost:
    """The verb does its work, and then the caller gets `error` instead of the answer."""

    error: Exception


Fault = Exception | ReplyLost | None


def faulty(storage: S, script: Mapping[str, Iterable[Fault]]) -> S:
    """The same storage, whose next calls of each verb go by the script; then it works again.

    An exception is raised instead of the call, `ReplyLost(error)` after it, and None lets it pass:
    `faulty(storage, {"put": [None, StorageUnavailable("media", key)]})` fails the second put.
    """
    for verb, faults in script.items():
        setattr(storage, verb, scripted(getattr(storage, verb), faults))
    return storage


def scripted(call: Callable[P, R], faults: Iterable[Fault]) -> Callable[P, R]:
    """`call`, with one fault taken from `faults` each time."""
    ahead = iter(tuple(faults))

    @wraps(call)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        fault = next(ahead, None)
        if isinstance(fault, Exception):
            raise fault
        answer = call(*args, **kwargs)
        if isinstance(fault, ReplyLost):
            raise fault.error
        return answer

    return wrapper
