"""Files that go past the app: a real Chromium, an app, and a storage on another origin."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from flask import Flask, Response, render_template_string
from gcs import FakeGcs
from gcs_faults import RESET, cut, status
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Request, Route, expect
from playwright.sync_api import Response as Answer
from s3_servers import S3Server, uploads
from sqlalchemy import select
from werkzeug.serving import make_server

from flask_rindle import GB, MB, Profile
from flask_rindle.engine import Engine
from flask_rindle.models import Asset, UploadSession
from flask_rindle.types import utcnow

pytestmark = pytest.mark.browser

PART = 8 * MB
PATIENCE_SECONDS = 30
PAGE = """<!doctype html>
<html lang="en"><head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>Host page</title>
<link rel="icon" href="{{ rindle_templates.asset_urls().style }}"><link rel="stylesheet" href="/host.css">
{% import "rindle/macros.html" as media %}{{ media.assets() }}
</head><body><h1>Your film</h1>{{ media.upload("film", label="Film", actor=actor, max_files=files) }}</body></html>"""
STYLE = """:root {color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif}
body {max-width: 44rem; margin: 2rem auto; padding: 0 1rem}"""
READY = re.compile("^Done$")


class Film(Profile):
    name = "film"
    max_bytes = GB


@dataclass
class Site:
    """An app that is being served, and what its storage has."""

    url: str
    app: Flask
    unfinished: Callable[[], int]

    @property
    def engine(self) -> Engine:
        return self.app.extensions["rindle"]

    def rows(self, model: Any) -> list[Any]:
        host = self.app.extensions["host"]
        with self.app.app_context():
            return list(host.db.session.scalars(select(model).order_by(model.created_at)))

    def digest(self) -> str:
        """SHA-256 of the one asset that is ready."""
        (asset,) = [each for each in self.rows(Asset) if each.state == "ready"]
        found = hashlib.sha256()
        for chunk in self.engine.storages["default"].read(asset.storage_key):
            found.update(chunk)
        return found.hexdigest()


def add_pages(app: Flask, storage_url: str) -> None:
    @app.get("/")
    @app.get("/<int:files>")
    def page(files: int = 1) -> str:
        return render_template_string(PAGE, files=files, actor="ann")

    @app.get("/host.css")
    def style() -> Response:
        return Response(STYLE, mimetype="text/css")

    @app.after_request
    def protect(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = f"default-src 'self'; connect-src 'self' {storage_url}"
        return response


@contextmanager
def served(app: Flask, storage_url: str, unfinished: Callable[[], int]) -> Iterator[Site]:
    """The app at an address of its own, from which its storage takes uploads."""
    add_pages(app, storage_url)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    site = Site(f"http://127.0.0.1:{server.server_port}", app, unfinished)
    site.engine.storages["default"].apply_cors([site.url])  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def s3(localstack: S3Server, make_bucket: Callable[[S3Server], str], make_app: Callable[..., Flask]) -> Iterator[Site]:
    bucket, outside = make_bucket(localstack), localstack.client
    storages = {"default": {"backend": "s3", **localstack.options(bucket)}}
    app = make_app(profiles=[Film], storages=storages, clock=utcnow, actor=lambda: "ann")
    with served(app, localstack.endpoint_url, lambda: len(uploads(outside, bucket))) as site:
        yield site


@pytest.fixture
def fake_gcs() -> Iterator[FakeGcs]:
    with FakeGcs() as server:
        yield server


@pytest.fixture
def gcs(fake_gcs: FakeGcs, make_app: Callable[..., Flask]) -> Iterator[Site]:
    options = {"bucket": fake_gcs.bucket, "credentials": fake_gcs.credentials, "endpoint_url": fake_gcs.url}
    app = make_app(
        profiles=[Film], storages={"default": {"backend": "gcs", **options}}, clock=utcnow, actor=lambda: "ann"
    )
    with served(app, fake_gcs.url, lambda: len(fake_gcs.open_sessions)) as site:
        yield site


@pytest.fixture(scope="session")
def make_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`make_file(bytes, name)`: a file that no other is like."""
    folder = tmp_path_factory.mktemp("films")

    def make(size: int, name: str) -> Path:
        path = folder / name
        if not path.exists():
            path.write_bytes(os.urandom(size))
        return path

    return make


