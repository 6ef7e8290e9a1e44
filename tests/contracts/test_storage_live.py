"""The contract against real buckets: `python -m pytest -m live`, with credentials in the environment.

`RINDLE_LIVE_S3` and `RINDLE_LIVE_GCS` hold the options of a storage as JSON, such as
`{"bucket": "my-tests", "region": "eu-central-1"}`. Everything is done under keys of its own, and removed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from flask_rindle.storage.base import Storage
from flask_rindle.storage.gcs import GCS
from flask_rindle.storage.s3 import S3
from flask_rindle.testing.contracts import StorageContract

BACKENDS: dict[str, Any] = {"RINDLE_LIVE_S3": S3, "RINDLE_LIVE_GCS": GCS}

pytestmark = pytest.mark.live


@pytest.fixture(params=BACKENDS)
def storage(request: pytest.FixtureRequest) -> Iterator[Storage]:
    options = os.environ.get(request.param)
    if options is None:
        pytest.skip(f"{request.param} is not set: no real bucket to ask")
    with closing(BACKENDS[request.param]("live", **json.loads(options))) as storage:
        yield storage


class TestRealBuckets(StorageContract):
    """The contract."""
