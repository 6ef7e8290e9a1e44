"""The servers that storages are tested against; their modules are imported by name."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "servers"))

from s3_servers import ceph as ceph
from s3_servers import localstack as localstack
from s3_servers import make_bucket as make_bucket
from s3_servers import s3_server as s3_server
