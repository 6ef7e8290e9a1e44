"""The decoder child and its keeper: what it cannot reach, how it dies, and that the next call works."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image, ImageCms

from flask_rindle.errors import Cancelled, MediaDamaged, OutputWrong, RejectedUpload, SandboxFailed, TooManyPixels
from flask_rindle.processing import child as child_side
from flask_rindle.processing import sandbox as sandbox_module
from flask_rindle.processing.base import Failed, Made, Order
from flask_rindle.processing.images import ImageProcessor
from flask_rindle.processing.probes import FileProbe
from flask_rindle.processing.sandbox import Limits, Sandbox
from flask_rindle.processing.wire import MAX_LINE_BYTES, describe, pack, revive
from flask_rindle.recipes import video
from flask_rindle.recipes.image import crop, fit
from flask_rindle.types import MB

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def never():
    return False


def as_it_is(answer):
    return answer


@pytest.fixture
def sandbox():
    with closing(Sandbox()) as sandbox:
        yield sandbox


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.linear_gradient("L").convert("RGB").save(path)
    return path


@pytest.fixture
def impostor(monkeypatch):
    """Starts this Python code in the place of the child; `wire` is its socket."""

    def impostor(code, **limits):
        program = f"import json, os, socket, subprocess, sys\nwire = socket.socket(fileno=0)\n{code}"
        monkeypatch.setattr(sandbox_module, "_START", program)
        return Sandbox(Limits(**limits))

    return impostor


def pid_of(sandbox):
    (child,) = sandbox._children
    return child._process.pid


def wait_until(condition):
    """Look again for ten seconds at most."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        threading.Event().wait(0.01)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def reason_of(call, *args, **kwargs):
    with pytest.raises(SandboxFailed) as caught:
        call(*args, **kwargs)
    return caught.value.reason


# -- a child's life


def test_one_child_serves_many_requests(sandbox, picture):
    first = FileProbe(sandbox).probe(picture)
    pid = pid_of(sandbox)
    assert FileProbe(sandbox).probe(picture) == first
    assert pid_of(sandbox) == pid


def test_a_refused_file_does_not_cost_the_child(sandbox, picture, tmp_path):
    FileProbe(sandbox).probe(picture)
    pid = pid_of(sandbox)
    with pytest.raises(TooManyPixels):
        FileProbe(sandbox).probe(picture, max_pixels=1)
    assert pid_of(sandbox) == pid
    FileProbe(sandbox).probe(picture)
    assert pid_of(sandbox) == pid


def test_a_child_is_replaced_after_so_many_requests(picture):
    with closing(Sandbox(Limits(requests=2))) as sandbox:
        pids = []
        for _ in range(4):
            FileProbe(sandbox).probe(picture)
            pids.append(pid_of(sandbox) if sandbox._children else None)
        assert pids[0] != pids[2]
        assert pids[1] is None
        assert pids[3] is None


def test_close_kills_the_child_and_removes_its_directory(picture):
    sandbox = Sandbox()
    FileProbe(sandbox).probe(picture)
    (child,) = sandbox._children
    assert Path(child._directory).stat().st_mode & 0o777 == 0o700
    sandbox.close()
    assert child._process.returncode == -signal.SIGKILL
    assert not Path(child._directory).exists()
    assert reason_of(FileProbe(sandbox).probe, picture) == "closed"


def test_a_sandbox_that_nobody_holds_leaves_no_process_behind(picture):
    sandbox = Sandbox()
    FileProbe(sandbox).probe(picture)
    pid = pid_of(sandbox)
    del sandbox
    wait_until(lambda: not is_running(pid))


