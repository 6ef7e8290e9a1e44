"""The gate: what is announced, what arrived, and what the bytes are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flask_rindle import Profile, errors
from flask_rindle.policy import check_content, check_declared, check_stored
from flask_rindle.processing.base import Clean, Infected, MediaFacts
from flask_rindle.types import Checksum


class Scanner:
    name = "clamav"

    def __init__(self) -> None:
        self.verdict: Clean | Infected = Clean()
        self.seen: list[Path] = []

    def scan(self, source: Path) -> Clean | Infected:
        self.seen.append(source)
        return self.verdict


SCANNER = Scanner()


class Strict(Profile):
    allow_mime = {"image/png", "image/jpeg"}  # noqa: RUF012
    allow_extensions = {".png", ".jpg"}  # noqa: RUF012
    max_bytes = 100
    max_pixels = 50
    scanners = (SCANNER,)


class Open(Profile):
    pass


def declared(profile: type[Profile] = Strict, **changes: Any) -> None:
    given = {"filename": "a.png", "content_type": "image/png", "byte_size": 100, **changes}
    check_declared(profile, **given)


class TestDeclared:
    @pytest.mark.parametrize(
        "changes", [{}, {"byte_size": None}, {"byte_size": 1}, {"content_type": "application/octet-stream"}]
    )
    def test_what_fits_passes(self, changes: dict[str, Any]) -> None:
        declared(**changes)

    @pytest.mark.parametrize(
        ("changes", "error"),
        [
            ({"byte_size": 101}, errors.TooLarge),
            ({"byte_size": 0}, errors.EmptyUpload),
            ({"content_type": "image/gif"}, errors.TypeRefused),
            ({"filename": "a.gif"}, errors.ExtensionRefused),
            ({"filename": "a"}, errors.ExtensionRefused),
        ],
    )
    def test_what_does_not_is_refused(self, changes: dict[str, Any], error: type[errors.RejectedUpload]) -> None:
        with pytest.raises(error):
            declared(**changes)

    def test_names_are_compared_without_case(self) -> None:
        declared(filename="A.PNG")

    def test_an_open_profile_takes_everything_but_nothing(self) -> None:
        declared(Open, filename="x", content_type="a/b", byte_size=10**15)
        with pytest.raises(errors.EmptyUpload):
            declared(Open, byte_size=0)

    def test_a_refusal_says_what_would_pass(self) -> None:
        with pytest.raises(errors.TypeRefused) as caught:
            declared(content_type="image/gif")
        assert caught.value.facts == {"content_type": "image/gif", "allowed": ["image/jpeg", "image/png"]}


class TestStored:
    def test_what_is_as_long_as_announced_passes(self) -> None:
        check_stored(Strict, declared_bytes=100, stored_bytes=100)
        check_stored(Strict, declared_bytes=None, stored_bytes=1)

    @pytest.mark.parametrize(
        ("announced", "stored", "error"),
        [
            (None, 101, errors.TooLarge),
            (5, 101, errors.TooLarge),
            (None, 0, errors.EmptyUpload),
            (5, 4, errors.SizeMismatch),
            (5, 6, errors.SizeMismatch),
        ],
    )
    def test_what_is_not_is_refused(
        self, announced: int | None, stored: int, error: type[errors.RejectedUpload]
    ) -> None:
        with pytest.raises(error):
            check_stored(Strict, declared_bytes=announced, stored_bytes=stored)


Check = Callable[..., None]


@pytest.fixture
def content(tmp_path: Path) -> Check:
    path = tmp_path / "source"
    path.write_bytes(b"the bytes")
    SCANNER.verdict = Clean()
    SCANNER.seen.clear()

    def check(profile: type[Profile] = Strict, **changes: Any) -> None:
        size = {"width": changes.pop("width", 10), "height": changes.pop("height", 5)}
        facts = MediaFacts(kind="image", content_type=changes.pop("found", "image/png"), **size)
        given = {"path": path, "filename": "a.png", "facts": facts, "checksum": None, **changes}
        check_content(profile, **given)

    return check


SHA = hashlib.sha256(b"the bytes").hexdigest()


class TestContent:
    def test_what_is_as_it_should_be_passes(self, content: Check) -> None:
        content()
        content(checksum=Checksum("sha256", SHA))
        content(width=None, height=None)
        content(Open, found="text/html", filename="a.html", width=10**6, height=10**6)

    @pytest.mark.parametrize(
        ("changes", "error"),
        [
            ({"found": "text/html"}, errors.TypeRefused),
            ({"found": "application/octet-stream"}, errors.TypeRefused),
            ({"filename": "a.gif"}, errors.ExtensionRefused),
            ({"found": "image/jpeg"}, errors.ExtensionMismatch),
            ({"width": 17, "height": 3}, errors.TooManyPixels),
            ({"checksum": Checksum("sha256", "0" * 64)}, errors.ChecksumMismatch),
        ],
    )
    def test_what_is_not_is_refused(
        self, content: Check, changes: dict[str, Any], error: type[errors.RejectedUpload]
    ) -> None:
        with pytest.raises(error):
            content(**changes)

    def test_a_name_may_not_claim_another_type_in_any_profile(self, content: Check) -> None:
        with pytest.raises(errors.ExtensionMismatch):
            content(Open, filename="picture.png", found="text/html")

    def test_what_a_scanner_refuses_is_refused_with_its_reason_for_operators(self, content: Check) -> None:
        SCANNER.verdict = Infected("Eicar-Test-Signature")
        with pytest.raises(errors.ScanRefused) as caught:
            content()
        assert (caught.value.scanner, caught.value.reason) == ("clamav", "Eicar-Test-Signature")

    def test_scanners_see_the_bytes_of_what_passed_so_far(self, content: Check) -> None:
        content()
        assert [path.read_bytes() for path in SCANNER.seen] == [b"the bytes"]
        with pytest.raises(errors.TypeRefused):
            content(found="text/html")
        assert len(SCANNER.seen) == 1
