"""Which texts are origins, as browsers write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_rindle.security.origins import check_origin, is_origin

YES = [
    "https://example.org",
    "http://127.0.0.1:5000",
    "https://a.b-c.test:8443",
    "http://[::1]:80"[:-3],
    "http://localhost",
]
NO = [
    "",
    "null",
    "example.org",
    "ftp://example.org",
    "https://",
    "https://example.org/",
    "https://example.org:443",
    "http://example.org:80",
    "https://example.org:0",
    "https://example.org:99999",
    "https://example.org:abc",
    "HTTPS://EXAMPLE.ORG",
    "https://bücher.test",
    "https://a,b",
    "https://a b",
    "https://a\\b",
    "https://user@example.org",
    "https://*.example.org",
    "https://[::1",
    "https://a\r\nX: 1",
    "https://a\n",
]


@pytest.mark.parametrize("text", YES)
def test_what_a_browser_writes(text: str) -> None:
    assert is_origin(text)
    assert check_origin(text) == text


@pytest.mark.parametrize("text", [*NO, None, 7, b"https://a", ["https://a"]])
def test_what_no_browser_writes(text: object) -> None:
    assert not is_origin(text)
    with pytest.raises(ValueError, match="write one such as"):
        check_origin(text)


@given(st.text() | st.text(alphabet="htps:/.[]0123456789abcdef"))
def test_nothing_is_a_crash(text: str) -> None:
    assert is_origin(text) in (True, False)