@linux_only
def test_the_child_dies_with_its_parent(tmp_path, picture):
    code = (
        f"import sys, os, signal; sys.path.insert(0, {str(Path.cwd())!r})\n"
        "from pathlib import Path\n"
        "from flask_rindle.processing.sandbox import Sandbox\n"
        "from flask_rindle.processing.probes import FileProbe\n"
        f"s = Sandbox(); FileProbe(s).probe(Path({str(picture)!r}))\n"
        "print(next(iter(s._children))._process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60)
    wait_until(lambda: not is_running(int(done.stdout)))


@linux_only
def test_the_child_outlives_the_thread_that_first_needed_it(sandbox, picture):
    thread = threading.Thread(target=FileProbe(sandbox).probe, args=(picture,))
    thread.start()
    thread.join()
    pid = pid_of(sandbox)
    FileProbe(sandbox).probe(picture)
    assert pid_of(sandbox) == pid


# -- what the child cannot reach


@linux_only
def test_the_child_has_nothing_of_our_environment(monkeypatch, picture):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    with closing(Sandbox()) as sandbox:
        FileProbe(sandbox).probe(picture)
        environment = Path(f"/proc/{pid_of(sandbox)}/environ").read_bytes()
    assert b"hunter2" not in environment
    names = {entry.partition(b"=")[0] for entry in environment.split(b"\0") if entry}
    assert names == {b"PATH", b"LANG", b"MALLOC_ARENA_MAX", b"TMPDIR"}


@linux_only
def test_the_child_has_no_descriptors_but_its_socket(tmp_path, picture):
    secret = os.open(picture, os.O_RDONLY)
    os.set_inheritable(secret, True)
    with closing(Sandbox()) as sandbox:
        made = ImageProcessor(sandbox).process(picture, "image/png", [order(tmp_path)], stop=never)
        assert isinstance(made[0], Made)
        open_files = {entry.name: str(entry.readlink()) for entry in Path(f"/proc/{pid_of(sandbox)}/fd").iterdir()}
    os.close(secret)
    assert open_files.keys() == {"0", "1", "2"}
    assert open_files["0"].startswith("socket:")
    assert open_files["1"] == "/dev/null"


@linux_only
def test_the_child_has_limits(picture):
    with closing(Sandbox(Limits(memory_bytes=900 * MB, output_bytes=5 * MB))) as sandbox:
        FileProbe(sandbox).probe(picture)
        text = Path(f"/proc/{pid_of(sandbox)}/limits").read_text()
        status = Path(f"/proc/{pid_of(sandbox)}/status").read_text()
        assert os.getsid(pid_of(sandbox)) == pid_of(sandbox)
    limits = {line[:25].strip(): line[26:47].split()[0] for line in text.splitlines()[1:]}
    assert limits["Max address space"] == str(900 * MB)
    assert limits["Max file size"] == str(5 * MB)
    assert limits["Max core file size"] == "0"
    assert limits["Max open files"] == "256"
    assert limits["Max cpu time"] != "unlimited"
    assert "NoNewPrivs:\t1" in status


CONFINED = """
import os, socket, sys
sys.path[:] = {path}
from flask_rindle.processing.confinement import confine
os.chdir({directory!r})
confine(memory_bytes=900_000_000, output_bytes=1000)
"""


def confined(tmp_path, code):
    start = CONFINED.format(path=sandbox_module._module_path(), directory=str(tmp_path))
    return subprocess.run([sys.executable, "-I", "-c", start + code], capture_output=True, text=True, timeout=60)


@linux_only
def test_where_namespaces_are_allowed_there_is_neither_network_nor_file_system(tmp_path):
    if subprocess.run(["unshare", "--user", "--net", "true"], capture_output=True).returncode:
        pytest.skip("this machine forbids user namespaces")
    done = confined(
        tmp_path,
        "print(os.listdir('/'))\n"
        "print(socket.socket().connect_ex(('192.0.2.1', 9)))\n"
        "try: os.chroot('/')\n"
        "except PermissionError: print('powerless')\n",
    )
    assert done.stdout.split() == ["[]", str(errno.ENETUNREACH), "powerless"], done.stderr


AFTER_WARM_UP = """
import io, sys
sys.path[:] = {path}
from pathlib import Path
from flask_rindle.errors import MediaDamaged
from flask_rindle.processing import child, image
from flask_rindle.recipes.image import fit
samples = [(path.name.partition("-")[0], path.read_bytes()) for path in Path({directory!r}).iterdir()]
child._warm_up()
known = set(sys.modules)
for name, data in samples:
    for part in (data, data[: len(data) * 2 // 3]):
        try:
            image.inspect(io.BytesIO(part), "image/" + name, None)
            recipes = [fit(9, format=format) for format in ("jpeg", "png", "webp", "avif")]
            image.render(io.BytesIO(part), "image/" + name, None, recipes, [io.BytesIO() for _ in recipes])
        except MediaDamaged: pass
print(sorted(set(sys.modules) - known))
"""


def test_nothing_is_imported_after_the_child_has_locked_itself_in(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8825)[2] = (48.0, 12.0, 0.0)
    extras = {
        "exif": exif,
        "xmp": b"<x:xmpmeta tiff:Orientation='6'/>",
        "icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(),
    }
    noise = Image.effect_noise((90, 60), 90)
    for format in ("jpeg", "png", "webp", "avif", "gif"):  # noqa: A001
        noise.convert("RGB").save(tmp_path / f"{format}-plain", format)
        noise.convert("RGB").save(tmp_path / f"{format}-extras", format, **extras)
        if format != "jpeg":
            noise.convert("RGB").save(tmp_path / f"{format}-moving", format, save_all=True, append_images=[noise])
    noise.convert("CMYK").save(tmp_path / "jpeg-cmyk", "jpeg")
    noise.save(tmp_path / "jpeg-mpo", "MPO", save_all=True, append_images=[noise])
    noise.convert("P").save(tmp_path / "png-palette", "png", transparency=3)
    noise.convert("I;16").save(tmp_path / "png-deep", "png")
    noise.convert("LA").save(tmp_path / "png-alpha", "png")
    code = AFTER_WARM_UP.format(path=sandbox_module._module_path(), directory=str(tmp_path))
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_the_child_cannot_fill_the_disk(tmp_path):
    done = confined(
        tmp_path,
        "file = open('big', 'wb', buffering=0)\n"
        "try: print(sum(file.write(bytes(600)) for _ in range(9)))\n"
        "except OSError as error: print(error.errno)\n",
    )
    assert done.stdout == "27\n", done.stderr


# -- how it fails


@linux_only
def test_a_killed_child_is_a_failure_once(picture, impostor):
    with closing(impostor("wire.recv(9); open('here', 'w'); wire.recv(9999999); wire.recv(9)")) as sandbox:
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(reason_of, FileProbe(sandbox).probe, picture)
            wait_until(lambda: any((Path(c._directory) / "here").exists() for c in list(sandbox._children)))
            os.kill(pid_of(sandbox), signal.SIGKILL)
            assert answer.result() == "crashed"
        assert not sandbox._children


@linux_only
def test_the_call_after_a_killed_child_works(sandbox, picture):
    FileProbe(sandbox).probe(picture)
    pid = pid_of(sandbox)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(pid))
    assert FileProbe(sandbox).probe(picture).width == 256
    assert pid_of(sandbox) != pid


