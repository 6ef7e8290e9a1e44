"""Files that go past the app: what a worker's transfers cost beside bare boto3 on the same S3 server, how many
uploads can be opened and signed in a second, and the memory of it all over a very large file.

The server is LocalStack, from .venv-s3 (scripts/s3-server makes it). Each transfer runs in a process of its own, which
tells its time and its peak memory; the ways are taken in turn, round by round, and compared within a round, so
that a machine whose speed drifts does not decide. A wide range says that it was noisy.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import boto3
from botocore.config import Config
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from jobs_print import spread
from sqlalchemy import event

from flask_rindle import GB, MB, Profile, Rindle
from flask_rindle.storage.s3 import S3
from flask_rindle.uploads.tickets import Ticket

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "servers"))

from s3_servers import S3Server, localstack

KEY = "films/one.bin"
PART_SENDERS = 2


class Film(Profile):
    max_bytes = 10 * GB


def connect(place: Mapping[str, Any]) -> Any:
    """A bare client, as everybody makes one."""
    return boto3.client(
        "s3",
        endpoint_url=place["endpoint_url"],
        region_name=place["region"],
        aws_access_key_id=place["access_key_id"],
        aws_secret_access_key=place["secret_access_key"],
        config=Config(signature_version="s3v4"),
    )


# One transfer, in a process of its own


def bare(place: Mapping[str, Any], verb: str, path: Path) -> None:
    client = connect(place)
    if verb == "upload":
        client.upload_file(str(path), place["bucket"], KEY)
    else:
        client.download_file(place["bucket"], KEY, str(path))


def ours(place: Mapping[str, Any], verb: str, path: Path) -> None:
    with closing(S3("default", **place)) as storage:
        if verb == "upload":
            with path.open("rb") as source:
                storage.put(KEY, source)
        else:
            storage.save_to(KEY, path)


TRANSFERS: Mapping[str, Callable[[Mapping[str, Any], str, Path], None]] = {"boto3": bare, "flask-rindle": ours}


def be_a_child(way: str, verb: str, path: Path) -> None:
    place = json.loads(sys.stdin.read())
    before = peak_mb()
    began = time.perf_counter()
    TRANSFERS[way](place, verb, path)
    print(json.dumps([time.perf_counter() - began, peak_mb() - before]))


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def transfer(place: Mapping[str, Any], way: str, verb: str, path: Path) -> tuple[float, float]:
    """Seconds, and MB of memory more than before."""
    command = [sys.executable, __file__, "--child", way, verb, str(path)]
    told = subprocess.run(command, input=json.dumps(place), capture_output=True, text=True, check=True)
    seconds, memory = json.loads(told.stdout)
    return seconds, memory


def compare_transfers(place: Mapping[str, Any], folder: Path, *, megabytes: int, rounds: int) -> None:
    source = folder / "source"
    write_film(source, megabytes * MB)
    for verb in ("upload", "download"):
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in TRANSFERS}
        for _ in range(rounds):
            for way in TRANSFERS:
                target = source if verb == "upload" else folder / "copy"
                found[way].append(transfer(place, way, verb, target))
                (folder / "copy").unlink(missing_ok=True)
        print(f"\n{verb.capitalize()} of {megabytes} MB by a worker, {rounds} rounds; median (range)")
        print(f"{'':16}{'MB/s':>26}{'peak memory, MB more':>28}")
        for way, rows in found.items():
            speeds, memory = [megabytes / seconds for seconds, _ in rows], [row[1] for row in rows]
            print(f"{way:16}{spread(speeds):>26}{spread(memory):>28}")
        ratios = [theirs[0] / mine[0] for theirs, mine in zip(found["boto3"], found["flask-rindle"], strict=True)]
        print(f"MB/s against boto3, within a round: {spread(ratios)}")
    source.unlink()


def compare_sizes(place: Mapping[str, Any], folder: Path, sizes_mb: list[int]) -> None:
    print("\nPeak memory of one transfer, in MB more than before, by the size of the file")
    for megabytes in sizes_mb:
        write_film(folder / "source", megabytes * MB)
        up = transfer(place, "flask-rindle", "upload", folder / "source")[1]
        down = transfer(place, "flask-rindle", "download", folder / "copy")[1]
        print(f"{megabytes:8} MB{'':6}upload {up:6.1f}   download {down:6.1f}")
        (folder / "source").unlink()
        (folder / "copy").unlink()


def write_film(path: Path, size_bytes: int) -> None:
    block = os.urandom(MB)
    with path.open("wb") as film:
        for _ in range(size_bytes // MB):
            film.write(block)


# The app


def make_app(folder: Path, place: Mapping[str, Any]) -> Flask:
    app = Flask("bench", instance_path=str(folder / "instance"))
    app.config.update(
        SECRET_KEY="a long random value",
        SQLALCHEMY_DATABASE_URI=f"sqlite:///{folder / 'app.db'}",
        RINDLE_STORAGES={"default": {"backend": "s3", **place}},
        RINDLE_WORKERS=0,
    )
    db = SQLAlchemy(app)
    Rindle(app, db, profiles=[Film])
    with app.app_context():
        db.create_all()
    return app


def count_openings(app: Flask, *, seconds: float) -> None:
    """One client that opens uploads, each with its signed URL, one after the other."""
    client, statements = app.test_client(), 0

    def count(*_: Any) -> None:
        nonlocal statements
        statements += 1

    engine = app.extensions["rindle"]
    sql = engine.database._binds().writer
    event.listen(sql, "before_cursor_execute", count)
    ticket = Ticket(profile="film", max_files=10_000)
    header = {"Rindle-Ticket": engine.tickets.issue(ticket, expires_in=engine.settings.upload_session_ttl)}
    body = {"filename": "a.bin", "byte_size": 1000}
    assert client.post("/rindle/uploads", json=body, headers=header).status_code == 201
    statements, done, began = 0, 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        done += client.post("/rindle/uploads", json=body, headers=header).status_code == 201
    took = time.perf_counter() - began
    event.remove(sql, "before_cursor_execute", count)
    print(f"\nOpen an upload and sign its URL, one client, SQLite: {done / took:.0f} a second")
    print(f"{statements / done:.1f} SQL statements each")


def send_in_parts(app: Flask, megabytes: int) -> None:
    """A very large file through signed parts: the app signs, the storage takes, the app completes."""
    size = megabytes * MB
    block = os.urandom(MB)
    memory = resident_mb()
    with app.app_context():
        facade = Rindle()
        began = time.perf_counter()
        upload = facade.initiate_multipart_upload(Film, filename="a.bin", byte_size=size)

        def put(number: int) -> None:
            with app.app_context():
                part = facade.sign_multipart_part(upload.session, number)
            length = min(upload.part_size, size - (number - 1) * upload.part_size)
            request = Request(part.url, data=block * (length // MB), method="PUT", headers=dict(part.headers))
            with urlopen(request, timeout=120) as answer:
                assert answer.status == 200

        most = memory
        with ThreadPoolExecutor(PART_SENDERS) as senders:
            for _ in senders.map(put, range(1, upload.part_count + 1)):
                most = max(most, resident_mb())
        facade.complete_multipart_upload(upload.session)
        took = time.perf_counter() - began
    print(
        f"\n{megabytes} MB in {upload.part_count} signed parts, {PART_SENDERS} at a time: {megabytes / took:.0f} MB/s"
    )
    print(
        f"client and app together: {memory:.0f} MB of memory before, {most:.0f} at most, {PART_SENDERS} parts among it"
    )


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MB


# The whole


class Folders:
    """What a fixture wants of pytest."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def mktemp(self, name: str) -> Path:
        (self._folder / name).mkdir()
        return self._folder / name


@contextmanager
def running(folder: Path) -> Iterator[S3Server]:
    started = localstack.__wrapped__(Folders(folder))  # type: ignore[attr-defined]
    yield next(started)
    next(started, None)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--megabytes", type=int, default=256)
    options.add_argument("--large-megabytes", type=int, default=5120)
    options.add_argument("--child", nargs=3)
    given = options.parse_args()
    if given.child:
        be_a_child(given.child[0], given.child[1], Path(given.child[2]))
        return
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; "
        f"Python {platform.python_version()}, boto3 {version('boto3')}, LocalStack as the server"
    )
    with tempfile.TemporaryDirectory() as name, running(Path(name)) as server:
        folder, place = Path(name), server.options("bench")
        connect(place).create_bucket(Bucket="bench")
        compare_transfers(place, folder, megabytes=given.megabytes, rounds=given.rounds)
        compare_sizes(place, folder, [10, given.large_megabytes])
        app = make_app(folder, place)
        count_openings(app, seconds=5)
        send_in_parts(app, given.large_megabytes)
        app.extensions["rindle"].close()


if __name__ == "__main__":
    main()