@pytest.fixture
def film(make_file: Callable[..., Path]) -> Path:
    """Six parts and a bit: the last has 5 MB and 7 bytes."""
    return make_file(5 * PART + 5 * MB + 7, "film.bin")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass
class Visit:
    """A page, what it sent past the app, and what happens to single parts on their way."""

    page: Page
    puts: list[Request] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    signed: list[list[int]] = field(default_factory=list)
    faults: dict[int, list[Any]] = field(default_factory=dict)
    held: list[Route] = field(default_factory=list)
    hold_from: int = 10_000

    def choose(self, file: Path) -> None:
        self.page.get_by_label("Film", exact=True).set_input_files(file)

    @property
    def status(self) -> Locator:
        return self.page.locator(".rindle-status")

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name).click()

    def arrived(self) -> Counter[int]:
        """How often each part was sent and taken."""
        return Counter(part_of(answer.url) for answer in self.answers if answer.status == 200)

    def sent(self) -> list[int]:
        return sorted(part_of(request.url) for request in self.puts)

    def until(self, condition: Callable[[], bool]) -> None:
        """Waits for what `expect` cannot see; looking at the page lets its events come in."""
        ends_at = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < ends_at, f"it never happened; the page says {self.status.all_inner_texts()}"
            self.page.wait_for_timeout(20)

    def intercept(self, route: Route) -> None:
        number = part_of(route.request.url)
        faults = self.faults.get(number)
        if faults:
            fault = faults.pop(0)
            if fault == "abort":
                route.abort()
            else:
                route.fulfill(status=fault, headers=allowing(route.request.headers["origin"]), body="<Error/>")
        elif number >= self.hold_from:
            self.held.append(route)
        else:
            route.continue_()


def numbers_of(request: Request) -> list[int]:
    """The parts that a URL is asked for."""
    body: dict[str, list[int]] = request.post_data_json
    return body["numbers"]


def part_of(url: str) -> int:
    return int(parse_qs(urlsplit(url).query).get("partNumber", ["0"])[0])


def allowing(origin: str) -> dict[str, str]:
    """What the rules of the adapters make a storage say to pages of this origin."""
    return {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": "Retry-After"}


@pytest.fixture
def context(cohort_browser: Browser) -> Iterator[BrowserContext]:
    context = cohort_browser.new_context(viewport={"width": 1280, "height": 720})
    context.set_default_timeout(1000 * PATIENCE_SECONDS)
    expect.set_options(timeout=1000 * PATIENCE_SECONDS)
    yield context
    context.close()


@pytest.fixture
def visit(context: BrowserContext) -> Iterator[Callable[..., Visit]]:
    """`visit(site)`: a new page of one browser. None may see an error, except those that a test makes."""
    complaints: list[str] = []

    def begin(site: Site, path: str = "/", **options: Any) -> Visit:
        begun = Visit(context.new_page(), **options)
        page = begun.page
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda line: line.type in {"error", "warning"} and complaints.append(line.text))
        page.on("request", lambda request: request.method == "PUT" and begun.puts.append(request))
        page.on("request", lambda request: request.url.endswith("/parts") and begun.signed.append(numbers_of(request)))
        page.on("response", lambda answer: answer.request.method == "PUT" and begun.answers.append(answer))
        if begun.faults or begun.hold_from < 10_000:
            page.route("**/*partNumber=*", begun.intercept)
        page.goto(f"{site.url}{path}")
        return begun

    yield begin
    # Chromium's own line about a load that fails, and about a 500 of ours that has no CORS headers.
    assert [text for text in complaints if not re.match("Failed to load resource|Access to XMLHttp", text)] == []


