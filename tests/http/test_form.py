"""The form route: the whole upload without script, and what its visitor reads when it fails."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select
from werkzeug.test import TestResponse

from flask_rindle.models import Asset, UploadSession


@pytest.fixture
def submit(client: FlaskClient) -> Callable[..., TestResponse]:
    def post(
        ticket: str, data: bytes | None, *, name: str = "beach.jpg", accept: str = "text/html", **fields: Any
    ) -> Any:
        body: dict[str, Any] = {"ticket": ticket, **fields}
        if data is not None:
            body["file"] = (io.BytesIO(data), name, "image/jpeg")
        kind = "multipart/form-data"  # also without a file, as browsers do
        answer = client.post("/rindle/uploads/form", data=body, content_type=kind, headers={"Accept": accept})
        answer.request.input_stream.close()  # the test client's own copy of a large body
        return answer

    return post


def count(app: Flask, model: type[Any]) -> int:
    with app.app_context():
        return app.extensions["host"].db.session.scalar(select(func.count()).select_from(model))


def test_a_form_uploads_and_goes_on(
    app: Flask, user: Any, ticket: Callable[..., str], submit: Callable[..., Any], photo: Callable[..., bytes]
) -> None:
    answer = submit(ticket(owner=user, slot="avatar"), photo(), next="/members/1?x=y")
    assert answer.status_code == 303
    assert answer.headers["Location"].startswith("/members/1?x=y&rindle=")
    with app.app_context():
        host = app.extensions["host"]
        assert host.db.session.get(host.User, user.id).avatar.asset.state == "ready"


def test_a_form_can_answer_json(
    client: FlaskClient, ticket: Callable[..., str], submit: Callable[..., Any], photo: Callable[..., bytes]
) -> None:
    answer = submit(ticket(), photo(), accept="application/json")
    assert (answer.status_code, answer.json["state"]) == (201, "completed")
    assert client.get(answer.json["state_url"]).json["settled"] is True


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example/", "/\\evil.example", "javascript:alert(1)", "", "/a\r\nX: y"]
)
def test_a_form_never_leads_to_another_site(
    ticket: Callable[..., str], submit: Callable[..., Any], photo: Callable[..., bytes], target: str
) -> None:
    assert re.fullmatch(r"/\?rindle=[\w.-]+", submit(ticket(), photo(), next=target).headers["Location"])


def test_sending_the_same_form_twice_gives_one_asset(
    app: Flask, ticket: Callable[..., str], submit: Callable[..., Any], photo: Callable[..., bytes]
) -> None:
    one = ticket()
    answers = [submit(one, photo(), next="/done") for _ in range(2)]
    assert [(a.status_code, a.headers["Location"].partition("?")[0]) for a in answers] == [(303, "/done")] * 2
    assert count(app, Asset) == count(app, UploadSession) == 1


def test_another_file_with_a_used_form_is_refused_in_words(
    app: Flask, ticket: Callable[..., str], submit: Callable[..., Any], photo: Callable[..., bytes]
) -> None:
    one = ticket()
    submit(one, photo())
    answer = submit(one, photo(20, 20), next="/members/1")
    assert answer.status_code == 409
    assert "has been used already" in answer.text
    assert 'href="/members/1"' in answer.text
    assert count(app, Asset) == 1


@pytest.mark.parametrize(
    ("data", "status", "sentence"),
    [
        (None, 422, "The file is empty"),
        (b"", 422, "The file is empty"),
        (b"x" * (8 * 1024 * 1024 + 1), 413, "at most 8 MB"),
    ],
    ids=["no file", "empty", "over the limit"],
)
def test_refused_files_leave_nothing(
    app: Flask,
    ticket: Callable[..., str],
    submit: Callable[..., Any],
    data: bytes | None,
    status: int,
    sentence: str,
) -> None:
    answer = submit(ticket(), data)
    assert answer.status_code == status
    assert sentence in answer.text
    assert count(app, Asset) == count(app, UploadSession) == 0


def test_a_wrong_ticket_is_a_page_with_a_sentence(submit: Callable[..., Any], photo: Callable[..., bytes]) -> None:
    answer = submit("nonsense", photo(), next="/x")
    assert answer.status_code == 403
    assert "Reload the page" in answer.text
    assert answer.headers["Cache-Control"] == "no-store"


def test_a_refused_picture_frees_the_form_for_another(
    app: Flask, client: FlaskClient, ticket: Callable[..., str], submit: Callable[..., Any], photo: Callable[..., bytes]
) -> None:
    one = ticket()
    refused = submit(one, b"this is no picture", accept="application/json").json
    state = client.get(refused["state_url"]).json
    assert (state["state"], state["error"]["code"]) == ("quarantined", "type_refused")
    assert submit(one, photo(), accept="application/json").status_code == 201


def test_a_session_of_another_ticket_is_not_to_be_found(
    ticket: Callable[..., str], announce: Callable[..., Any], submit: Callable[..., Any], photo: Callable[..., bytes]
) -> None:
    theirs = announce(ticket(), photo()).json["id"]
    answer = submit(ticket(), photo(), accept="application/json", session=theirs)
    assert (answer.status_code, answer.json["code"]) == (404, "not_found")
    nonsense = submit(ticket(), photo(), accept="application/json", session="x")
    assert (nonsense.status_code, nonsense.json["code"]) == (400, "malformed_request")


def test_a_form_takes_several_files_when_its_ticket_does(
    app: Flask, client: FlaskClient, user: Any, ticket: Callable[..., str], photo: Callable[..., bytes]
) -> None:
    several = ticket(owner=user, slot="avatar", max_files=3)
    files = [(io.BytesIO(photo(20 + n, 20)), f"{n}.jpg", "image/jpeg") for n in range(3)]
    answer = client.post("/rindle/uploads/form", data={"ticket": several, "next": "/done", "file": files})
    assert (answer.status_code, answer.headers["Location"].partition("?")[0]) == (303, "/done")
    with app.app_context():
        host = app.extensions["host"]
        shown = host.db.session.get(host.User, user.id).avatar.assets
    assert [asset.filename for asset in shown] == ["0.jpg", "1.jpg", "2.jpg"]


class Counted(io.RawIOBase):
    """An endless-looking body that knows how much of it was read."""

    def __init__(self, head: bytes, size: int) -> None:
        self.head = io.BytesIO(head)
        self.left = size
        self.read_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:
        chunk = self.head.read(len(buffer)) or b"x" * min(len(buffer), self.left)
        buffer[: len(chunk)] = chunk
        self.left -= len(chunk)
        self.read_bytes += len(chunk)
        return len(chunk)


@pytest.mark.parametrize(
    ("forged", "status", "at_most"), [(True, 403, 1024 * 1024), (False, 413, 10 * 1024 * 1024)], ids=["ticket", "size"]
)
def test_a_file_that_will_not_be_taken_is_not_read(
    client: FlaskClient, ticket: Callable[..., str], forged: bool, status: int, at_most: int
) -> None:
    """The ticket stands before the file, so a forged one costs its sender the bandwidth and us nothing."""
    size = 200 * 1024 * 1024
    fields = f'--b\r\nContent-Disposition: form-data; name="ticket"\r\n\r\n{"x" if forged else ticket()}\r\n'
    file = '--b\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
    body = Counted((fields + file).encode(), size)
    answer = client.post(
        "/rindle/uploads/form",
        environ_overrides={
            "wsgi.input": body,
            "CONTENT_LENGTH": str(size),
            "CONTENT_TYPE": "multipart/form-data; boundary=b",
        },
    )
    assert answer.status_code == status
    assert body.read_bytes < at_most


def test_a_file_before_its_ticket_is_refused(client: FlaskClient, ticket: Callable[..., str]) -> None:
    raw = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\nx\r\n'
        b'--b\r\nContent-Disposition: form-data; name="ticket"\r\n\r\n' + ticket().encode() + b"\r\n--b--\r\n"
    )
    answer = client.post("/rindle/uploads/form", data=raw, content_type="multipart/form-data; boundary=b")
    assert answer.status_code == 403


@pytest.mark.parametrize(
    ("content_type", "data"),
    [
        ("application/x-www-form-urlencoded", b"ticket=x"),
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=b", b""),
        ("multipart/form-data; boundary=b", b"nonsense"),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="ticket"\r\n\r\nx'),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="next"\r\n\r\n' + b"x" * 100_000 + b"\r\n--b--\r\n",
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' * 200 + b"--b--\r\n",
        ),
    ],
    ids=["urlencoded", "no boundary", "empty", "nonsense", "cut", "long field", "many fields"],
)
def test_what_is_no_form_of_ours_is_refused_in_words(client: FlaskClient, content_type: str, data: bytes) -> None:
    headers = {"Accept": "application/json"}
    answer = client.post("/rindle/uploads/form", data=data, content_type=content_type, headers=headers)
    assert answer.status_code in (400, 403)
    assert answer.json["code"] in ("malformed_request", "ticket_invalid")


@pytest.mark.parametrize("size", [65_000, 65_536, 65_537, 131_072, 600_000, 3_000_000])
def test_files_of_every_size_arrive_whole(
    app: Flask, ticket: Callable[..., str], submit: Callable[..., Any], photo: Callable[..., bytes], size: int
) -> None:
    """Chunks, boundaries and the step from memory to disk fall at different places."""
    data = photo(40, 40)
    data += b"\r\n--" * ((size - len(data)) // 4) + b"-" * ((size - len(data)) % 4)
    assert submit(ticket(), data, accept="application/json").status_code == 201
    engine = app.extensions["rindle"]
    with engine.database.reading() as db_session:
        (asset,) = db_session.scalars(select(Asset))
    assert b"".join(engine.storages["default"].read(asset.storage_key)) == data
