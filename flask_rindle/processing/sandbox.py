"""The parent's side of the decoder child: starts it, asks it, watches the clock, kills it.

A child serves one request at a time and many in its life. It gets open descriptors, never paths,
and nothing of this process's environment. Its answers are not trusted either.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from flask_rindle.errors import Cancelled, MediaUnsupported, RejectedUpload, SandboxFailed
from flask_rindle.processing.base import Stop, never
from flask_rindle.processing.wire import MAX_LINE_BYTES, pack, revive
from flask_rindle.types import MB

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

_POLL_SECONDS = 0.1
_STDERR_BYTES = 4096
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "MALLOC_ARENA_MAX": "2"}
# -I hides PYTHONPATH and the current directory, so the child is told where this process found its modules.
_START = (
    "import json, sys; settings = json.loads(sys.argv[1]); sys.path[:] = settings.pop('path'); "
    "from flask_rindle.processing.child import main; main(**settings)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one request may take, and how many requests a child serves before a fresh one replaces it."""

    timeout: timedelta = timedelta(seconds=60)
    memory_bytes: int = 1536 * MB  # what 50 megapixels of WebP with transparency need, and a little
    output_bytes: int = 256 * MB
    requests: int = 200


class Sandbox:
    """Decoder children for the threads of this process. Safe to share, also over fork."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._start_afresh()
        _sandboxes.add(self)

    def run(
        self,
        operation: str,
        request: Mapping[str, object],
        read: Callable[[object], Answer],
        *,
        source: Path,
        targets: Sequence[Path] = (),
        stop: Stop = never,
    ) -> Answer:
        """What `read` makes of the child's answer; it raises SandboxFailed("answer") when that is nonsense.

        `targets` are created for the child, and removed again when this raises: what the child
        reports, SandboxFailed when it dies, hangs or lies, Cancelled when `stop()` becomes true,
        FileExistsError for a target that is already there.
        """
        line = pack({"operation": operation, **request})
        with _opened(source, targets) as descriptors:
            child = self._borrow()
            try:
                answer = read(child.ask(line, descriptors, stop))
            except (RejectedUpload, MediaUnsupported):  # a verdict on the file; the child is well
                self._give_back(child)
                raise
            except BaseException:
                self._end(child)
                raise
            self._give_back(child)
            return answer

    def close(self) -> None:
        """Kill all children, also those at work. What is asked for later fails."""
        with self._lock:
            self._closed = True
            idle = list(self._idle)
            self._idle.clear()
            for child in self._children:
                child.strike()  # the thread that waits for a working one sees it die, and clears up
        for child in idle:
            self._end(child)
        self._starter.shutdown()

    def _borrow(self) -> _Child:
        while True:
            with self._lock:
                if self._closed:
                    raise SandboxFailed("closed")
                child = self._idle.pop() if self._idle else None
            if child is None:
                return self._start()
            if child.is_quiet():
                return child
            self._end(child)

    def _start(self) -> _Child:
        # The kernel ties a child's life to the thread that started it, not to the process: one
        # thread that lives as long as the sandbox starts them all.
        try:
            child = self._starter.submit(_Child, self.limits).result()
        except (OSError, RuntimeError) as error:
            raise SandboxFailed("start") from error
        with self._lock:
            self._children.add(child)
            if self._closed:
                child.strike()
        return child

    def _give_back(self, child: _Child) -> None:
        with self._lock:
            keep = not self._closed and child.requests < self.limits.requests
            if keep:
                self._idle.append(child)
        if not keep:
            self._end(child)

    def _end(self, child: _Child) -> None:
        with self._lock:
            known = child in self._children
            self._children.discard(child)
        if known:
            child.end()

    def _start_afresh(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._idle: list[_Child] = []
        self._children: set[_Child] = set()
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rindle-decoder")
        self._finalizer = weakref.finalize(self, _kill_all, self._children, os.getpid())

    def _after_fork(self) -> None:
        """In a forked process: the children belong to the parent, so leave them alone and start others."""
        for child in self._children:
            child.forget()
        self._finalizer.detach()
        self._start_afresh()


class _Child:
    """One decoder process and the socket to it."""

    def __init__(self, limits: Limits) -> None:
        self.requests = 0
        self._limits = limits
        with ExitStack() as undo:
            self._directory = tempfile.mkdtemp(prefix="rindle-decoder-")
            # Empty until a child runs; rmtree would need a descriptor, which may be just what there is no more of.
            undo.callback(os.rmdir, self._directory)
            self._wire, theirs = socket.socketpair()
            undo.callback(self._wire.close)
            with theirs:
                self._stderr, stderr = os.pipe()
                undo.callback(os.close, self._stderr)
                self._start(theirs.fileno(), stderr)
            undo.pop_all()
        self._wire.settimeout(_POLL_SECONDS)

    def _start(self, wire: int, stderr: int) -> None:
        try:
            os.set_blocking(self._stderr, False)
            os.set_blocking(stderr, False)  # what nobody reads is dropped, and blocks nobody
            self._process = _spawn(self._limits, self._directory, wire, stderr)
        finally:
            os.close(stderr)

    def ask(self, line: bytes, descriptors: Sequence[int], stop: Stop) -> object:
        """The answer to one request, not yet believed. Raises the error that the child reports."""
        self.requests += 1
        deadline = time.monotonic() + self._limits.timeout.total_seconds()
        with suppress(BrokenPipeError, ConnectionResetError):  # a dead child is noticed when it does not answer
            socket.send_fds(self._wire, [line], descriptors)
        received = b""
        while b"\n" not in received:
            if stop():
                raise Cancelled
            if time.monotonic() > deadline:
                raise self._failed("timeout")
            received += self._read()
            if len(received) > MAX_LINE_BYTES:
                raise self._failed("answer")
        return _parse(received)

    def is_quiet(self) -> bool:
        """Alive, and not talking out of turn."""
        self._wire.settimeout(0)
        try:
            self._wire.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            self._wire.settimeout(_POLL_SECONDS)
        return False

    def strike(self) -> None:
        """Kill the process and all that it started. Safe while another thread waits for its answer."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> None:
        """Kill, and leave nothing behind."""
        self.strike()
        self._process.wait()
        self._clear()

    def forget(self) -> None:
        self._process.returncode = 0  # or Popen would complain, when collected, about a process that is not ours
        self._wire.close()
        os.close(self._stderr)

    def _read(self) -> bytes:
        """What has come in, after a short wait at most."""
        try:
            chunk = self._wire.recv(MAX_LINE_BYTES)
        except TimeoutError:
            return b""
        except ConnectionResetError:
            chunk = b""
        if not chunk:
            raise self._failed("timeout" if self._process.wait() == -signal.SIGXCPU else "crashed")
        return chunk

    def _failed(self, reason: str) -> SandboxFailed:
        tail = b""
        with suppress(OSError):
            while chunk := os.read(self._stderr, _STDERR_BYTES):
                tail = (tail + chunk)[-_STDERR_BYTES:]
        logger.warning("decoder %d failed: %s %s", self._process.pid, reason, tail.decode(errors="replace").strip())
        return SandboxFailed(reason)

    def _clear(self) -> None:
        self._wire.close()
        os.close(self._stderr)
        shutil.rmtree(self._directory, ignore_errors=True)


