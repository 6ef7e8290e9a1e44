"""The checker finds what it is there for: each damage to a sound world is noticed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import worlds
from checker import dump, find_faults
from nursery import Nursery
from sqlalchemy import create_engine, text
from world import World

READY = "(SELECT max(id) FROM rindle_assets WHERE state = 'ready')"
DAMAGES = {
    "has a row and no bytes": "rm picture/*/original.jpg",
    "and its row says": "rewrite picture/*/small-*.jpg",
    "bytes and no row": "add .tmp/stray",
    "is processing": f"UPDATE rindle_assets SET state = 'processing' WHERE id = {READY}",
    "its last event says": f"UPDATE rindle_assets SET state = 'degraded' WHERE id = {READY}",
    "variants lack": f"DELETE FROM rindle_variants WHERE asset_id = {READY} AND name = 'small'",
    "is still": "UPDATE rindle_upload_sessions SET state = 'signed' WHERE filename = 'Ada, first.jpg'",
    "is queued after": "UPDATE rindle_jobs SET state = 'queued' WHERE id = (SELECT max(id) FROM rindle_jobs)",
    "is failed after": "UPDATE rindle_jobs SET state = 'failed' WHERE id = (SELECT max(id) FROM rindle_jobs)",
    "attempts ended": "UPDATE rindle_processing_runs SET outcome = 'lost' WHERE kind = 'purge'",
    "is succeeded and succeeded": "UPDATE rindle_processing_runs SET job_id = (SELECT max(id) FROM rindle_jobs)",
    "went from promoting to available 2 times": (
        "INSERT INTO rindle_events (kind, subject_id, asset_id, from_state, to_state, created_at) "
        "SELECT kind, subject_id, asset_id, from_state, to_state, created_at FROM rindle_events "
        "WHERE to_state = 'available'"
    ),
    "when it was": "DELETE FROM rindle_events WHERE to_state = 'analyzing'",
    "does not show": "DELETE FROM rindle_attachments",
    "the host's rows say": "UPDATE users SET mood = 'new'",
    "assets were refused": "DELETE FROM rindle_assets WHERE state = 'quarantined'",
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world in which the story was told to its end."""
    with worlds.on_sqlite(worlds.Folders(tmp_path_factory.mktemp("sound"))) as new_world, new_world() as world:
        assert Nursery().tell(world) == 0, world.read("log")
        yield world


@pytest.fixture
def world(sound: World, tmp_path: Path) -> World:
    """A copy whose files are the very same ones, because an etag names the file."""
    shutil.copytree(sound.media, tmp_path / "media", copy_function=os.link)
    shutil.copy(sound.folder / "app.db", tmp_path / "app.db")
    (tmp_path / "tmp").mkdir()
    return World(tmp_path, f"sqlite:///{tmp_path / 'app.db'}")


def damage(world: World, how: str) -> None:
    verb, _, pattern = how.partition(" ")
    if verb not in DISK:
        engine = create_engine(world.database_url)
        with engine.begin() as connection:
            connection.execute(text(how))
        engine.dispose()
    elif verb == "add":
        (world.media / pattern).write_bytes(b"stray")
    else:
        DISK[verb](next(world.media.glob(pattern)))


def rewrite(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)


DISK: dict[str, Callable[[Path], object]] = {"rm": Path.unlink, "rewrite": rewrite, "add": Path.touch}


def test_a_sound_world_has_no_faults(world: World) -> None:
    assert find_faults(world) == []


@pytest.mark.parametrize("words", DAMAGES)
def test_every_damage_is_noticed(world: World, words: str) -> None:
    before = dump(world)
    damage(world, DAMAGES[words])
    assert any(words in fault for fault in find_faults(world))
    assert dump(world) != before


def test_temporary_files_and_errors_in_the_log_are_noticed(world: World) -> None:
    (world.temp / "forgotten").touch()
    world.note("log", "ERROR flask_rindle.pipeline: a job failed for good")
    assert [fault.split()[0] for fault in find_faults(world)] == ["temporary", "the"]
