"""Two real S3 servers on free ports of this machine: LocalStack, and Ceph's RADOS Gateway.

The conftest of the tests that need them imports their fixtures. Where one is missing its tests are
skipped, but fail where everything is required.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.error import URLError
from urllib.request import urlopen

import boto3
import pytest
from botocore.config import Config

ROOT = Path(__file__).parents[2]
START_SECONDS = 90
# Ends the command with standard input, so that nothing is left when a test run is killed.
UNTIL_INPUT_ENDS = """ "$@" </dev/null & pid=$!; cat >/dev/null; kill $pid; wait $pid """
REGION = "us-east-1"


@dataclass(frozen=True)
class S3Server:
    """A server that runs, the keys that it takes, and a client that is none of ours, to arrange and to look with."""

    kind: str
    port: int
    access_key_id: str
    secret_access_key: str
    client: Any

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def options(self, bucket: str, **more: Any) -> dict[str, Any]:
        """What `S3` takes beside its name."""
        return {
            "bucket": bucket,
            "region": REGION,
            "endpoint_url": self.endpoint_url,
            "access_key_id": self.access_key_id,
            "secret_access_key": self.secret_access_key,
            **more,
        }


@contextmanager
def connected(kind: str, port: int, access_key_id: str, secret_access_key: str) -> Iterator[S3Server]:
    """The server on this port, with a client."""
    client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name=REGION,
        aws_access_key_id=access_key_id,
        aws_secret_access_key=secret_access_key,
        config=Config(signature_version="s3v4"),
    )
    with closing(client):
        yield S3Server(kind, port, access_key_id, secret_access_key, client)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def absent(sentence: str) -> NoReturn:
    """Skip, or fail where every server is required."""
    if os.environ.get("CI") or os.environ.get("RINDLE_REQUIRE_ALL"):
        pytest.fail(sentence)
    pytest.skip(sentence)


def await_answer(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until the server answers 200; an error with its log when it has ended, or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(url, timeout=5) as answer:  # noqa: S310
                answer.read()
                return
        except (URLError, OSError):
            try:
                process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
    raise RuntimeError(f"no answer from {url}:\n{log.read_text(errors='replace')[-4000:]}")


@contextmanager
def server(command: list[str], log: Path, url: str, environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """The command, which ends with its standard input, while it answers at `url`."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=out, stderr=out, env={**os.environ, **(environment or {})}
        )
    try:
        await_answer(url, process, log)
        yield
    finally:
        process.stdin.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def localstack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """LocalStack, which verifies what presigned requests are bound to, checksums too, but not who sends headers."""
    python = ROOT / ".venv-s3" / "bin" / "python"
    if not python.exists():
        absent("there is no LocalStack here: run scripts/s3-server, which installs it into .venv-s3")
    folder, port = tmp_path_factory.mktemp("localstack"), free_port()
    environment = {
        "SERVICES": "s3",
        "STRICT_SERVICE_LOADING": "1",
        "GATEWAY_LISTEN": f"127.0.0.1:{port}",
        "DISABLE_EVENTS": "1",
        "SKIP_SSL_CERT_DOWNLOAD": "1",
        "S3_SKIP_SIGNATURE_VALIDATION": "0",
        "DNS_ADDRESS": "0",
        "LOCALSTACK_VOLUME_DIR": str(folder / "volume"),
    }
    command = ["sh", "-c", UNTIL_INPUT_ENDS, "sh", str(python), "-m", "localstack.runtime.main"]
    url = f"http://127.0.0.1:{port}/_localstack/health"
    with server(command, folder / "log", url, environment), connected("localstack", port, "test", "test") as running:
        yield running


@pytest.fixture(scope="session")
def ceph() -> Iterator[S3Server]:
    """Ceph's RADOS Gateway, which verifies who asks, and when."""
    missing = [name for name in ("radosgw", "ceph-mon", "ceph-osd") if shutil.which(name) is None]
    if missing:
        absent(f"there is no {missing[0]} here: apt-get install --no-install-recommends radosgw ceph-mon ceph-osd")
    folder, port = Path(tempfile.mkdtemp(prefix="ceph")), free_port()  # its sockets need a short path
    try:
        command = [str(ROOT / "scripts" / "ceph"), str(folder / "data"), str(port)]
        with (
            server(command, folder / "log", f"http://127.0.0.1:{port}/"),
            connected("ceph", port, "RINDLETESTKEY", "rindle-test-secret") as running,
        ):
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["localstack", "ceph"])
def s3_server(request: pytest.FixtureRequest) -> S3Server:
    """Each server in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def make_bucket() -> Iterator[Callable[[S3Server], str]]:
    """`make_bucket(server)`: an empty bucket that nobody else has; removed at the end, with what is in it."""
    made: list[tuple[S3Server, str]] = []

    def make(server: S3Server) -> str:
        name = f"rindle-{uuid.uuid4().hex[:16]}"
        server.client.create_bucket(Bucket=name)
        made.append((server, name))
        return name

    yield make
    for server, name in made:
        empty(server.client, name)
        server.client.delete_bucket(Bucket=name)


def empty(client: Any, bucket: str) -> None:
    """Remove every object, and every upload that is not over."""
    for upload in uploads(client, bucket):
        client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for each in page.get("Contents", ()):
            client.delete_object(Bucket=bucket, Key=each["Key"])


def uploads(client: Any, bucket: str) -> list[dict[str, Any]]:
    """The multipart uploads that are not over."""
    return client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