@linux_only
def test_a_timeout_kills_the_whole_group(picture, impostor):
    code = "subprocess.Popen(['/bin/sleep', '600']); open('here', 'w'); wire.recv(99999); wire.recv(9)"
    with closing(impostor(code, timeout=timedelta(seconds=1.5))) as sandbox:
        group = []

        def note_the_group():
            for kept in sandbox._children:
                if (Path(kept._directory) / "here").exists():
                    found = subprocess.run(["ps", "-eo", "pid,pgid"], capture_output=True, text=True).stdout
                    pairs = [line.split() for line in found.splitlines()[1:]]
                    group[:] = [int(pid) for pid, pgid in pairs if int(pgid) == kept._process.pid]
            return False

        assert reason_of(sandbox.run, "probe", {}, as_it_is, source=picture, stop=note_the_group) == "timeout"
        assert len(group) == 2
        for pid in group:
            wait_until(lambda pid=pid: not is_running(pid))


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("sys.exit(3)", "crashed"),
        ("os.kill(os.getpid(), 11)", "crashed"),
        ("wire.recv(9999); sys.exit(0)", "crashed"),
        ("import signal; os.kill(os.getpid(), signal.SIGXCPU)", "timeout"),
        (r"wire.recv(9999); wire.sendall(b'nonsense\n')", "answer"),
        (r"wire.recv(9999); wire.sendall(b'[]\n')", "answer"),
        (r"""wire.recv(9999); wire.sendall(b'{"ok": 1, "error": 2}\n')""", "answer"),
        (r"""wire.recv(9999); wire.sendall(b'{"error": 2}\n')""", "answer"),
        (r"""wire.recv(9999); wire.sendall(b'{"ok": 1}\n{"ok": 2}\n')""", "answer"),
        (r"wire.recv(9999); wire.sendall(b'[' * 60000 + b'\n')", "answer"),
        (r"wire.recv(9999); wire.sendall(b'x' * 10**7)", "answer"),
        (
            r"""wire.recv(9999); wire.sendall(b'{"error": {"code": "sandbox_failed", "reason": "memory"}}\n')""",
            "memory",
        ),
    ],
)
def test_whatever_goes_wrong_has_a_short_name_and_costs_the_child(picture, impostor, code, reason):
    with closing(impostor(code)) as sandbox:
        assert reason_of(sandbox.run, "probe", {}, as_it_is, source=picture) == reason
        assert not sandbox._children


