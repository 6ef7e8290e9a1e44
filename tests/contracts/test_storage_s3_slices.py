"""A file that goes to S3 in parts is read where it lies."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from s3_servers import S3Server, uploads

from flask_rindle.errors import StorageError
from flask_rindle.storage import s3_slices
from flask_rindle.storage.s3 import S3
from flask_rindle.storage.s3_slices import Slice, slices_of
from flask_rindle.types import MB

TB = 1024**4


@pytest.fixture
def bucket(localstack: S3Server, make_bucket: Callable[[S3Server], str]) -> str:
    return make_bucket(localstack)


@pytest.fixture
def storage(localstack: S3Server, bucket: str) -> Iterator[S3]:
    with closing(S3("media", **localstack.options(bucket))) as storage:
        yield storage


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "film"
    path.write_bytes(os.urandom(17 * MB + 5))
    return path


@pytest.mark.parametrize("start", [0, 3, 10 * MB])
def test_what_a_file_has_from_where_it_stands_arrives(storage: S3, film: Path, start: int) -> None:
    with film.open("rb") as source:
        source.seek(start)
        stored = storage.put("film", source)
        assert source.read() == b"", "as if it had been read"
    data = film.read_bytes()[start:]
    assert (stored.size_bytes, b"".join(storage.read("film"))) == (len(data), data)
    assert storage.stat("film") == stored


def test_parts_of_a_file_are_equal_but_for_the_last(film: Path) -> None:
    """As some servers want it."""
    with film.open("rb") as source:
        assert [part.seek(0, os.SEEK_END) for part in slices_of(source)] == [8 * MB, 8 * MB, MB + 5]


@given(st.integers(0, 5 * TB))
def test_any_file_is_cut_into_few_enough_parts(size: int) -> None:
    sizes = [part.seek(0, os.SEEK_END) for part in s3_slices._cut(0, 0, size)]
    assert sum(sizes) == size
    assert len(sizes) <= 10_000
    assert len(set(sizes[:-1])) <= 1


def test_other_sources_have_a_say_in_what_is_read(film: Path) -> None:
    class Wrapper(io.BytesIO):
        def fileno(self) -> int:
            return 0

    assert slices_of(Wrapper(b"x")) == []
    read, write = os.pipe()
    os.close(write)
    with os.fdopen(read, "rb", buffering=0) as pipe:
        pipe_like = io.BytesIO(pipe.read())
    assert slices_of(pipe_like) == []


def test_a_file_that_shrinks_meanwhile_leaves_nothing(
    storage: S3, film: Path, bucket: str, localstack: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = S3.put_part

    def cut_short(descriptor: int, start: int, size: int) -> Slice:
        os.truncate(film, 9 * MB)
        return Slice(descriptor, start, size)

    monkeypatch.setattr(s3_slices, "Slice", cut_short)
    with film.open("rb") as source, pytest.raises((StorageError, OSError)):
        storage.put("film", source)
    assert uploads(localstack.client, bucket) == []
    assert "Contents" not in localstack.client.list_objects_v2(Bucket=bucket)
    assert S3.put_part is real


class TestSlice:
    @given(st.lists(st.tuples(st.integers(0, 40), st.integers(-1, 40))))
    def test_reads_as_a_file_of_its_own(self, steps: list[tuple[int, int]]) -> None:
        data = bytes(range(100))
        descriptor = os.memfd_create("film")
        try:
            os.write(descriptor, data)
            part, model = Slice(descriptor, 30, 25), io.BytesIO(data[30:55])
            for place, size in steps:
                assert (part.seek(place), part.read(size), part.tell()) == (
                    model.seek(place),
                    model.read(size),
                    model.tell(),
                )
        finally:
            os.close(descriptor)
