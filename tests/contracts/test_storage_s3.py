"""S3 keeps the contract, on LocalStack and on Ceph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from s3_servers import S3Server

from flask_rindle.storage.s3 import S3
from flask_rindle.testing.contracts import StorageContract


@pytest.fixture
def storage(s3_server: S3Server, make_bucket: Callable[[S3Server], str]) -> Iterator[S3]:
    with closing(S3("media", **s3_server.options(make_bucket(s3_server)))) as storage:
        yield storage


class TestS3(StorageContract):
    """The contract."""
