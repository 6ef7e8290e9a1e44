"""What the answers of an S3 server mean: every error of the SDK leaves as a StorageError."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from flask_rindle.errors import (
    InvalidKey,
    ObjectChanged,
    ObjectNotFound,
    PartsRefused,
    StorageDenied,
    StorageError,
    StorageFull,
    StorageUnavailable,
    UploadGone,
)

Make = Callable[[str, str], StorageError]
Meanings = Mapping[str, Make]

BY_CODE: Meanings = {
    "NoSuchKey": ObjectNotFound,
    "NoSuchUpload": UploadGone,
    "InvalidPart": PartsRefused,
    "InvalidPartOrder": PartsRefused,
    "EntityTooSmall": PartsRefused,
    "PreconditionFailed": ObjectChanged,
    "KeyTooLongError": InvalidKey,
    "NoSuchBucket": lambda storage, key: StorageError(storage, key, "there is no such bucket"),
    "InvalidObjectState": lambda storage, key: StorageError(storage, key, "the object is in an archive"),
    "AuthorizationHeaderMalformed": StorageDenied,
    "ExpiredToken": StorageDenied,
    "InvalidToken": StorageDenied,
    "TokenRefreshRequired": StorageDenied,
    "QuotaExceeded": StorageFull,
    "InsufficientStorage": StorageFull,
    "XMinioStorageFull": StorageFull,
    "SlowDown": StorageUnavailable,
    "RequestTimeout": StorageUnavailable,
    "ConditionalRequestConflict": StorageUnavailable,
    "OperationAborted": StorageUnavailable,
}
BY_STATUS: Mapping[int, Make] = {
    401: StorageDenied,
    403: StorageDenied,
    408: StorageUnavailable,
    412: ObjectChanged,
    429: StorageUnavailable,
    507: StorageFull,
}
# Ceph knows an upload that was aborted by no other name than that of its object.
OF_UPLOADS: Meanings = {"NoSuchKey": UploadGone}

NOT_FOUND = 404
SERVER_ERRORS = 500


@contextmanager
def translate(storage: str, key: str, meanings: Meanings | None = None) -> Iterator[None]:
    """Let an error of the SDK leave as the StorageError that it means; `meanings` come before the usual ones."""
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ClientError as error:
        raise meaning(error, {**BY_CODE, **(meanings or {})})(storage, key) from error
    except (BotoCoreError, HTTPError, OSError) as error:
        raise (StorageDenied if _lacks_credentials(error) else _trouble(error))(storage, key) from error


def meaning(error: Exception, by_code: Meanings) -> Make:
    """What the server's answer means, by its code or else by its status."""
    code, status = code_of(error), status_of(error)
    if code in by_code:
        return by_code[code]
    if status == NOT_FOUND:  # of a HEAD, whose answer has no body to tell a code in
        return by_code["NoSuchKey"]
    if status in BY_STATUS:
        return BY_STATUS[status]
    if status >= SERVER_ERRORS:
        return StorageUnavailable
    word = code if re.fullmatch(r"\w{1,64}", code) else str(status)
    return lambda storage, key: StorageError(storage, key, f"it answered {word}")


def code_of(error: BaseException | None) -> str:
    """The server's own word, such as NoSuchKey; empty when there is none."""
    response = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def status_of(error: BaseException | None) -> int:
    """The HTTP status; 0 when there is none."""
    response = getattr(error, "response", None) or {}
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _lacks_credentials(error: Exception) -> bool:
    from botocore import exceptions as sdk

    return isinstance(
        error,
        (
            sdk.NoCredentialsError,
            sdk.PartialCredentialsError,
            sdk.CredentialRetrievalError,
            sdk.ProfileNotFound,
            sdk.NoAuthTokenError,
            sdk.SSOError,
        ),
    )


def _trouble(error: Exception) -> Make:
    """A request that the SDK would not even send is nobody's outage."""
    from botocore import exceptions as sdk

    if isinstance(error, (sdk.ParamValidationError, sdk.InvalidRegionError, sdk.UnsupportedS3ConfigurationError)):
        return lambda storage, key: StorageError(storage, key, "the SDK refused to ask")
    return StorageUnavailable