class TestParts:
    def test_a_film_arrives_in_parts_and_is_the_same(
        self, s3: Site, film: Path, visit: Callable[..., Visit], context: BrowserContext
    ) -> None:
        here = visit(s3)
        here.choose(film)
        expect(here.status).to_have_text(READY)
        assert here.arrived() == Counter(range(1, 7))
        assert s3.digest() == sha256(film)
        assert [row.strategy for row in s3.rows(UploadSession)] == ["multipart"]
        assert s3.unfinished() == 0
        assert here.page.evaluate("localStorage.length") == 0

    def test_no_more_than_three_at_once(self, s3: Site, film: Path, visit: Callable[..., Visit]) -> None:
        here = visit(s3, hold_from=1)
        here.choose(film)
        here.until(lambda: len(here.held) == 3)
        assert here.sent() == [1, 2, 3]
        while len(here.puts) < 6:
            known = len(here.puts)
            here.held.pop(0).continue_()
            here.until(lambda known=known: len(here.puts) > known)
            assert len(here.held) <= 3
        for route in here.held:
            route.continue_()
        expect(here.status).to_have_text(READY)

    def test_pausing_keeps_finished_parts(self, s3: Site, film: Path, visit: Callable[..., Visit]) -> None:
        here = visit(s3, hold_from=3)
        here.choose(film)
        here.until(lambda: here.arrived() == Counter([1, 2]))
        expect(here.status).to_contain_text("Uploading")
        here.press("Pause: film.bin")
        expect(here.status).to_have_text("Paused")
        here.hold_from = 10_000
        here.press("Resume: film.bin")
        expect(here.status).to_have_text(READY)
        assert here.arrived() == Counter(range(1, 7))
        assert s3.digest() == sha256(film)

    @pytest.mark.parametrize("fault", [500, 403, "abort"])
    def test_a_part_that_fails_once_recovers(
        self, s3: Site, film: Path, visit: Callable[..., Visit], fault: int | str
    ) -> None:
        here = visit(s3, faults={2: [fault]})
        here.choose(film)
        expect(here.status).to_have_text(READY)
        assert here.faults == {2: []}
        assert here.sent() == [1, 2, 2, 3, 4, 5, 6]
        assert [2 in numbers for numbers in here.signed] == [True, True]
        assert s3.digest() == sha256(film)

    def test_an_upload_that_the_storage_lost_begins_anew(
        self, s3: Site, film: Path, visit: Callable[..., Visit]
    ) -> None:
        here = visit(s3, faults={4: [404]})
        here.choose(film)
        expect(here.status).to_have_text(READY)
        assert [row.state for row in s3.rows(UploadSession)] == ["aborted", "completed"]
        assert s3.digest() == sha256(film)
        assert s3.unfinished() == 0

    def test_a_closed_tab_is_picked_up(self, s3: Site, film: Path, visit: Callable[..., Visit]) -> None:
        first = visit(s3, hold_from=4)
        first.choose(film)
        first.until(lambda: first.arrived() == Counter([1, 2, 3]))
        first.page.close()

        second = visit(s3, hold_from=6)
        second.choose(film)
        second.until(lambda: second.arrived() == Counter([4, 5]))
        expect(second.status).to_contain_text("Uploading the rest")
        assert second.page.locator("progress").evaluate("(bar) => bar.value") >= 88
        second.held[0].continue_()
        expect(second.status).to_have_text(READY)
        assert second.sent() == [4, 5, 6]
        assert s3.digest() == sha256(film)
        assert [row.state for row in s3.rows(UploadSession)] == ["completed"]
        assert second.page.evaluate("localStorage.length") == 0

    def test_what_is_remembered_is_no_secret(self, s3: Site, film: Path, visit: Callable[..., Visit]) -> None:
        here = visit(s3, hold_from=1)
        here.choose(film)
        here.until(lambda: len(here.held) == 3)
        (row,) = s3.rows(UploadSession)
        (text,) = here.page.evaluate("Object.entries(localStorage).map((entry) => entry.join())")
        assert re.fullmatch(rf'rindle-upload:\w+,{{"id":"{row.id}","at":\d+}}', text)

    def test_another_file_is_not_picked_up(
        self, s3: Site, film: Path, make_file: Callable[..., Path], visit: Callable[..., Visit]
    ) -> None:
        first = visit(s3, hold_from=1)
        first.choose(film)
        first.until(lambda: len(first.held) == 3)
        first.page.close()
        other = make_file(5 * PART, "other.bin")
        second = visit(s3)
        second.choose(other)
        expect(second.status).to_have_text(READY)
        assert s3.digest() == sha256(other)

    def test_the_same_file_twice_is_two_uploads(self, s3: Site, film: Path, visit: Callable[..., Visit]) -> None:
        here = visit(s3, "/2")
        here.choose(film)
        here.choose(film)
        expect(here.status).to_have_text(["Done", "Done"])
        assert [row.state for row in s3.rows(UploadSession)] == ["completed", "completed"]

    def test_cancelling_leaves_nothing_behind(self, s3: Site, film: Path, visit: Callable[..., Visit]) -> None:
        here = visit(s3, hold_from=3)
        here.choose(film)
        here.until(lambda: here.arrived() == Counter([1, 2]))
        assert s3.unfinished() == 1
        here.press("Cancel: film.bin")
        expect(here.page.get_by_role("listitem")).to_have_count(0)
        here.until(lambda: s3.unfinished() == 0)
        assert [row.state for row in s3.rows(UploadSession)] == ["aborted"]
        assert here.page.evaluate("localStorage.length") == 0

    def test_offline_costs_no_try(
        self, s3: Site, film: Path, visit: Callable[..., Visit], context: BrowserContext
    ) -> None:
        here = visit(s3, hold_from=3)
        here.choose(film)
        here.until(lambda: here.arrived() == Counter([1, 2]) and len(here.held) == 3)
        context.set_offline(True)
        for route in here.held:
            route.abort()
        expect(here.status).to_have_text("You are offline. The upload goes on when the connection is back.")
        here.hold_from = 10_000
        context.set_offline(False)
        expect(here.status).to_have_text(READY)
        assert here.arrived() == Counter(range(1, 7))

    @pytest.mark.parametrize("fault", [None, "abort"])
    def test_choosing_it_again_goes_on(
        self, s3: Site, film: Path, visit: Callable[..., Visit], fault: str | None
    ) -> None:
        here = visit(s3, hold_from=6, faults={5: ["abort"] * 4} if fault else {})
        here.choose(film)
        here.until(lambda: here.arrived() == Counter([1, 2, 3, 4] if fault else [1, 2, 3, 4, 5]))
        if fault:
            expect(here.status).to_have_text("The connection broke off. Check it, then try again.")
        else:
            here.press("Pause")
        here.hold_from = 10_000
        here.choose(film)
        expect(here.status).to_have_text([READY])
        assert here.arrived() == Counter(range(1, 7))
        assert len(s3.rows(UploadSession)) == 1

    def test_trouble_that_lasts_can_be_tried_again(self, s3: Site, film: Path, visit: Callable[..., Visit]) -> None:
        here = visit(s3, faults={6: ["abort"] * 4})
        here.choose(film)
        expect(here.status).to_have_text("The connection broke off. Check it, then try again.")
        here.press("Try again")
        expect(here.status).to_have_text(READY)
        assert here.arrived() == Counter(range(1, 7))