def test_a_child_that_talks_out_of_turn_is_not_asked_again(picture, impostor):
    code = r"""
wire.recv(9999); wire.sendall(b'{"ok": %d}\n' % os.getpid())
while not os.path.exists('go'): pass
wire.sendall(b'more'); wire.recv(9)"""
    with closing(impostor(code)) as sandbox:
        first = sandbox.run("probe", {}, as_it_is, source=picture)
        (child,) = sandbox._children
        assert child.is_quiet()
        (Path(child._directory) / "go").touch()
        wait_until(lambda: not child.is_quiet())
        assert sandbox.run("probe", {}, as_it_is, source=picture) != first
        assert child not in sandbox._children


def test_what_the_child_complained_about_is_logged_for_operators(picture, impostor, caplog):
    with closing(impostor("sys.exit('out of cheese')")) as sandbox:
        reason_of(sandbox.run, "probe", {}, as_it_is, source=picture)
    assert "out of cheese" in caplog.text


def test_a_flood_of_complaints_blocks_nobody(picture, impostor):
    code = r"""
try: sys.stderr.write('x' * 10**6)
except BlockingIOError: pass
wire.recv(9999); wire.sendall(b'{"ok": 1}\n'); wire.recv(9)"""
    with closing(impostor(code)) as sandbox:
        assert sandbox.run("probe", {}, as_it_is, source=picture) == 1


def test_a_program_that_cannot_be_started_is_a_failed_sandbox(monkeypatch, picture, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with closing(Sandbox()) as sandbox:
        assert reason_of(sandbox.run, "probe", {}, as_it_is, source=picture) == "start"


def test_too_little_memory_is_said_so_and_replaces_the_child(tmp_path):
    path = tmp_path / "large.png"
    Image.new("RGB", (6000, 6000)).save(path)
    with closing(Sandbox(Limits(memory_bytes=150 * MB))) as sandbox:
        assert reason_of(FileProbe(sandbox).probe, path) == "memory"
        assert not sandbox._children


def test_stop_kills_the_child_and_cancels(picture, impostor):
    with closing(impostor("wire.recv(9999); wire.recv(9)")) as sandbox:
        polls = []

        def stop():
            polls.append(time.monotonic())
            return len(polls) > 3

        with pytest.raises(Cancelled):
            sandbox.run("probe", {}, as_it_is, source=picture, stop=stop)
        assert not sandbox._children
        assert max(later - earlier for earlier, later in pairwise(polls)) < 1


def test_a_stop_that_raises_does_not_leak_the_child(sandbox, picture):
    def stop():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sandbox.run("probe", {"max_pixels": None}, as_it_is, source=picture, stop=stop)
    assert not sandbox._children


def test_close_ends_a_request_that_is_under_way(picture, impostor):
    sandbox = impostor("open('here', 'w'); wire.recv(9999); wire.recv(9)")
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(reason_of, sandbox.run, "probe", {}, as_it_is, source=picture)
        wait_until(lambda: any((Path(c._directory) / "here").exists() for c in list(sandbox._children)))
        sandbox.close()
        assert answer.result() == "crashed"
    assert not sandbox._children


# -- threads and forks


def test_threads_have_a_child_each_and_share_them_later(sandbox, picture):
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: FileProbe(sandbox).probe(picture), range(12)))
    assert len(set(answers)) == 1
    assert 1 <= len(sandbox._children) <= 4
    assert len(sandbox._idle) == len(sandbox._children)


