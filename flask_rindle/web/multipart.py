"""Reading a form of fields and then files (RFC 7578), judged before a byte of a file is kept.

Flask's own parser keeps every file first and lets the app look afterwards. Here the fields that
stand before a file decide whether it is taken at all, and how large it may be.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self, cast

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, MultipartDecoder, NeedData

from flask_rindle.errors import MalformedRequest, TooLarge, UploadIncomplete

MAX_FIELD_BYTES = 64 * 1024
MAX_PARTS = 100
_CHUNK_BYTES = 64 * 1024
_MEMORY_BYTES = 512 * 1024

Limit = Callable[[Mapping[str, str]], int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class IncomingFile:
    """A file of the form, kept in a temporary file that ends with the form."""

    filename: str
    content_type: str | None
    size_bytes: int
    sha256: str
    stream: BinaryIO


class IncomingForm:
    """The fields and files of one request. Use it as a context, which removes the temporary files."""

    def __init__(self, tmp_dir: Path | None) -> None:
        self.fields: dict[str, str] = {}
        self.files: list[IncomingFile] = []
        self._tmp_dir = None if tmp_dir is None else str(tmp_dir)
        self._streams = ExitStack()
        self._part: _Part | None = None

    def read(self, stream: BinaryIO, boundary: bytes, limit: Limit) -> None:
        """Read the whole body. `limit(fields)` is asked at each file what it may be large at most, in bytes.

        It may refuse by raising. Raises MalformedRequest, TooLarge, UploadIncomplete.
        """
        # The decoder's own limit is one of its buffer, which must hold a chunk beside what was left of the last.
        decoder = MultipartDecoder(boundary, MAX_FIELD_BYTES + 2 * _CHUNK_BYTES, max_parts=MAX_PARTS)
        try:
            for event in _events(decoder, stream):
                self._take(event, limit)
        except RequestEntityTooLarge as error:
            raise MalformedRequest("body", "has more or larger fields than a form of ours") from error
        except ValueError as error:
            raise MalformedRequest("body", "must be a complete multipart form") from error

    def _take(self, event: Event, limit: Limit) -> None:
        if isinstance(event, Field):
            self._part = _FieldPart(self.fields, event.name)
        elif isinstance(event, File):
            allowed = limit(self.fields)
            kept = tempfile.SpooledTemporaryFile(_MEMORY_BYTES, dir=self._tmp_dir)  # noqa: SIM115 - ends with the form
            self._streams.enter_context(kept)
            self._part = _FilePart(self.files, event, cast("BinaryIO", kept), allowed)
        elif isinstance(event, Data) and self._part is not None:
            self._part.write(event.data)
            if not event.more_data:
                self._part.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._streams.close()


class _Part(Protocol):
    def write(self, data: bytes) -> None: ...

    def finish(self) -> None: ...


class _FieldPart:
    """A text field; of several with one name the first counts."""

    def __init__(self, fields: dict[str, str], name: str) -> None:
        self._fields = fields
        self._name = name
        self._data = bytearray()

    def write(self, data: bytes) -> None:
        self._data += data
        if len(self._data) > MAX_FIELD_BYTES:
            raise RequestEntityTooLarge

    def finish(self) -> None:
        self._fields.setdefault(self._name, self._data.decode(errors="replace"))


class _FilePart:
    """A file; one without a name is a chooser that was left empty."""

    def __init__(self, files: list[IncomingFile], event: File, kept: BinaryIO, limit_bytes: int | None) -> None:
        self._files = files
        self._event = event
        self._kept = kept
        self._limit_bytes = limit_bytes
        self._size_bytes = 0
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._size_bytes += len(data)
        if self._limit_bytes is not None and self._size_bytes > self._limit_bytes:
            raise TooLarge(self._limit_bytes)
        self._digest.update(data)
        self._kept.write(data)

    def finish(self) -> None:
        self._kept.seek(0)
        if self._event.filename:
            found = IncomingFile(
                filename=self._event.filename,
                content_type=self._event.headers.get("Content-Type"),
                size_bytes=self._size_bytes,
                sha256=self._digest.hexdigest(),
                stream=self._kept,
            )
            self._files.append(found)


def _events(decoder: MultipartDecoder, stream: BinaryIO) -> Iterator[Event]:
    more = True
    while more:
        chunk = _receive(stream)
        more = bool(chunk)
        decoder.receive_data(chunk or None)
        event = decoder.next_event()
        while not isinstance(event, (NeedData, Epilogue)):
            yield event
            event = decoder.next_event()


def _receive(stream: BinaryIO) -> bytes:
    try:
        return stream.read(_CHUNK_BYTES)
    except RequestEntityTooLarge:
        raise
    except Exception as error:
        # Every server has errors of its own for a body that breaks off or makes no sense.
        raise UploadIncomplete from error
