"""Local keeps the contract, and a directory tree has promises of its own."""

from __future__ import annotations

import errno
import io
import os
import resource
import shutil
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_rindle.errors import (
    InvalidKey,
    ObjectChanged,
    ObjectNotFound,
    StorageDenied,
    StorageError,
    StorageFull,
    StorageUnavailable,
)
from flask_rindle.storage import local
from flask_rindle.storage.base import StoredObject
from flask_rindle.storage.local import Local, sync_folder
from flask_rindle.testing.contracts import StorageContract, lint_storage
from flask_rindle.testing.contracts.storage import FakeLinks


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "var" / "media"


@pytest.fixture
def storage(root: Path) -> Local:
    return Local("media", root=root)


class TestLocal(StorageContract):
    """The contract."""


def put(storage: Local, key: str, data: bytes = b"text") -> StoredObject:
    return storage.put(key, io.BytesIO(data))


def content(storage: Local, key: str) -> bytes:
    return b"".join(storage.read(key))


def files(root: Path) -> set[str]:
    """Every file and folder under the root, those of the private folder too."""
    return {path.relative_to(root).as_posix() for path in root.rglob("*")} - {".tmp"}


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """A disk that takes no file over `size` bytes: the write fails midway, for real."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_nothing_is_left_after_use(storage: Local, root: Path) -> None:
    """No temp file, no pin and no empty folder, after every sort of failure."""
    lint_storage(storage)
    assert files(root) == set()


# ---- where keys lead


VERBS: dict[str, Callable[[Local, str, Path], object]] = {
    "put": lambda storage, key, path: put(storage, key),
    "read": lambda storage, key, path: storage.read(key),
    "stat": lambda storage, key, path: storage.stat(key),
    "delete": lambda storage, key, path: storage.delete(key),
    "save_to": lambda storage, key, path: storage.save_to(key, path),
    "promote from": lambda storage, key, path: storage.promote(key, "elsewhere", etag="any"),
    "promote to": lambda storage, key, path: storage.promote("here", key, etag=put(storage, "here").etag),
}
every_verb = pytest.mark.parametrize("call", VERBS.values(), ids=VERBS)


@every_verb
@pytest.mark.parametrize("key", ["folder/secret", "secret"])
def test_a_link_that_leads_out_is_refused(
    storage: Local, root: Path, tmp_path: Path, call: Callable[..., object], key: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"not ours")
    put(storage, "any")
    (root / "folder").symlink_to(outside)
    (root / "secret").symlink_to(outside / "secret")
    with pytest.raises(InvalidKey):
        call(storage, key, tmp_path / "copy")
    assert (outside / "secret").read_bytes() == b"not ours"


@every_verb
@pytest.mark.parametrize("key", ["temp/file", "self", "loop", "loop/any"])
def test_a_link_to_what_is_no_object_is_refused(
    storage: Local, root: Path, tmp_path: Path, call: Callable[..., object], key: str
) -> None:
    """Neither the private folder, nor the root, nor a circle can be reached by a detour."""
    put(storage, "any")
    (root / ".tmp" / "file").write_bytes(b"half written")
    (root / "temp").symlink_to(root / ".tmp")
    (root / "self").symlink_to(root)
    (root / "loop").symlink_to(root / "loop")
    with pytest.raises(InvalidKey):
        call(storage, key, tmp_path / "copy")
    assert (root / ".tmp" / "file").read_bytes() == b"half written"


def test_a_link_inside_the_root_is_followed(storage: Local, root: Path) -> None:
    put(storage, "real/a")
    (root / "alias").symlink_to(root / "real")
    assert content(storage, "alias/a") == b"text"


@every_verb
@pytest.mark.parametrize("key", [".tmp/file", ".tmp", ".hidden"])
def test_the_private_folder_is_no_key(storage: Local, tmp_path: Path, call: Callable[..., object], key: str) -> None:
    with pytest.raises(InvalidKey):
        call(storage, key, tmp_path / "copy")


@pytest.mark.parametrize("make", ["url", "presign_put"])
def test_urls_into_the_private_folder_are_not_made(storage: Local, make: str) -> None:
    storage.links = FakeLinks()
    with pytest.raises(InvalidKey):
        getattr(storage, make)(".tmp/file", None)


def test_a_root_that_is_a_link_is_followed_once(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "media").symlink_to(tmp_path / "disk")
    put(Local("media", root=tmp_path / "media"), "a")
    assert (tmp_path / "disk" / "a").is_file()


def test_a_name_longer_than_the_disk_takes_is_an_invalid_key(storage: Local) -> None:
    with pytest.raises(InvalidKey):
        put(storage, "ü" * 200)


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from("./\\~%:a\0\n é*"), max_size=12))
def test_no_key_leads_out_of_the_root(key: str) -> None:
    """A put lands under the root or is refused, whatever the key."""
    with TemporaryDirectory() as outer:
        storage = Local("media", root=Path(outer, "root"))
        try:
            put(storage, key)
        except InvalidKey:
            assert not Path(outer, "root").exists()
        else:
            assert os.listdir(outer) == ["root"]  # noqa: PTH208
            assert content(storage, key) == b"text"


# ---- what the disk says


MEANINGS = {
    errno.ENOSPC: StorageFull,
    errno.EDQUOT: StorageFull,
    errno.EACCES: StorageDenied,
    errno.EPERM: StorageDenied,
    errno.EROFS: StorageDenied,
    errno.ENAMETOOLONG: InvalidKey,
    errno.ELOOP: InvalidKey,
    errno.ENOTDIR: InvalidKey,
    errno.EISDIR: InvalidKey,
    errno.EEXIST: InvalidKey,
    errno.EIO: StorageUnavailable,
}


@pytest.mark.parametrize(("number", "meaning"), MEANINGS.items(), ids=[errno.errorcode[n] for n in MEANINGS])
def test_a_disk_error_is_translated_and_leaves_nothing(
    storage: Local, root: Path, monkeypatch: pytest.MonkeyPatch, number: int, meaning: type[StorageError]
) -> None:
    """The old object stands, there is no temp file, and the system's error is the cause."""
    old = put(storage, "old")

    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", fail)
    for key in ("old", "new"):
        with pytest.raises(meaning) as caught:
            put(storage, key, b"other")
        assert type(caught.value) is meaning
        assert (caught.value.storage, caught.value.key) == ("media", key)
        assert isinstance(caught.value.__cause__, OSError)
    assert storage.stat("old") == old
    assert files(root) == {"old"}