def _spawn(limits: Limits, directory: str, wire: int, stderr: int) -> subprocess.Popen[bytes]:
    settings = {
        "path": _module_path(),
        "memory_bytes": limits.memory_bytes,
        "output_bytes": limits.output_bytes,
        "cpu_seconds": math.ceil(limits.timeout.total_seconds()) * (os.cpu_count() or 1),
    }
    return subprocess.Popen(
        [sys.executable, "-I", "-c", _START, json.dumps(settings)],
        stdin=wire,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        cwd=directory,
        env={**_ENVIRONMENT, "TMPDIR": directory},
        start_new_session=True,
    )


def _module_path() -> list[str]:
    """Where this process finds modules; what depends on the current directory is left out."""
    package = str(Path(__file__).resolve().parents[2])
    found = [entry for entry in sys.path if Path(entry).is_absolute()]
    return found if package in found else [*found, package]


@contextmanager
def _opened(source: Path, targets: Sequence[Path]) -> Iterator[list[int]]:
    """The source to read and new files to write, as descriptors. New files stay only if all goes well."""
    created: list[Path] = []
    descriptors = [os.open(source, os.O_RDONLY | os.O_CLOEXEC)]
    try:
        for target in targets:
            descriptors.append(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            created.append(target)
        yield descriptors
    except BaseException:
        for target in created:
            target.unlink(missing_ok=True)
        raise
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _parse(line: bytes) -> object:
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        raise SandboxFailed("answer") from None
    match answer:
        case {"ok": result, **rest} if not rest:
            return result
        case {"error": facts, **rest} if not rest:
            raise revive(facts)
    raise SandboxFailed("answer")


def _kill_all(children: set[_Child], pid: int) -> None:
    while children and os.getpid() == pid:
        children.pop().end()


def _after_fork() -> None:
    for sandbox in list(_sandboxes):
        sandbox._after_fork()  # noqa: SLF001 - one module, two classes


_sandboxes: weakref.WeakSet[Sandbox] = weakref.WeakSet()
os.register_at_fork(after_in_child=_after_fork)
