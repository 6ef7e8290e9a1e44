"""Errors carry facts; the sentence for people is built from them once."""

from __future__ import annotations

import pytest

from flask_rindle import errors
from flask_rindle.errors import INTERNAL_MESSAGE, format_bytes


def test_a_configuration_error_lists_every_problem() -> None:
    error = errors.ConfigurationError(iter(["first; write a", "second; write b"]))
    assert error.problems == ("first; write a", "second; write b")
    assert all(problem in str(error) for problem in error.problems)


def test_a_wrong_profile_is_named_in_each_of_its_problems() -> None:
    error = errors.InvalidProfile("Avatar", ["a", "b"])
    assert (error.profile, error.problems) == ("Avatar", ("Avatar: a", "Avatar: b"))


def test_a_missing_extra_is_an_import_error_that_says_what_to_install() -> None:
    error = errors.MissingExtra("flask rindle migration", "migrate")
    assert isinstance(error, ImportError)
    assert "pip install 'flask-rindle[migrate]'" in str(error)


def test_an_unknown_name_lists_the_known_ones_in_order() -> None:
    error = errors.UnknownName("profile", "avatr", ["b", "a"])
    assert (error.kind, error.name, error.known) == ("profile", "avatr", ("a", "b"))
    assert "none" in str(errors.UnknownName("profile", "x", []))


def test_what_a_sender_can_mend_is_told_to_the_sender() -> None:
    refused = [
        errors.MalformedRequest("byte_size", "must be a whole number"),
        errors.TicketInvalid(),
        errors.TicketExpired(),
        errors.TicketUsed(1),
        errors.SessionClosed("aborted"),
        errors.UploadIncomplete(),
        errors.TooLarge(8, 9),
        errors.EmptyUpload(),
        errors.SizeMismatch(3, 2),
        errors.TypeRefused("text/html", ["image/png"]),
        errors.ExtensionRefused("", [".png"]),
        errors.ExtensionMismatch(".png", "image/gif"),
        errors.ChecksumMismatch("sha256"),
        errors.ContentChanged(),
        errors.TooManyPixels(1_000_000, 2000, 1000),
        errors.MediaDamaged("image/png"),
    ]
    assert all(isinstance(error, errors.RejectedUpload) and not error.retryable for error in refused)
    assert [error.public_message for error in refused] == [str(error) for error in refused]


@pytest.mark.parametrize(
    ("error", "facts"),
    [
        (errors.TooLarge(8, 9), {"limit_bytes": 8, "size_bytes": 9}),
        (errors.SizeMismatch(3, 2), {"declared_bytes": 3, "stored_bytes": 2}),
        (errors.TicketUsed(2), {"max_files": 2}),
        (errors.SessionClosed("failed"), {"state": "failed"}),
        (errors.TypeRefused("a/b", {"d/e", "c/d"}), {"content_type": "a/b", "allowed": ["c/d", "d/e"]}),
        (errors.ExtensionRefused(".x", {".b", ".a"}), {"extension": ".x", "allowed": [".a", ".b"]}),
        (errors.TooManyPixels(5, 3, 2), {"limit_pixels": 5, "width": 3, "height": 2}),
        (errors.UploadUnsupported("storage 's'", "presigned_put"), {"capability": "presigned_put"}),
        (errors.StorageDenied("s", "k"), {}),
    ],
)
def test_facts_are_ready_for_json(error: errors.RindleError, facts: dict[str, object]) -> None:
    assert error.facts == facts


def test_trouble_is_worth_another_attempt_and_facts_are_not() -> None:
    passing = [
        errors.StorageDenied("s", "k"),
        errors.StorageFull("s", "k"),
        errors.StorageUnavailable("s", "k"),
        errors.SandboxFailed("killed"),
        errors.DatabaseBusy(),
        errors.LostRace("asset", 1),
    ]
    lasting = [
        errors.ObjectNotFound("s", "k"),
        errors.ObjectChanged("s", "k"),
        errors.InvalidKey("s", "k"),
        errors.MediaUnsupported("a/b"),
        errors.OutputWrong("size"),
        errors.TransitionRefused("asset", 1, "a", "b"),
        errors.OpenTransaction(),
        errors.Cancelled(),
    ]
    assert [error.retryable for error in passing] == [True] * len(passing)
    assert [error.retryable for error in lasting] == [False] * len(lasting)


def test_what_is_not_the_senders_business_is_not_told() -> None:
    assert errors.StorageDenied("s", "secret/key").public_message == INTERNAL_MESSAGE
    assert "secret" not in errors.StorageUnavailable("s", "secret/key").public_message
    assert "clamav" not in errors.ScanRefused("clamav", "Eicar").public_message


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1 KB"),
        (1536, "1.5 KB"),
        (3_481_022, "3.3 MB"),
        (8 * 1024**2, "8 MB"),
        (2 * 1024**3, "2 GB"),
        (5000 * 1024**4, "5000 TB"),
    ],
)
def test_byte_counts_for_people(count: int, text: str) -> None:
    assert format_bytes(count) == text
