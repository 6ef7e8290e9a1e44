"""The promises of each port as tests, for authors of adapters."""

from flask_rindle.testing.contracts.storage import StorageContract, lint_storage

__all__ = ["StorageContract", "lint_storage"]
