"""A directory tree as storage: one file an object, served by the app's own routes.

Every write makes a new file in a private folder beside the objects and renames it over the key, so a
reader sees the old bytes or the new ones, and a file is never changed once it has its name. The root
must be on one filesystem, with hard links (`promote` needs them); processes may share it. Whoever is at a
file in the private folder holds a lock on it, so one without a lock was left by a process that died.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from flask_rindle.errors import (
    InvalidKey,
    ObjectChanged,
    ObjectNotFound,
    StorageDenied,
    StorageError,
    StorageFull,
    StorageUnavailable,
)
from flask_rindle.holding import hold, is_still, remove_abandoned
from flask_rindle.storage.base import (
    CHUNK_BYTES,
    Capability,
    LinksThroughApp,
    LinkTerms,
    PresignedUpload,
    PresignsPut,
    Promotes,
    PutTerms,
    Storage,
    StoredObject,
    check_key,
)
from flask_rindle.types import ByteRange

Meanings = Mapping[int, Callable[[str, str], StorageError]]

ALWAYS: Meanings = {
    errno.ENOSPC: StorageFull,
    errno.EDQUOT: StorageFull,
    errno.EACCES: StorageDenied,
    errno.EPERM: StorageDenied,
    errno.EROFS: StorageDenied,
    errno.ENAMETOOLONG: InvalidKey,
    errno.ELOOP: InvalidKey,
}
READING: Meanings = {
    **ALWAYS,
    errno.ENOENT: ObjectNotFound,
    errno.ENOTDIR: ObjectNotFound,
    errno.EISDIR: ObjectNotFound,
}
# Where a folder stands at the key, or an object at one of its folders, no retry will ever store it.
WRITING: Meanings = {**ALWAYS, errno.ENOTDIR: InvalidKey, errno.EISDIR: InvalidKey, errno.EEXIST: InvalidKey}

PLACING_TRIES = 100


class Local(Storage, PresignsPut, Promotes, LinksThroughApp):
    """Objects as files under `root`, readable by this system user only."""

    capabilities = frozenset(
        {Capability.SIGNED_URL, Capability.PUBLIC_URL, Capability.PRESIGNED_PUT, Capability.PROMOTE}
    )

    def __init__(self, name: str, *, root: str | Path) -> None:
        super().__init__(name)
        self.root = _checked_root(root)
        self._temp = self.root / ".tmp"

    def put(self, key: str, source: BinaryIO, *, content_type: str | None = None, public: bool = False) -> StoredObject:
        """Store everything that `source` gives, replacing what was there. Its own errors pass unchanged."""
        path = self._path(key)
        with self._staged(key) as (handle, staged):
            for chunk in iter(partial(source.read, CHUNK_BYTES), b""):
                with translate(self.name, key, WRITING):
                    write_whole(handle, chunk)
            with translate(self.name, key, WRITING):
                seal(handle)
                stored = self._describe(key, os.fstat(handle.fileno()))
                self._place(staged, path)
        return stored

    def read(self, key: str, byte_range: ByteRange | None = None) -> Iterator[bytes]:
        """The bytes in bounded chunks, of the version that stood there at the call."""
        return self._open(key, byte_range or ByteRange(0))[1]

    def stat(self, key: str) -> StoredObject:
        """Size and etag, from the directory entry. Raises ObjectNotFound."""
        return self._look(key)

    def delete(self, key: str) -> None:
        """Remove the object, and the folders that it leaves empty; no error when there is none."""
        self._remove(key)

    def url(self, key: str, terms: LinkTerms) -> str:
        """A URL of the app, made without looking at the disk."""
        return self.links.file_url(self.name, self._check(key), terms)

    def presign_put(self, key: str, terms: PutTerms) -> PresignedUpload:
        """A URL of the app that takes just these bytes."""
        return self.links.put(self.name, self._check(key), terms)

    def save_to(self, key: str, path: Path) -> StoredObject:
        """Copy the object into a new file at `path`; the answer is about exactly these bytes."""
        stored, chunks = self._open(key, ByteRange(0))
        target = path.open("xb")
        try:
            with target:
                target.writelines(chunks)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return stored

    def promote(
        self, source_key: str, target_key: str, *, etag: str, content_type: str | None = None, public: bool = False
    ) -> StoredObject:
        """Move the object if its etag is still `etag`; safe against late writers and a second promoter.

        Only bytes that have been compared ever stand at the target. Renaming the source there first and
        comparing after would be shorter, and would let a second promoter, come after a late writer, put
        the late bytes over the good ones.
        """
        source, target = self._path(source_key), self._path(target_key)
        with self._pinned(source_key) as (pin, found):
            if found is not None and found.etag == etag:
                with translate(self.name, target_key, WRITING):
                    self._place(pin, target)
                if source != target:
                    self._remove_version(source_key, etag)
                return replace(found, key=target_key)
        standing = self._find(target_key)
        if standing is not None and standing.etag == etag:
            return standing
        raise (ObjectChanged if found else ObjectNotFound)(self.name, source_key)

    def tidy(self) -> int:
        """Remove the private files of writers that died; how many that were."""
        try:
            left = [Path(entry) for entry in os.scandir(self._temp) if entry.is_file(follow_symlinks=False)]
        except OSError:  # nothing was ever written
            return 0
        return sum(map(remove_abandoned, left))

    def _check(self, key: str) -> str:
        """The key, if it is clean and cannot name the private folder."""
        if key.startswith("."):
            raise InvalidKey(self.name, key)
        return check_key(self.name, key)

    def _path(self, key: str) -> Path:
        """Where the object is, links followed; InvalidKey when that is not among the objects."""
        try:
            path = (self.root / self._check(key)).resolve()
        except RuntimeError as error:  # a loop of links, before Python 3.13
            raise InvalidKey(self.name, key) from error
        if self.root not in path.parents or path.relative_to(self.root).parts[0].startswith("."):
            raise InvalidKey(self.name, key)
        return path

    def _describe(self, key: str, status: os.stat_result) -> StoredObject:
        if not stat.S_ISREG(status.st_mode):
            raise ObjectNotFound(self.name, key)
        etag = f"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"
        return StoredObject(key=key, size_bytes=status.st_size, etag=etag)

    def _look(self, key: str) -> StoredObject:
        path = self._path(key)
        with translate(self.name, key):
            return self._describe(key, path.stat())

    def _find(self, key: str) -> StoredObject | None:
        try:
            return self._look(key)
        except ObjectNotFound:
            return None

    def _open(self, key: str, byte_range: ByteRange) -> tuple[StoredObject, Iterator[bytes]]:
        """What stands at the key and its bytes, both of one version."""
        path = self._path(key)
        with translate(self.name, key):
            handle = path.open("rb")
        chunks = self._chunks(key, handle, byte_range)
        next(chunks)
        return self._describe(key, os.fstat(handle.fileno())), chunks

    def _chunks(self, key: str, handle: BinaryIO, byte_range: ByteRange) -> Iterator[bytes]:
        with handle, translate(self.name, key):
            yield b""  # taken by _open: only a generator that has begun closes its handle when it is dropped
            size = os.fstat(handle.fileno()).st_size
            start = min(byte_range.start, size)
            stop = size if byte_range.stop is None else min(byte_range.stop, size)
            handle.seek(start)
            while chunk := handle.read(min(CHUNK_BYTES, stop - start)):
                start += len(chunk)
                yield chunk

    @contextmanager
    def _staged(self, key: str) -> Iterator[tuple[FileIO, Path]]:
        """A new private file to write into, removed unless it was placed."""
        with translate(self.name, key, WRITING):
            self._make_folder(self._temp)
            descriptor, name = self._new_file()
        try:
            # Unbuffered: a buffer would try its flush again on closing, and the disk is still full then.
            with os.fdopen(descriptor, "wb", buffering=0) as handle:
                yield handle, Path(name)
        finally:
            Path(name).unlink(missing_ok=True)

    def _new_file(self) -> tuple[int, str]:
        while True:
            descriptor, name = tempfile.mkstemp(dir=self._temp)
            hold(descriptor)
            if is_still(name, descriptor):
                return descriptor, name
            os.close(descriptor)  # somebody tidied up between the two steps

    @contextmanager
    def _pinned(self, key: str) -> Iterator[tuple[Path, StoredObject | None]]:
        """A second, private name for the object, which no writer of the key can change; None without one."""
        pin = self._temp / uuid.uuid4().hex
        with ExitStack() as held:
            held.callback(pin.unlink, missing_ok=True)
            yield pin, self._pin(key, pin, held)

    def _pin(self, key: str, pin: Path, held: ExitStack) -> StoredObject | None:
        if self._find(key) is None:  # also a folder: linking one is called a lack of permission
            return None
        path = self._path(key)
        try:
            with translate(self.name, key):
                while True:
                    handle = held.enter_context(path.open("rb"))
                    hold(handle.fileno(), shared=True)
                    pin.hardlink_to(path)
                    if is_still(pin, handle.fileno()):
                        return self._describe(key, os.fstat(handle.fileno()))
                    pin.unlink(missing_ok=True)  # it was rewritten between the two steps
        except ObjectNotFound:
            return None

    def _place(self, staged: Path, path: Path) -> None:
        """Give the finished file its name, durably."""
        for tries_left in reversed(range(PLACING_TRIES)):
            try:
                self._make_folder(path.parent)
                staged.replace(path)
                break
            except FileNotFoundError:  # a delete has just pruned the folder
                if not tries_left:
                    raise
        sync_folder(path.parent)

    def _make_folder(self, folder: Path) -> None:
        """`folder` and those above it up to the root, private and durable."""
        if folder.is_dir():
            return
        if folder == self.root:
            folder.parent.mkdir(parents=True, exist_ok=True)
        else:
            self._make_folder(folder.parent)
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
        except FileExistsError:
            if folder.is_file():
                raise
            # Somebody made it and a delete has just pruned it: to be made again, as if it had not been there.
            raise FileNotFoundError(folder) from None
        sync_folder(folder.parent)

    def _remove(self, key: str) -> None:
        path = self._path(key)
        with suppress(ObjectNotFound), translate(self.name, key):
            path.unlink()
            sync_folder(path.parent)
        self._prune(path.parent)

    def _remove_version(self, key: str, etag: str) -> None:
        """Remove the object unless it was rewritten.

        A rewrite between the two steps goes too, as if it had come just before them: the promoted bytes have
        another name by now, and nothing waits for what arrives under a key that has been promoted.
        """
        standing = self._find(key)
        if standing is not None and standing.etag == etag:
            self._remove(key)

    def _prune(self, folder: Path) -> None:
        """Remove the empty folders from here up. A put that loses its folder makes it again."""
        while folder != self.root:
            try:
                folder.rmdir()
            except FileNotFoundError:
                pass
            except OSError:  # not empty, as a rule; and an empty folder is no failure of delete
                return
            folder = folder.parent


def _checked_root(root: str | Path) -> Path:
    """The root as an absolute path; a ValueError says what to write instead of what is no directory."""
    if not str(root):
        msg = f"root={root!r} is no directory; write one such as /srv/media"
        raise ValueError(msg)
    path = Path(root).resolve()
    # What is missing is made at the first write; what is a file never becomes a directory.
    nearest = next(place for place in (path, *path.parents) if place.exists())
    if not nearest.is_dir():
        msg = f"root={str(root)!r} is no directory, because {nearest} is a file; write one such as /srv/media"
        raise ValueError(msg)
    return path


@contextmanager
def translate(storage: str, key: str, meanings: Meanings = READING) -> Iterator[None]:
    """Let an OSError leave as the StorageError that it means."""
    try:
        yield
    except OSError as error:
        raise meanings.get(error.errno or 0, StorageUnavailable)(storage, key) from error


def write_whole(handle: FileIO, chunk: bytes) -> None:
    """Write all of `chunk`, in as many steps as the system needs."""
    rest = memoryview(chunk)
    while rest:
        rest = rest[handle.write(rest) :]


def seal(handle: FileIO) -> None:
    """Make the bytes durable and their etag unlike every earlier one."""
    # The kernel stamps files with its last tick, some milliseconds ago, and gives the inode of a deleted file
    # to the next one: two versions of equal size could be told apart by neither.
    now = time.time_ns()
    os.utime(handle.fileno(), ns=(now, now))
    os.fsync(handle.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable; a folder that is gone has none."""
    with suppress(FileNotFoundError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