@linux_only
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_starts_its_own_children_and_leaves_ours_alone(sandbox, picture):
    before = FileProbe(sandbox).probe(picture)
    pid = pid_of(sandbox)
    read, write = os.pipe()
    forked = os.fork()
    if not forked:  # pragma: no cover - another process
        try:
            same = FileProbe(sandbox).probe(picture) == before
            os.write(write, json.dumps([same, pid_of(sandbox)]).encode())
            sandbox.close()
        finally:
            os._exit(0)
    os.waitpid(forked, 0)
    same, their_pid = json.loads(os.read(read, 1000))
    os.close(read)
    os.close(write)
    assert same
    assert their_pid != pid
    assert FileProbe(sandbox).probe(picture) == before
    assert pid_of(sandbox) == pid


# -- files


def order(directory, name="small", recipe=None):
    return Order(name=name, recipe=recipe or fit(64, format="webp"), target=directory / name)


def test_each_order_gets_an_answer_and_a_private_file(sandbox, picture, tmp_path):
    orders = [order(tmp_path), order(tmp_path, "cut", crop(10, 10))]
    small, cut = ImageProcessor(sandbox).process(picture, "image/png", orders, stop=never)
    assert small == Made(
        name="small", content_type="image/webp", size_bytes=(tmp_path / "small").stat().st_size, width=64, height=64
    )
    assert (cut.name, cut.content_type, cut.width, cut.height) == ("cut", "image/jpeg", 10, 10)
    assert (tmp_path / "small").stat().st_mode & 0o777 == 0o600
    with Image.open(tmp_path / "small") as made:
        assert (made.format, made.size) == ("WEBP", (64, 64))


def test_the_file_of_a_failed_order_is_gone_and_its_sibling_stays(sandbox, tmp_path):
    Image.new("RGB", (1, 20_000)).save(tmp_path / "tall.png")
    orders = [order(tmp_path), order(tmp_path, "png", fit(64, format="png"))]
    failed, made = ImageProcessor(sandbox).process(tmp_path / "tall.png", "image/png", orders, stop=never)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, OutputWrong)
    assert made.height == 20_000
    assert not (tmp_path / "small").exists()
    assert (tmp_path / "png").exists()


def test_an_output_over_the_limit_is_a_failed_order(tmp_path):
    Image.effect_noise((600, 600), 90).save(tmp_path / "noise.png")
    with closing(Sandbox(Limits(output_bytes=20_000))) as sandbox:
        orders = [order(tmp_path, "large", fit(600, format="png")), order(tmp_path)]
        large, small = ImageProcessor(sandbox).process(tmp_path / "noise.png", "image/png", orders, stop=never)
    assert isinstance(large.error, OutputWrong)
    assert small.size_bytes < 20_000


def test_a_damaged_source_leaves_no_files(sandbox, picture, tmp_path):
    picture.write_bytes(picture.read_bytes()[:200])
    with pytest.raises(MediaDamaged):
        ImageProcessor(sandbox).process(picture, "image/png", [order(tmp_path)], stop=never)
    assert not (tmp_path / "small").exists()


def test_a_target_that_exists_is_never_overwritten(sandbox, picture, tmp_path):
    (tmp_path / "small").write_text("mine")
    with pytest.raises(FileExistsError):
        ImageProcessor(sandbox).process(picture, "image/png", [order(tmp_path, "first"), order(tmp_path)], stop=never)
    assert (tmp_path / "small").read_text() == "mine"
    assert not (tmp_path / "first").exists()


def test_no_orders_need_no_child(sandbox, picture):
    assert ImageProcessor(sandbox).process(picture, "image/png", [], stop=never) == []
    assert not sandbox._children