def test_a_write_that_fails_midway_leaves_nothing(storage: Local, root: Path) -> None:
    put(storage, "old")
    with files_limited_to(100_000), pytest.raises(StorageUnavailable):
        put(storage, "old", bytes(3_000_000))
    assert content(storage, "old") == b"text"
    assert files(root) == {"old"}


def test_an_os_error_of_the_source_is_not_the_disks(storage: Local, root: Path) -> None:
    """A broken connection to the sender must not look like a broken storage."""

    class Hangs(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise ConnectionResetError(errno.ECONNRESET, "reset by peer")

    with pytest.raises(ConnectionResetError):
        storage.put("new", Hangs())
    assert files(root) == set()


def test_a_read_error_is_translated(storage: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that comes after the call, between two chunks."""
    put(storage, "a")
    chunks = storage.read("a")

    def fail(descriptor: int) -> Any:
        raise OSError(errno.EIO, "input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("os.fstat", fail)
        with pytest.raises(StorageUnavailable):
            next(chunks)


def test_bytes_are_on_disk_before_they_have_a_name(storage: Local, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First the file is synced, then it is renamed, then its folder is synced."""
    put(storage, "folder/other")
    synced: list[tuple[bool, bool]] = []

    def watch(descriptor: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), (root / "folder/a").exists()))

    monkeypatch.setattr("os.fsync", watch)
    put(storage, "folder/a")
    assert synced == [(False, False), (True, True)]


