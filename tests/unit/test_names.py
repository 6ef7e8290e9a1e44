"""Keys are made here; a client's file name is text to show, and never more."""

from __future__ import annotations

import unicodedata
import uuid

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from werkzeug.http import parse_options_header

from flask_rindle.security.names import (
    MAX_FILENAME_BYTES,
    clean_filename,
    content_disposition,
    file_extension,
    incoming_key,
    original_key,
    variant_key,
)
from flask_rindle.storage.base import check_key

ID = uuid.UUID(int=7)


def test_keys_are_what_the_readme_of_a_bucket_would_say() -> None:
    assert original_key("avatar", ID, ".jpg") == f"avatar/{ID}/original.jpg"
    assert variant_key("avatar", ID, "thumb", "abc", ".webp") == f"avatar/{ID}/thumb-abc.webp"


def test_a_staging_key_cannot_be_guessed() -> None:
    keys = {incoming_key(ID) for _ in range(50)}
    assert len(keys) == 50
    assert all(key.startswith(f"incoming/{ID}/") and len(key.rsplit("/", 1)[1]) == 32 for key in keys)


def test_every_key_is_one_that_storages_take() -> None:
    longest = "p" * 63
    for key in (
        incoming_key(ID),
        original_key(longest, ID, ".jpeg"),
        variant_key(longest, ID, longest, "f" * 64, ".webp"),
    ):
        assert check_key("s", key) == key


@pytest.mark.parametrize(
    ("given_name", "clean"),
    [
        ("photo.JPG", "photo.JPG"),
        ("../weird/\x07photo name?.JPG", "photo name?.JPG"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("/etc/passwd", "passwd"),
        ("\x00//", "upload"),
        ("", "upload"),
        (None, "upload"),
        ("..", "upload"),
        (".htaccess", "htaccess"),
        (" . . a", "a"),
        ("a. .", "a"),
        ("con", "upload"),
        ("CON.txt", "upload.txt"),
        ("aux .txt", "upload.txt"),
        ("lpt9.tar.gz", "upload.gz"),
        ("console.txt", "console.txt"),
        ("Ünïcödé 写真.png", "Ünïcödé 写真.png"),
        ("u\u0308.png", "ü.png"),
        ("u\u200d\u0308.png", "ü.png"),
        ("invoice\u202efdp.exe", "invoicefdp.exe"),
        ("a\r\nSet-Cookie: x.png", "aSet-Cookie: x.png"),
    ],
)
def test_a_file_name_is_cleaned(given_name: str | None, clean: str) -> None:
    assert clean_filename(given_name) == clean


def test_a_long_name_keeps_its_extension() -> None:
    assert clean_filename("x" * 300 + ".JPG") == "x" * 251 + ".JPG"
    assert clean_filename("é" * 300 + ".jpg") == "é" * 125 + ".jpg"
    assert clean_filename("x" * 254 + " yz") == "x" * 254


@given(st.text(min_size=1) | st.text(alphabet="./\\ aé\u200d\u0308\n", min_size=1))
@example("a" * 254 + ". b")
@example("." * 300 + "b")
def test_a_clean_name_is_safe_and_stays_as_it_is(name: str) -> None:
    clean = clean_filename(name)
    assert clean
    assert not set(clean) & {"/", "\\"}
    assert not any(unicodedata.category(char).startswith("C") for char in clean)
    assert len(clean.encode()) <= MAX_FILENAME_BYTES
    assert clean == clean.strip()
    assert not clean.startswith(".")
    assert not clean.endswith(".")
    assert clean_filename(clean) == clean
    assert unicodedata.is_normalized("NFC", clean)


@pytest.mark.parametrize(
    ("name", "extension"),
    [
        ("a.JPG", ".jpg"),
        ("a.tar.gz", ".gz"),
        ("a", ""),
        (".png", ""),
        ("a.", ""),
        ("a.j pg", ""),
        ("a.jp-g", ""),
        ("a.ｊpg", ""),
        ("a." + "x" * 15, "." + "x" * 15),
        ("a." + "x" * 16, ""),
    ],
)
def test_an_extension_is_short_ascii_and_lower_case(name: str, extension: str) -> None:
    assert file_extension(name) == extension


@given(st.text())
def test_a_disposition_is_one_line_of_ascii_that_gives_the_name_back(name: str) -> None:
    header = content_disposition("attachment", name)
    assert header.isascii()
    assert header.isprintable()
    kind, options = parse_options_header(header)
    assert (kind, options["filename"]) == ("attachment", clean_filename(name))


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("photo.png", "photo.png"),
        ("写真.png", ".png"),
        ("写真", "upload"),
        ('a"b\\c%d.png', "c_d.png"),
        ("a／b＂c.png", "a_b_c.png"),
        ("é.png", "e.png"),
    ],
)
def test_old_readers_get_a_plain_name_without_traps(name: str, plain: str) -> None:
    assert f'filename="{plain}"; ' in content_disposition("inline", name)