def test_only_picture_recipes_are_accepted(sandbox):
    processor = ImageProcessor(sandbox)
    assert processor.accepts(fit(10))
    assert not processor.accepts(video.poster())


@pytest.mark.parametrize("answer", [None, [], [1], [{"made": {"width": "9", "height": 9}}], [{"made": {"width": 9}}]])
def test_a_processor_does_not_believe_nonsense_nor_keep_its_files(answer, impostor, picture, tmp_path):
    line = json.dumps({"ok": answer}) + "\n"
    with closing(impostor(f"wire.recv(9999); wire.sendall({line.encode()!r}); wire.recv(9)")) as sandbox:
        process = ImageProcessor(sandbox).process
        assert reason_of(process, picture, "image/png", [order(tmp_path)], stop=never) == "answer"
        assert not sandbox._children
    assert not (tmp_path / "small").exists()


# -- what goes over the wire


@pytest.mark.parametrize("error", [TooManyPixels(1, 2, 3), MediaDamaged("image/png"), OutputWrong("why")])
def test_errors_survive_the_journey(error):
    back = revive(json.loads(json.dumps(describe(error))))
    assert type(back) is type(error)
    assert vars(back) == vars(error)


@pytest.mark.parametrize(
    "facts",
    [
        None,
        {},
        {"code": "nope"},
        {"code": []},
        {"code": "too_many_pixels"},
        {"code": "too_many_pixels", "limit_pixels": "a", "width": 1, "height": 1},
        {"code": "media_damaged", "content_type": ["x"]},
        {"code": "media_damaged", "content_type": "image/png", "extra": 1},
    ],
)
def test_an_error_that_makes_no_sense_is_a_wrong_answer(facts):
    error = revive(facts)
    assert isinstance(error, SandboxFailed)
    assert error.reason == "answer"
    assert not isinstance(error, RejectedUpload)


def test_a_long_text_of_the_child_is_cut():
    assert len(revive({"code": "output_wrong", "reason": "x" * 9999}).reason) == 200


def test_a_request_that_is_too_long_is_not_sent():
    with pytest.raises(ValueError, match="do not fit"):
        pack({"x": "y" * MAX_LINE_BYTES})


# -- the child's own side, in this process


def ask_in_process(message, *paths):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        files = [os.open(path, os.O_RDWR | os.O_CREAT) for path in paths]
        line = pack(message)
        socket.send_fds(ours, [line[:5]], files)
        ours.sendall(line[5:])
        for file in files:
            os.close(file)
        return child_side._answer(*child_side._receive(theirs))


def test_the_child_answers_from_descriptors_alone(picture, tmp_path):
    request = {"operation": "probe", "max_pixels": None, "allow_mime": None}
    answer = ask_in_process(request, picture)
    assert answer["ok"]["width"] == 256
    assert ask_in_process({**request, "max_pixels": 1}, picture)["error"]["code"] == "too_many_pixels"
    (tmp_path / "note").write_text("words")
    assert ask_in_process(request, tmp_path / "note") == {"ok": {"content_type": "text/plain"}}


def test_the_child_renders_into_descriptors(picture, tmp_path):
    recipe = {"mode": "fit", "width": 20, "format": "png"}
    request = {"operation": "render", "content_type": "image/png", "max_pixels": None, "recipes": [recipe]}
    assert ask_in_process(request, picture, tmp_path / "out") == {"ok": [{"made": {"width": 20, "height": 20}}]}
    assert Image.open(io.BytesIO((tmp_path / "out").read_bytes())).size == (20, 20)


def test_the_child_calls_want_of_memory_by_its_name(picture, monkeypatch):
    def refuse(*args):
        raise MemoryError

    monkeypatch.setitem(child_side._OPERATIONS, "probe", refuse)
    assert ask_in_process({"operation": "probe"}, picture) == {"error": {"code": "sandbox_failed", "reason": "memory"}}


@pytest.mark.parametrize("sent", [b"", b'{"half'])
def test_the_child_leaves_when_the_parent_has_gone(sent):
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            ours.sendall(sent)
        assert child_side._receive(theirs) is None
