"""gcp-storage-emulator, which somebody else wrote, in a process of its own on a free port."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

PROGRAM = """
import sys
from gcp_storage_emulator.server import create_server

server = create_server("127.0.0.1", 0, True, default_bucket=sys.argv[1])
server.start()
print(server._api._httpd.server_port, flush=True)
sys.stdin.read()
server.stop()
"""


@contextmanager
def emulator(bucket: str) -> Iterator[str]:
    """Its URL, while it runs. It keeps objects in memory and checks no signature."""
    command = [sys.executable, "-c", PROGRAM, bucket]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        assert process.stdin is not None
        process.stdin.close()
