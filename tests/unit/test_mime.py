"""Media types: one spelling for each, and nothing that a browser executes is shown inline."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_rindle.security.mime import (
    EXTENSIONS,
    INLINE_TYPES,
    OCTET_STREAM,
    canonical_type,
    extension_fits,
    extension_for,
    kind_of,
    may_show_inline,
)


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("image/png", "image/png"),
        (" Image/JPG ; charset=utf-8", "image/jpeg"),
        ("image/pjpeg", "image/jpeg"),
        ("image/apng", "image/png"),
        ("audio/x-wav", "audio/wav"),
        ("image/svg", "image/svg+xml"),
        ("application/vnd.oasis.opendocument.text", "application/vnd.oasis.opendocument.text"),
        (None, OCTET_STREAM),
        ("", OCTET_STREAM),
        ("image", OCTET_STREAM),
        ("image/", OCTET_STREAM),
        ("image/*", OCTET_STREAM),
        ("image/png/x", OCTET_STREAM),
        ("image/p\nng", OCTET_STREAM),
        ("a/" + "x" * 200, OCTET_STREAM),
    ],
)
def test_a_type_has_one_spelling(written: str | None, canonical: str) -> None:
    assert canonical_type(written) == canonical


@given(st.text() | st.from_regex(r"[a-z]{1,9}/[a-z.+-]{1,9}(;.*)?"))
def test_the_spelling_of_a_spelling_is_itself_and_fits_the_column(text: str) -> None:
    canonical = canonical_type(text)
    assert canonical_type(canonical) == canonical
    assert canonical.isascii()
    assert canonical.isprintable()
    assert len(canonical) <= 255


@pytest.mark.parametrize(
    ("content_type", "kind"),
    [
        ("image/png", "image"),
        ("video/mp4", "video"),
        ("audio/ogg", "audio"),
        ("text/plain", "other"),
        ("imagex/a", "other"),
    ],
)
def test_the_family_makes_the_kind(content_type: str, kind: str) -> None:
    assert kind_of(content_type) == kind


def test_what_we_write_fits_what_we_take() -> None:
    for content_type in EXTENSIONS:
        assert canonical_type(content_type) == content_type, "the table uses the one spelling"
        assert extension_fits(extension_for(content_type), content_type)
    assert extension_for("image/jpeg") == ".jpg"
    assert extension_for("x-nobody/knows") == ""


@pytest.mark.parametrize(
    ("extension", "content_type", "fits"),
    [
        (".jpeg", "image/jpeg", True),
        (".png", "image/jpeg", False),
        (".html", "image/jpeg", False),
        (".jpg", "text/html", False),
        (".html", "text/html", True),
        ("", "image/jpeg", True),
        (".png", OCTET_STREAM, True),
        (".zzz", "x-nobody/knows", True),
        (".m4v", "video/mp4", True),
        (".mp4", "audio/mp4", True),
        (".svg", "image/png", False),
    ],
)
def test_a_name_may_not_claim_another_type(extension: str, content_type: str, fits: bool) -> None:
    assert extension_fits(extension, content_type) is fits


@pytest.mark.parametrize(
    "content_type",
    [
        "text/html",
        "text/plain",
        "image/svg+xml",
        "application/pdf",
        "application/xhtml+xml",
        "text/xml",
        "application/javascript",
        "text/css",
        OCTET_STREAM,
        "",
    ],
)
def test_what_a_browser_could_execute_is_not_shown_inline(content_type: str) -> None:
    assert not may_show_inline(content_type)


def test_pictures_and_media_are_shown_inline() -> None:
    assert may_show_inline("image/webp")
    assert {kind_of(content_type) for content_type in INLINE_TYPES} == {"image", "video", "audio"}
    assert not any("xml" in content_type for content_type in INLINE_TYPES)