def test_new_folders_and_deletions_are_on_disk(storage: Local, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each folder whose names have changed is synced."""
    put(storage, "other")
    synced: set[str] = set()
    monkeypatch.setattr("flask_rindle.storage.local.sync_folder", lambda folder: synced.add(folder.name))
    put(storage, "one/two/a")
    assert synced == {root.name, "one", "two"}
    synced.clear()
    storage.delete("one/two/a")
    assert "two" in synced


def test_an_object_deleted_at_once_was_still_put(storage: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder may be gone before it is synced."""

    def sync_late(folder: Path) -> None:
        if folder.name == "folder":
            shutil.rmtree(folder)
        sync_folder(folder)

    monkeypatch.setattr("flask_rindle.storage.local.sync_folder", sync_late)
    put(storage, "folder/a")
    with pytest.raises(ObjectNotFound):
        storage.stat("folder/a")


def test_a_folder_at_the_key_is_no_object(storage: Local, root: Path, tmp_path: Path) -> None:
    put(storage, "folder/a")
    for verb in ("read", "stat", "save_to", "promote from"):
        with pytest.raises(ObjectNotFound):
            VERBS[verb](storage, "folder", tmp_path / "copy")
    storage.delete("folder")
    assert files(root) == {"folder", "folder/a"}


def test_an_object_cannot_replace_a_folder(storage: Local, root: Path, tmp_path: Path) -> None:
    put(storage, "folder/a")
    for verb in ("put", "promote to"):
        with pytest.raises(InvalidKey):
            VERBS[verb](storage, "folder", tmp_path / "copy")
    assert files(root) == {"folder", "folder/a", "here"}


def test_an_object_is_no_folder(storage: Local, root: Path, tmp_path: Path) -> None:
    put(storage, "object")
    for verb in ("read", "stat", "save_to", "promote from"):
        with pytest.raises(ObjectNotFound):
            VERBS[verb](storage, "object/a", tmp_path / "copy")
    with pytest.raises(InvalidKey):
        put(storage, "object/a")
    storage.delete("object/a")
    assert files(root) == {"object"}


def test_only_the_owner_can_read(root: Path) -> None:
    """Whatever the umask; the parents of the root are not ours to close."""
    before = os.umask(0)
    try:
        put(Local("media", root=root), "folder/deep/a")
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [root, *root.rglob("*")]}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}


# ---- versions


def test_every_write_has_an_etag_of_its_own(storage: Local) -> None:
    """Also the same bytes, within one tick of the kernel's clock, in an inode used before."""
    etags = set()
    for _ in range(200):
        etags.add(put(storage, "a").etag)
        storage.delete("a")
    assert len(etags) == 200


def test_a_reader_keeps_the_version_that_it_opened(storage: Local) -> None:
    put(storage, "a", b"old")
    chunks = storage.read("a")
    put(storage, "a", b"new")
    assert b"".join(chunks) == b"old"


def test_a_saved_file_is_a_file_of_its_own(storage: Local, root: Path, tmp_path: Path) -> None:
    put(storage, "a")
    storage.save_to("a", tmp_path / "copy")
    assert (tmp_path / "copy").stat().st_ino != (root / "a").stat().st_ino
    assert (root / "a").stat().st_nlink == 1