class TestOnePut:
    @pytest.fixture
    def note(self, make_file: Callable[..., Path]) -> Path:
        return make_file(MB, "note.bin")

    def test_a_small_file_goes_in_one_request(self, s3: Site, note: Path, visit: Callable[..., Visit]) -> None:
        here = visit(s3)
        here.choose(note)
        expect(here.status).to_have_text(READY)
        assert len(here.puts) == 1
        assert here.puts[0].headers["if-none-match"] == "*"
        assert s3.digest() == sha256(note)

    def test_an_answer_that_got_lost(self, s3: Site, note: Path, visit: Callable[..., Visit]) -> None:
        """The bytes are there, so the second PUT is answered 412 by the storage itself."""
        here = visit(s3)
        lost: list[int] = []
        network = here.page.context.new_cdp_session(here.page)

        def lose(event: dict[str, Any]) -> None:
            paused = {"requestId": event["requestId"]}
            if lost or event["request"]["method"] != "PUT":
                network.send("Fetch.continueRequest", paused)
                return
            lost.append(event["responseStatusCode"])
            network.send("Fetch.failRequest", {**paused, "errorReason": "ConnectionReset"})

        network.on("Fetch.requestPaused", lose)
        network.send("Fetch.enable", {"patterns": [{"urlPattern": "*X-Amz-Signature*", "requestStage": "Response"}]})
        here.choose(note)
        expect(here.status).to_have_text(READY)
        assert lost == [200]
        assert [answer.status for answer in here.answers][-1:] == [412]
        assert s3.digest() == sha256(note)


