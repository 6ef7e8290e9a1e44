"""The promises of a storage that moves verified objects to their final keys."""

from __future__ import annotations

import io
from functools import partial

from flask_rindle.errors import ObjectChanged, ObjectNotFound, StorageError
from flask_rindle.storage.base import Promotes, require
from flask_rindle.testing.contracts.checks import expect, expect_error
from flask_rindle.testing.contracts.trial import TEXT, Trial, promise


@promise(Promotes)
def promoting_moves_the_object(trial: Trial) -> None:
    """The same bytes and type under the new key, and nothing under the old."""
    source, target = trial.key("incoming"), trial.key("final/deep")
    before = trial.storage.put(source, io.BytesIO(TEXT), content_type="image/webp")
    after = require(trial.storage, Promotes).promote(source, target, etag=before.etag)
    expect(after == trial.storage.stat(target), "promote and stat differ on the target")
    expect((after.key, after.content_type) == (target, before.content_type), "promote lost the key or the type")
    expect(trial.bytes_at(target) == TEXT, "promote changed the bytes")
    expect_error(ObjectNotFound, lambda: trial.storage.stat(source), "stat of the source after promote")


@promise(Promotes)
def promoting_tells_what_the_bytes_turned_out_to_be(trial: Trial) -> None:
    """The type that promote was given, in its answer and afterwards, or None where the storage keeps none."""
    for name, public in (("private", False), ("public", True)):
        source, target = trial.key(f"incoming/{name}"), trial.key(f"final/{name}")
        before = trial.storage.put(source, io.BytesIO(TEXT), content_type="text/html")
        promote = partial(require(trial.storage, Promotes).promote, source, target, etag=before.etag, public=public)
        after = promote(content_type="image/webp")
        expected = before.content_type and "image/webp"
        expect(after.content_type == expected, "promote answered another type than it was given")
        expect(trial.storage.stat(target) == after, "promote and stat differ on the target")
        expect(promote(content_type="image/webp") == after, "a repeated promote gave another answer")


@promise(Promotes)
def promoting_twice_gives_the_same_answer(trial: Trial) -> None:
    """A caller who lost the reply asks again."""
    source, target = trial.put("incoming", TEXT), trial.key("final")
    promote = require(trial.storage, Promotes).promote
    first = promote(source.key, target, etag=source.etag)
    expect(promote(source.key, target, etag=source.etag) == first, "a repeated promote gave another answer")
    expect(trial.bytes_at(target) == TEXT, "a repeated promote damaged the target")


@promise(Promotes)
def promoting_a_rewritten_object_is_refused(trial: Trial) -> None:
    """Bytes that nobody verified do not come to stand at the target."""
    verified, target = trial.put("incoming", TEXT), trial.key("final")
    trial.put("incoming", b"other text")
    attempt = partial(require(trial.storage, Promotes).promote, verified.key, target, etag=verified.etag)
    for _ in range(2):
        expect_error(StorageError, attempt, "promote of a rewritten object")
        expect_error(ObjectNotFound, lambda: trial.storage.stat(target), "stat of the target of a refused promote")


@promise(Promotes)
def promoting_a_rewritten_object_says_so(trial: Trial) -> None:
    """ObjectChanged is what sends an upload into quarantine."""
    verified, target = trial.put("incoming", TEXT), trial.key("final")
    trial.put("incoming", b"other text")
    attempt = partial(require(trial.storage, Promotes).promote, verified.key, target, etag=verified.etag)
    changed = expect_error(ObjectChanged, attempt, "promote of a rewritten object")
    expect(changed.storage == trial.storage.name, "ObjectChanged names another storage")


@promise(Promotes)
def promoting_nothing_is_not_found(trial: Trial) -> None:
    """No source and no target: somebody has removed it."""
    source, target = trial.key("missing"), trial.key("final")
    attempt = partial(require(trial.storage, Promotes).promote, source, target, etag="any")
    expect_error(ObjectNotFound, attempt, "promote of a missing object")


@promise(Promotes)
def late_write_leaves_the_promoted_object(trial: Trial) -> None:
    """A URL that can still write reaches the source only, also when promote is asked again."""
    source, target = trial.put("incoming", TEXT), trial.key("final")
    promote = require(trial.storage, Promotes).promote
    first = promote(source.key, target, etag=source.etag)
    trial.put("incoming", b"other text")
    expect(trial.bytes_at(target) == TEXT, "a late write to the source changed the promoted object")
    expect(promote(source.key, target, etag=source.etag) == first, "promote after a late write gave another answer")
    expect(trial.bytes_at(target) == TEXT, "promote after a late write replaced the promoted object")