def test_saving_does_not_touch_a_file_that_exists(storage: Local, tmp_path: Path) -> None:
    put(storage, "a")
    (tmp_path / "copy").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        storage.save_to("a", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"mine"


def test_a_save_that_fails_midway_leaves_no_file(storage: Local, tmp_path: Path) -> None:
    put(storage, "a", bytes(3_000_000))
    with files_limited_to(100_000), pytest.raises(OSError, match="too large"):
        storage.save_to("a", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


# ---- folders come and go


def test_delete_prunes_empty_folders_only(storage: Local, root: Path) -> None:
    put(storage, "a/b/c/one")
    put(storage, "a/two")
    storage.delete("a/b/c/one")
    assert files(root) == {"a", "a/two"}
    storage.delete("a/two")
    assert files(root) == set()
    assert root.is_dir()


def test_delete_leaves_an_empty_root(storage: Local, root: Path) -> None:
    root.mkdir(parents=True)
    storage.delete("never/was")
    assert root.is_dir()


class Pruning(Local):
    """Another process prunes the folder whenever it has just been made, so many times."""

    times = 0

    def _make_folder(self, folder: Path) -> None:
        super()._make_folder(folder)
        if folder.name == "deep" and self.times:
            self.times -= 1
            folder.rmdir()


def test_a_put_makes_a_pruned_folder_again(root: Path) -> None:
    storage = Pruning("media", root=root)
    storage.times = 3
    put(storage, "folder/deep/a")
    assert content(storage, "folder/deep/a") == b"text"


def test_a_put_gives_up_on_a_folder_that_never_stays(root: Path) -> None:
    storage = Pruning("media", root=root)
    storage.times = 10**6
    with pytest.raises(StorageUnavailable):
        put(storage, "folder/deep/a")
    assert files(root) == {"folder"}


def test_a_put_makes_a_folder_again_that_flickers(storage: Local, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another put makes the folder just before us, and a delete prunes it before we look at it."""
    mkdir, times = Path.mkdir, iter(range(3))

    def flicker(path: Path, *args: Any, **kwargs: Any) -> None:
        if path.name == "deep" and next(times, None) is not None:
            raise FileExistsError(errno.EEXIST, "File exists")
        mkdir(path, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", flicker)
    put(storage, "folder/deep/a")
    assert content(storage, "folder/deep/a") == b"text"


@pytest.mark.parametrize("wrong", ["", "file", "file/media"])
def test_a_root_that_can_be_no_directory_says_what_to_write(tmp_path: Path, wrong: str) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(ValueError, match="write one such as /srv/media"):
        Local("media", root=wrong and tmp_path / wrong)


def test_a_root_that_is_missing_is_made_at_the_first_write(tmp_path: Path) -> None:
    storage = Local("media", root=tmp_path / "not" / "yet")
    assert not storage.root.exists()
    put(storage, "a")
    assert content(storage, "a") == b"text"


def test_puts_and_deletes_in_one_folder_do_not_meet(storage: Local, root: Path) -> None:
    """Each thread sees its own object come and go, though the other prunes the folder under it."""

    def work(name: str) -> None:
        for _ in range(60):
            put(storage, f"folder/deep/{name}", name.encode())
            assert content(storage, f"folder/deep/{name}") == name.encode()
            storage.delete(f"folder/deep/{name}")

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(work, ["one", "two", "three"]))
    assert files(root) == set()


# ---- promotion


def test_promoting_onto_itself_keeps_the_object(storage: Local, root: Path) -> None:
    stored = put(storage, "real/a")
    (root / "alias").symlink_to(root / "real")
    for target in ("real/a", "alias/a"):
        assert storage.promote("real/a", target, etag=stored.etag).etag == stored.etag
        assert content(storage, "real/a") == b"text"


def test_a_refused_promotion_leaves_the_source_and_the_target(storage: Local, root: Path) -> None:
    put(storage, "incoming/a", b"late")
    put(storage, "final/a", b"old")
    with pytest.raises(ObjectChanged):
        storage.promote("incoming/a", "final/a", etag="the verified one")
    assert (content(storage, "incoming/a"), content(storage, "final/a")) == (b"late", b"old")


def test_a_promotion_that_crashed_is_finished_by_the_next(storage: Local, root: Path) -> None:
    """Both names stand when the process dies between giving the new one and taking the old."""
    stored = put(storage, "incoming/a")
    put(storage, "final/other")
    (root / "final/a").hardlink_to(root / "incoming/a")
    assert storage.promote("incoming/a", "final/a", etag=stored.etag).etag == stored.etag
    assert files(root) == {"final", "final/a", "final/other"}


class LateWriter(Local):
    """The sender overwrites the source right after the promotion has looked at it."""

    def _place(self, staged: Path, path: Path) -> None:
        if path.parts[-2:] == ("final", "a"):
            put(Local("media", root=self.root), "incoming/a", b"late")
        super()._place(staged, path)


def test_a_write_during_promotion_does_not_slip_in(root: Path) -> None:
    storage = LateWriter("media", root=root)
    stored = put(storage, "incoming/a", b"good")
    storage.promote("incoming/a", "final/a", etag=stored.etag)
    assert (content(storage, "final/a"), content(storage, "incoming/a")) == (b"good", b"late")


class Overtaken(Local):
    """Another worker promotes, and then the sender overwrites, before this one takes hold of the source."""

    def _pin(self, key: str, pin: Path, held: ExitStack) -> StoredObject | None:
        other = Local("media", root=self.root)
        other.promote("incoming/a", "final/a", etag=other.stat("incoming/a").etag)
        put(other, "incoming/a", b"late")
        return super()._pin(key, pin, held)


def test_a_second_promoter_does_not_undo_the_first(root: Path) -> None:
    storage = Overtaken("media", root=root)
    stored = put(storage, "incoming/a", b"good")
    assert storage.promote("incoming/a", "final/a", etag=stored.etag).etag == stored.etag
    assert content(storage, "final/a") == b"good"


class Vanishing(Local):
    """Another worker has promoted between the look at the source and the hold on it."""

    def _find(self, key: str) -> StoredObject | None:
        found = super()._find(key)
        if key == "incoming/a" and found is not None:
            Local("media", root=self.root).promote("incoming/a", "final/a", etag=found.etag)
        return found


def test_a_source_that_vanishes_under_the_hand_was_promoted(root: Path) -> None:
    storage = Vanishing("media", root=root)
    stored = put(storage, "incoming/a", b"good")
    assert storage.promote("incoming/a", "final/a", etag=stored.etag).etag == stored.etag


def test_promoters_and_a_late_writer_at_once(storage: Local, root: Path) -> None:
    """With real threads: what was verified stands at the target, or nothing does."""
    start = threading.Barrier(3)

    def promote(etag: str) -> str:
        start.wait()
        try:
            return storage.promote("incoming/a", "final/a", etag=etag).etag
        except ObjectChanged:
            return "changed"

    def write() -> None:
        start.wait()
        put(storage, "incoming/a", b"late")

    with ThreadPoolExecutor(3) as threads:
        for _ in range(60):
            etag = put(storage, "incoming/a", b"good").etag
            answers = [threads.submit(promote, etag), threads.submit(promote, etag)]
            threads.submit(write).result()
            told = {answer.result() for answer in answers}
            assert told <= {etag, "changed"}
            assert (root / "final/a").exists() == (etag in told)
            assert etag not in told or content(storage, "final/a") == b"good"
            storage.delete("final/a")
            storage.delete("incoming/a")
    assert files(root) == set()


class TestTidy:
    def test_removes_what_a_killed_writer_left(self, storage: Local, root: Path) -> None:
        """Killed in the middle of its bytes, and with everything written but the name."""

        class Deadly(io.BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                chunk = super().read(size)
                if not chunk:
                    os.kill(os.getpid(), signal.SIGKILL)
                return chunk

        put(storage, "a/b")
        pid = os.fork()
        if pid == 0:
            storage.put("a/b", Deadly(b"other"))
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        assert len(files(root)) == 3, "the folder, the object, and what is left"
        assert storage.tidy() == 1
        assert files(root) == {"a", "a/b"}
        assert content(storage, "a/b") == b"text"
        assert storage.tidy() == 0

    def test_leaves_what_a_writer_is_at(self, storage: Local, root: Path) -> None:
        other = Local("media", root=root)

        class Watched(io.BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                assert other.tidy() == 0
                return super().read(size)

        storage.put("a/b", Watched(b"bytes"))
        assert content(storage, "a/b") == b"bytes"

    def test_leaves_what_a_promoter_holds(self, root: Path) -> None:
        class Tidied(Local):
            def _place(self, staged: Path, path: Path) -> None:
                assert Local("media", root=root).tidy() == 0
                super()._place(staged, path)

        storage = Tidied("media", root=root)
        stored = put(storage, "incoming/a")
        assert storage.promote("incoming/a", "final/a", etag=stored.etag).etag == stored.etag

    def test_may_come_between_any_two_steps_of_a_writer(
        self, storage: Local, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other, removed = Local("media", root=root), []
        real = local.hold

        def late(descriptor: int, *, shared: bool = False) -> None:
            if len(removed) < 3:
                removed.append(other.tidy())
            real(descriptor, shared=shared)

        monkeypatch.setattr(local, "hold", late)
        put(storage, "a/b", b"bytes")
        assert removed == [1, 1, 1]
        assert (content(storage, "a/b"), files(root)) == (b"bytes", {"a", "a/b"})

    def test_beside_many_writers_and_promoters_takes_nothing_from_them(self, storage: Local, root: Path) -> None:
        over = threading.Event()

        def tidy() -> int:
            other, total = Local("media", root=root), 0
            while not over.is_set():
                total += other.tidy()
            return total

        def write(number: int) -> bool:
            data = b"%d" % number
            stored = put(storage, f"incoming/{number}", data)
            storage.promote(f"incoming/{number}", f"final/{number}", etag=stored.etag)
            return content(storage, f"final/{number}") == data

        with ThreadPoolExecutor(4) as threads:
            tidying = threads.submit(tidy)
            try:
                assert all(threads.map(write, range(200)))
            finally:
                over.set()
            tidying.result()
        assert files(root) == {"final", *(f"final/{number}" for number in range(200))}

    def test_of_a_root_that_was_never_written_to_is_quiet(self, storage: Local, root: Path) -> None:
        assert storage.tidy() == 0
        assert not root.exists()

    def test_follows_no_link_and_enters_no_folder(self, storage: Local, root: Path, tmp_path: Path) -> None:
        put(storage, "a/b")
        outside = tmp_path / "outside"
        outside.write_text("precious")
        (root / ".tmp" / "link").symlink_to(outside)
        (root / ".tmp" / "folder").mkdir()
        assert storage.tidy() == 0
        assert outside.read_text() == "precious"