class TestPieces:
    def test_a_film_arrives_piece_by_piece(
        self, gcs: Site, fake_gcs: FakeGcs, film: Path, visit: Callable[..., Visit]
    ) -> None:
        here = visit(gcs)
        here.choose(film)
        expect(here.status).to_have_text(READY)
        assert len(here.puts) == 3
        assert fake_gcs.asked("status") == 0
        assert gcs.digest() == sha256(film)

    @pytest.mark.parametrize("fault", [status(503), status(429), RESET, cut(3 * MB)], ids=str)
    def test_a_break_goes_on_where_the_storage_is(
        self, gcs: Site, fake_gcs: FakeGcs, film: Path, visit: Callable[..., Visit], fault: Any
    ) -> None:
        fake_gcs.script.add("chunk", None, fault)
        here = visit(gcs)
        here.choose(film)
        expect(here.status).to_have_text(READY)
        assert gcs.digest() == sha256(film)
        assert fake_gcs.asked("status") >= 1

    @pytest.mark.parametrize("code", [404, 410])
    def test_a_session_that_is_gone_gives_way_to_another(
        self, gcs: Site, fake_gcs: FakeGcs, film: Path, visit: Callable[..., Visit], code: int
    ) -> None:
        here = visit(gcs)
        answers: list[int] = []

        def refuse(route: Route) -> None:
            if route.request.method != "PUT" or len(answers) != 1:
                answers.append(0)
                return route.continue_()
            answers.append(code)
            return route.fulfill(status=code, headers=allowing(gcs.url))

        here.page.route("**/upload/storage/**", refuse)
        here.choose(film)
        expect(here.status).to_have_text(READY)
        assert [row.state for row in gcs.rows(UploadSession)] == ["aborted", "completed"]
        assert gcs.digest() == sha256(film)

    def test_a_closed_tab_is_picked_up(
        self, gcs: Site, fake_gcs: FakeGcs, film: Path, visit: Callable[..., Visit]
    ) -> None:
        first = visit(gcs)
        held: list[Route] = []
        first.page.route(
            "**/upload/storage/**", lambda route: held.append(route) if len(first.puts) > 1 else route.continue_()
        )
        first.choose(film)
        first.until(lambda: len(held) == 1)
        assert fake_gcs.open_sessions[0] not in first.page.evaluate("JSON.stringify(localStorage)")
        first.page.close()

        second = visit(gcs)
        second.choose(film)
        expect(second.status).to_have_text(READY)
        starts = [request.headers["content-range"].split("-")[0] for request in second.puts]
        assert starts == [f"bytes {16 * MB}", f"bytes {32 * MB}"]
        assert gcs.digest() == sha256(film)
        assert len(gcs.rows(UploadSession)) == 1

    def test_cancelling_leaves_nothing_behind(
        self, gcs: Site, fake_gcs: FakeGcs, film: Path, visit: Callable[..., Visit]
    ) -> None:
        here = visit(gcs)
        held: list[Route] = []
        here.page.route("**/upload/storage/**", lambda route: held.append(route))
        here.choose(film)
        here.until(lambda: len(held) == 1)
        here.press("Cancel: film.bin")
        here.until(lambda: gcs.unfinished() == 0)
        assert fake_gcs.objects == {}
