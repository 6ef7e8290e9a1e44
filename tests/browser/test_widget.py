"""The widgets in a real Chromium, against a small server that keeps the contract of docs/http.md and can misbehave."""

from __future__ import annotations

import io
import json
import re
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response, abort, redirect, render_template, render_template_string, request, url_for
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from werkzeug.serving import make_server

import flask_rindle

pytestmark = pytest.mark.browser

PACKAGE = Path(flask_rindle.__file__).parent
CHROMIUM = "/usr/bin/chromium"
CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
CSP = "default-src 'self'"
MB = 1024 * 1024
IMAGES = "image/jpeg,image/png,image/webp"
HINT = "JPEG, PNG or WebP, up to 64 MB"

PAGES = {
    "single": '{{ media.upload("avatar", label="Photo", next="/thanks") }}',
    "target": '<figure id="face"><img class="round" src="/pictures/old.png" alt="Old face"></figure>'
    '{{ media.upload("avatar", label="Photo", target="face") }}',
    "form": '{{ media.upload("proxied", label="Photo") }}',
    "many": '{{ media.upload("album", label="Photos", max_files=5) }}',
    "two": '{{ media.upload("avatar", label="Photo") }}{{ media.upload("album", label="Photos", max_files=5) }}',
    "anything": '{{ media.upload("anything", label="File") }}',
    "asset": '{{ media.picture(asset, variants=["thumb"], alt="A drawn sun", class="wide") }}',
    "nothing": "<p>[{{ media.picture(none) }}]</p>",
}
LAYOUT = """<!doctype html>
<html lang="en"{% if request.args.rtl %} dir="rtl"{% endif %}>
<head>
  <meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>Host page</title>
  <link rel="icon" href="/pictures/old.png"><link rel="stylesheet" href="/host.css">
  {% import "rindle/macros.html" as media %}{{ media.assets() }}{% if request.args.twice %}
  <script type="module" src="{{ rindle_templates.asset_urls().script }}?again"></script>{% endif %}
  <script type="module" src="/host.js"></script>
</head>
<body><h1>Your profile</h1>BODY<p><a href="/thanks">Elsewhere</a></p></body>
</html>"""
HOST_CSS = """
:root {color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif}
body {max-width: 44rem; margin: 2rem auto; padding: 0 1rem}
rindle-upload {margin-block: 1.5rem}
.round {inline-size: 9rem; block-size: 9rem; border-radius: 50%; object-fit: cover}
"""
HOST_JS = """
window.heard = [];
for (const name of ["added", "progress", "uploaded", "processing", "ready", "error"]) {
  document.addEventListener(`rindle:${name}`, (event) => {
    const {file, session, asset, ...plain} = event.detail;
    window.heard.push([name, {...plain, file: file?.name, session: session?.id, asset: asset?.id}]);
  });
}
window.spoken = [];
new MutationObserver((changes) => {
  for (const {target} of changes) {
    const live = target.closest?.("[aria-live]");
    if (live && live.textContent !== window.spoken.at(-1)) window.spoken.push(live.textContent);
  }
}).observe(document, {childList: true, subtree: true});
"""


class Struct(dict):
    """What the real server hands to the macros: attributes, or none."""

    __getattr__ = dict.__getitem__


def drawing(width: int = 640, height: int = 480, colour: str = "#2b6cb0") -> bytes:
    """A picture that shows which side is up."""
    image = Image.new("RGB", (width, height), colour)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, height * 2 // 3, width, height), fill="#e2c48d")
    draw.ellipse((width * 5 // 8, height // 8, width * 7 // 8, height // 8 + width // 4), fill="#ffd54a")
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85)
    return out.getvalue()


SUN = drawing()
FINISHED = {"ready", "degraded", "quarantined", "deleted"}


class FakeRindle:
    """Sessions, assets, events and faults in memory. It says nothing that docs/http.md does not promise."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.log: list[str] = []
        self.sessions: dict[str, dict[str, Any]] = {}
        self.assets: dict[str, dict[str, Any]] = {}
        self.bytes: dict[str, bytes] = {}
        self.used: defaultdict[str, int] = defaultdict(int)
        self.faults: defaultdict[str, list[Any]] = defaultdict(list)
        self.gates: defaultdict[str, threading.Event] = defaultdict(self._open_gate)
        self.changed = threading.Condition()
        self.changes: list[dict[str, str]] = []
        self.streams = 0
        self.sse = True
        self.outcome: str | None = "ready"
        self.profiles: dict[str, dict[str, Any]] = {
            "avatar": {"accept": IMAGES, "max_bytes": 64 * MB, "hint": HINT, "strategy": "presigned_put"},
            "proxied": {"accept": IMAGES, "max_bytes": 64 * MB, "hint": HINT, "strategy": "form"},
            "album": {"accept": IMAGES, "max_bytes": MB, "hint": "Up to 1 MB each", "strategy": "presigned_put"},
            "anything": {"accept": None, "max_bytes": None, "hint": None, "strategy": "presigned_put"},
        }

    @staticmethod
    def _open_gate() -> threading.Event:
        gate = threading.Event()
        gate.set()
        return gate

    # -- what a test does to it

    def hold(self, name: str) -> threading.Event:
        """Closes a gate: `body` (while a body is read), `answer` (before a PUT or form is answered)."""
        self.gates[name].clear()
        return self.gates[name]

    def fail(self, route: str, *faults: Any) -> None:
        """The next requests to a route fail: `reset`, or (status, code, detail, headers)."""
        self.faults[route].extend(faults)

    def finish(self, asset_id: str, state: str = "ready", error: dict[str, str] | None = None) -> None:
        with self.changed:
            asset = self.assets[asset_id]
            self.changes.append({"kind": "asset", "asset_id": asset_id, "from": asset["state"], "to": state})
            asset.update(state=state, error=error)
            self.changed.notify_all()

    def requests(self, route: str) -> int:
        return self.log.count(route)

    def close(self) -> None:
        for gate in self.gates.values():
            gate.set()

    # -- what the macros ask

    def asset_urls(self) -> Struct:
        return Struct(
            script=url_for("static", filename="rindle/rindle.js"), style=url_for("static", filename="rindle/rindle.css")
        )

    def upload(self, profile: str, *, max_files: int, next: str | None, **_: Any) -> Struct:  # noqa: A002
        with self.lock:
            number = sum(self.used.values()) + len(self.used)
            ticket = f"{profile}:{max_files}:{number}"
            self.used[ticket] += 0
        return Struct(
            self.profiles[profile],
            ticket=ticket,
            form_url="/rindle/uploads/form",
            uploads_url="/rindle/uploads",
            next=next,
            field_id=f"rindle-{number}",
            multiple=max_files > 1,
            notice=None,
        )

    def picture(self, asset: str | None, *, alt: str, **_: Any) -> Struct:
        if asset is None:
            return Struct(picture=None, pending=None, error=None)
        state = self.state(asset)
        pending = None if state["settled"] else Struct(self.readiness(asset))
        picture = state["picture"] and {**state["picture"], "img": {**state["picture"]["img"], "alt": alt}}
        return Struct(picture=picture, pending=pending, error=state["error"])

    # -- the contract

    def open(self, ticket: str, filename: str, size: int) -> dict[str, Any]:
        profile, limit, _ = ticket.split(":")
        with self.lock:
            if self.used[ticket] >= int(limit):
                sentence = "This upload form has been used already. Reload the page to send another file."
                raise Refused(409, "ticket_used", sentence)
            self.used[ticket] += 1
            number = f"s{len(self.sessions) + 1}"
            session = {
                "id": number,
                "state": "signed",
                "strategy": self.profiles[profile]["strategy"],
                "filename": filename,
                "byte_size": size,
                "ticket": ticket,
                "asset": {"id": f"a{number}", "state": "staged"},
            }
            self.sessions[number] = session
        return session

    def grant(self, session: dict[str, Any], signature: str) -> dict[str, Any]:
        if session["strategy"] == "form":
            return {
                "url": "/rindle/uploads/form",
                "method": "POST",
                "headers": {},
                "expires_at": "2030-01-01T00:00:00Z",
            }
        return {
            "url": f"/rindle/files/{session['id']}-{signature}",
            "method": "PUT",
            "headers": {"Content-Type": "image/jpeg", "Content-Length": str(session["byte_size"])},
            "expires_at": "2030-01-01T00:00:00Z",
        }

    def readiness(self, asset_id: str) -> dict[str, str]:
        return {
            "events_url": f"/rindle/events?token={asset_id}",
            "state_url": f"/rindle/assets/{asset_id}/state?token={asset_id}",
        }

    def session_json(self, session: dict[str, Any], signature: str = "first") -> dict[str, Any]:
        public = {key: value for key, value in session.items() if key != "ticket"}
        return {**public, "upload": self.grant(session, signature), **self.readiness(session["asset"]["id"])}

    def complete(self, session: dict[str, Any]) -> dict[str, Any]:
        asset_id = session["asset"]["id"]
        if asset_id not in self.bytes:
            raise Refused(409, "upload_incomplete", "The file has not arrived yet. Send it, then complete the upload.")
        with self.lock:
            session["state"] = "completed"
            self.assets.setdefault(asset_id, {"state": "processing", "error": None})
        if self.outcome:
            self.finish(asset_id, self.outcome)
        return self.session_json(session)

    def state(self, asset_id: str) -> dict[str, Any]:
        asset = self.assets[asset_id]
        url = f"/pictures/{asset_id}.jpg"
        img = {"src": url, "srcset": None, "sizes": None, "width": 640, "height": 480, "alt": "A beach"}
        source = {"type": "image/jpeg", "srcset": f"{url} 640w", "sizes": "100vw", "media": None}
        shown = asset["state"] in {"ready", "degraded"} or asset.get("original")
        return {
            "asset_id": asset_id,
            "state": asset["state"],
            "settled": asset["state"] in FINISHED,
            "variants": {"thumb": asset["state"]},
            "picture": {"sources": [source], "img": img} if shown else None,
            "error": asset["error"],
        }


class Refused(Exception):
    def __init__(self, status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> None:
        self.status, self.code, self.detail, self.headers = status, code, detail, headers or {}
        super().__init__(detail)


def reset_connection() -> None:
    """Ends the connection as a dying server does."""
    connection: socket.socket = request.environ["werkzeug.socket"]
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.shutdown(socket.SHUT_RDWR)
    raise ConnectionResetError


def read_body(fake: FakeRindle, fault: Any) -> bytes:
    """Reads a body slowly: after the first megabyte the gate `body` has to be open."""
    head = request.stream.read(MB)
    if fault == "reset":
        reset_connection()
    fake.gates["body"].wait(20)
    return head + request.stream.read()


def make_app(fake: FakeRindle) -> Flask:
    app = Flask(
        "host",
        template_folder=str(PACKAGE / "templates"),
        static_folder=str(PACKAGE / "static"),
        static_url_path="/static",
    )
    app.config["PROPAGATE_EXCEPTIONS"] = True
    app.jinja_env.globals["rindle_templates"] = fake
    add_host_pages(app, fake)
    add_upload_routes(app, fake)
    add_put_route(app, fake)
    add_form_route(app, fake)
    add_readiness_routes(app, fake)

    @app.before_request
    def note() -> None:
        if request.path.startswith("/rindle/"):
            fake.log.append(f"{request.method} {request.endpoint}")
            if request.endpoint not in {"put", "form"} and (fault := take_fault(fake, request.endpoint)):
                raise Refused(*fault)

    @app.after_request
    def protect(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = CSP
        response.headers["Cache-Control"] = "no-store"
        return response

    @app.errorhandler(Refused)
    def refuse(error: Refused) -> tuple[Any, ...]:
        if request.endpoint == "form" and "json" not in request.headers["Accept"]:
            urls = {"style_url": fake.asset_urls().style, "back": "/page/single"}
            return render_template(
                "rindle/problem.html", status=error.status, title="Refused", detail=error.detail, **urls
            ), 422
        body = {
            "type": "about:blank",
            "title": "Refused",
            "status": error.status,
            "code": error.code,
            "detail": error.detail,
        }
        headers = {"Content-Type": "application/problem+json", **error.headers}
        return json.dumps(body), error.status, headers

    return app


def take_fault(fake: FakeRindle, route: str | None) -> Any:
    faults = fake.faults[route or ""]
    return faults.pop(0) if faults else None


def add_host_pages(app: Flask, fake: FakeRindle) -> None:
    @app.get("/page/<name>")
    def page(name: str) -> str:
        return render_template_string(LAYOUT.replace("BODY", PAGES[name]), asset=request.args.get("asset"))

    @app.get("/thanks")
    def thanks() -> str:
        return "<!doctype html><title>Thanks</title><h1>Thank you</h1>"

    @app.get("/host.css")
    def style() -> Response:
        return Response(HOST_CSS, mimetype="text/css")

    @app.get("/host.js")
    def script() -> Response:
        return Response(HOST_JS, mimetype="text/javascript")

    @app.get("/pictures/<name>")
    def picture(name: str) -> Response:
        return Response(fake.bytes.get(name.removesuffix(".jpg"), SUN), mimetype="image/jpeg")


def add_upload_routes(app: Flask, fake: FakeRindle) -> None:
    def mine(id: str) -> dict[str, Any]:  # noqa: A002
        session = fake.sessions[id]
        if request.headers["Rindle-Ticket"] != session["ticket"]:
            abort(403)
        return session

    @app.post("/rindle/uploads", endpoint="open")
    def open_session() -> tuple[Any, int]:
        body = request.get_json()
        return fake.session_json(fake.open(request.headers["Rindle-Ticket"], body["filename"], body["byte_size"])), 201

    @app.get("/rindle/uploads/<id>", endpoint="look")
    def look(id: str) -> Any:  # noqa: A002
        return fake.session_json(mine(id))

    @app.post("/rindle/uploads/<id>/sign", endpoint="sign")
    def sign(id: str) -> Any:  # noqa: A002
        return {"upload": fake.grant(mine(id), "fresh")}

    @app.post("/rindle/uploads/<id>/complete", endpoint="complete")
    def complete(id: str) -> Any:  # noqa: A002
        return fake.complete(mine(id))

    @app.delete("/rindle/uploads/<id>", endpoint="cancel")
    def cancel(id: str) -> tuple[str, int]:  # noqa: A002
        session = mine(id)
        session["state"] = "aborted"
        fake.used[session["ticket"]] -= 1
        return "", 204


def add_put_route(app: Flask, fake: FakeRindle) -> None:
    @app.put("/rindle/files/<token>", endpoint="put")
    def put(token: str) -> tuple[str, int]:
        session = fake.sessions[token.split("-")[0]]
        fault = take_fault(fake, "put")
        body = read_body(fake, fault)
        fake.gates["answer"].wait(20)
        if fault:
            raise Refused(*fault)
        if len(body) != session["byte_size"]:
            abort(400)
        fake.bytes[session["asset"]["id"]] = body
        return "", 200


def add_form_route(app: Flask, fake: FakeRindle) -> None:
    @app.post("/rindle/uploads/form", endpoint="form")
    def form() -> Any:
        fault = take_fault(fake, "form")
        if fault == "reset":
            reset_connection()
        file = request.files["file"]
        content = file.read()
        fake.gates["answer"].wait(20)
        if fault and fault != "lost":
            raise Refused(*fault)
        if not file.mimetype.startswith("image/"):
            raise Refused(422, "type_refused", f"Files of type {file.mimetype} are not accepted here. Send image/png.")
        known = request.form.get("session")
        session = (
            fake.sessions[known] if known else fake.open(request.form["ticket"], file.filename or "", len(content))
        )
        if session["state"] == "completed":
            raise Refused(409, "session_closed", "This upload is already completed. Start a new one.")
        fake.bytes[session["asset"]["id"]] = content
        answer = fake.complete(session)
        if fault == "lost":
            reset_connection()
        return (answer, 201) if "json" in request.headers["Accept"] else redirect(request.form.get("next", "/"), 303)


def follow(fake: FakeRindle, asset_id: str, position: int) -> Iterator[str]:
    """The news of an asset as Server-Sent Events, with a heartbeat that notices a closed connection."""
    fake.streams += 1
    try:
        while True:
            yield ": here\n\n"
            with fake.changed:
                fake.changed.wait(0.1)
                news = list(enumerate(fake.changes, start=1))[position:]
            position += len(news)
            for number, change in news:
                if change["asset_id"] == asset_id:
                    yield f"id: {number}\nevent: change\ndata: {json.dumps(change)}\n\n"
    finally:
        fake.streams -= 1


def add_readiness_routes(app: Flask, fake: FakeRindle) -> None:
    @app.get("/rindle/events", endpoint="events")
    def events() -> Response:
        if not fake.sse:
            abort(404)
        seen = int(request.headers.get("Last-Event-ID", len(fake.changes)))
        return Response(follow(fake, request.args["token"], seen), mimetype="text/event-stream")

    @app.get("/rindle/assets/<id>/state", endpoint="state")
    def state(id: str) -> Any:  # noqa: A002
        return fake.state(id)


@pytest.fixture
def fake() -> Iterator[FakeRindle]:
    fake = FakeRindle()
    server = make_server("127.0.0.1", 0, make_app(fake), threaded=True)
    fake.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield fake
    fake.close()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=15_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser, fake: FakeRindle) -> Iterator[BrowserContext]:
    context = browser.new_context(base_url=fake.url, viewport={"width": 900, "height": 720})
    context.set_default_timeout(15_000)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A page that fails its test when the console complains, except about the loads that a test makes fail."""
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.add_init_script(
        "addEventListener('securitypolicyviolation', (e) => console.error('CSP', e.violatedDirective, e.blockedURI))"
    )
    yield page
    assert [text for text in complaints if not text.startswith("Failed to load resource")] == []


@pytest.fixture
def beach(tmp_path: Path) -> Path:
    """32 MB, more than the kernel takes off the browser's hands. Bytes after a JPEG's end do no harm."""
    path = tmp_path / "beach.jpg"
    with path.open("wb") as file:
        file.write(SUN)
        file.truncate(32 * MB)
    return path


def photo(name: str = "beach.jpg", size: int | None = None, mime: str = "image/jpeg") -> dict[str, Any]:
    return {"name": name, "mimeType": mime, "buffer": SUN + bytes(max(0, (size or 0) - len(SUN)))}


def heard(page: Page) -> list[str]:
    names: list[str] = page.evaluate("heard.map(([name]) => name)")
    return [name for name, before in zip(names, ["", *names], strict=False) if name != before]


def until(condition: Callable[[], bool]) -> None:
    """Waits for what `expect` cannot see."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        threading.Event().wait(0.02)


def drawn(page: Page, selector: str) -> bool:
    """Waits for a picture to be drawn. Polls, because `wait_for_function` would need `unsafe-eval`."""
    until(
        lambda: page.evaluate(
            "(s) => document.querySelector(s)?.complete && document.querySelector(s).naturalWidth", selector
        )
    )
    return True


def status(page: Page) -> Any:
    return page.locator(".rindle-status")


class TestOneFile:
    def test_progress_then_waiting_then_processing_then_picture(
        self, page: Page, fake: FakeRindle, beach: Path
    ) -> None:
        fake.outcome = None
        body, answer = fake.hold("body"), fake.hold("answer")
        page.goto("/page/single")
        page.get_by_label("Photo").set_input_files(beach)

        expect(status(page)).to_contain_text("Uploading")
        expect(page.locator(".rindle-name")).to_have_text("beach.jpg")
        expect(page.locator(".rindle-size")).to_have_text("32 MB")
        expect(page.locator(".rindle-preview canvas")).to_be_visible()
        until(lambda: page.evaluate("document.querySelector('progress').value") > 2)
        assert page.evaluate("document.querySelector('progress').value") < 90

        body.set()
        expect(status(page)).to_have_text("Sent, waiting for the server")
        assert page.get_by_role("progressbar").get_attribute("value") is None
        answer.set()
        expect(status(page)).to_have_text("Processing")
        until(lambda: fake.streams == 1)
        until(lambda: "processing" in heard(page))
        fake.finish("as1")

        expect(status(page)).to_have_text("Done")
        assert drawn(page, ".rindle-preview img")
        expect(page.get_by_role("img", name="A beach")).to_be_visible()
        expect(page.get_by_role("progressbar")).to_be_hidden()
        assert heard(page) == ["added", "progress", "uploaded", "processing", "ready"]
        until(lambda: fake.streams == 0)

    def test_the_picture_takes_the_place_of_the_old_one(self, page: Page) -> None:
        page.goto("/page/target")
        page.get_by_label("Photo").set_input_files(photo())

        assert drawn(page, "#face picture > img")
        face = page.locator("#face img")
        expect(face).to_have_count(1)
        expect(face).to_have_class("round")
        expect(page.locator("#face source")).to_have_attribute("type", "image/jpeg")

    def test_events_carry_what_a_host_needs(self, page: Page) -> None:
        page.goto("/page/single")
        page.get_by_label("Photo").set_input_files(photo(size=MB))
        expect(status(page)).to_have_text("Done")
        events = dict(page.evaluate("heard"))
        assert events["progress"] == {"loaded": MB, "total": MB, "file": "beach.jpg", "session": None, "asset": None}
        assert events["uploaded"]["session"] == "s1"
        assert events["ready"]["asset"] == "as1"

    def test_a_form_strategy_needs_no_completion(self, page: Page, fake: FakeRindle) -> None:
        page.goto("/page/form")
        page.get_by_label("Photo").set_input_files(photo())
        expect(status(page)).to_have_text("Done")
        assert fake.requests("POST form") == 1
        assert fake.requests("POST complete") == 0

    def test_a_file_without_picture_is_done_as_well(self, page: Page, fake: FakeRindle) -> None:
        fake.state = lambda asset_id: {  # type: ignore[method-assign]
            "asset_id": asset_id, "state": "ready", "settled": True, "variants": {}, "picture": None, "error": None,
        }  # fmt: skip
        page.goto("/page/anything")
        page.get_by_label("File", exact=True).set_input_files(
            {"name": "a.txt", "mimeType": "text/plain", "buffer": b"words"}
        )
        expect(status(page)).to_have_text("Done")
        expect(page.locator(".rindle-preview .rindle-icon-file")).to_be_visible()

    def test_dropping_and_pasting_begin_an_upload(self, page: Page) -> None:
        page.goto("/page/single")
        give = """(type) => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(9)], `${type}.png`, {type: "image/png"}));
          const zone = document.querySelector(".rindle-zone");
          const init = {bubbles: true, cancelable: true, dataTransfer: data, clipboardData: data};
          if (type === "drop") {
            zone.dispatchEvent(new DragEvent("dragover", init));
            window.marked = document.querySelector("rindle-upload").hasAttribute("data-drag");
          }
          zone.dispatchEvent(type === "drop" ? new DragEvent("drop", init) : new ClipboardEvent("paste", init));
        }"""
        page.evaluate(give, "drop")
        expect(status(page)).to_have_text("Done")
        assert page.evaluate("window.marked")
        expect(page.locator("rindle-upload")).not_to_have_attribute("data-drag", "")
        page.reload()
        page.evaluate(give, "paste")
        expect(page.locator(".rindle-name")).to_have_text("paste.png")
        expect(status(page)).to_have_text("Done")

    def test_a_file_chosen_before_the_script_came(self, page: Page) -> None:
        held: list[Any] = []
        page.route("**/rindle.js", lambda route: held.append(route))
        page.goto("/page/single", wait_until="commit")
        page.get_by_label("Photo").set_input_files(photo())
        held[0].continue_()
        expect(status(page)).to_have_text("Done")

    def test_the_script_may_come_twice(self, page: Page, fake: FakeRindle) -> None:
        page.goto("/page/single?twice=1")
        page.get_by_label("Photo").set_input_files(photo())
        expect(status(page)).to_have_text("Done")
        assert fake.requests("POST open") == 1
        expect(page.locator(".rindle-invite")).to_have_count(1)

    def test_a_submit_sends_nothing_twice(self, page: Page, fake: FakeRindle, beach: Path) -> None:
        body = fake.hold("body")
        page.goto("/page/single")
        page.get_by_label("Photo").set_input_files(beach)
        expect(status(page)).to_contain_text(re.compile("Uploading|Sent"))
        page.evaluate(
            "document.querySelector('form').noValidate = true; document.querySelector('form').requestSubmit()"
        )
        body.set()
        expect(status(page)).to_have_text("Done")
        assert fake.requests("POST open") == 1
        assert fake.requests("POST form") == 0
        expect(page.get_by_role("button", name="Upload")).to_be_hidden()


class TestControls:
    def test_pause_and_resume(self, page: Page, fake: FakeRindle, beach: Path) -> None:
        body = fake.hold("body")
        page.goto("/page/single")
        page.get_by_label("Photo").set_input_files(beach)
        expect(status(page)).to_contain_text("Uploading")
        page.get_by_role("button", name="Pause: beach.jpg").click()
        expect(status(page)).to_have_text("Paused")
        expect(page.get_by_role("button", name="Pause")).to_be_hidden()
        body.set()
        page.get_by_role("button", name="Resume").click()
        expect(status(page)).to_have_text("Done")
        assert fake.requests("POST open") == 1

    def test_the_methods_do_the_same(self, page: Page, fake: FakeRindle, beach: Path) -> None:
        body = fake.hold("body")
        page.goto("/page/single")
        page.get_by_label("Photo").set_input_files(beach)
        expect(status(page)).to_contain_text("Uploading")
        page.evaluate("document.querySelector('rindle-upload').pause()")
        expect(status(page)).to_have_text("Paused")
        body.set()
        page.evaluate("document.querySelector('rindle-upload').resume()")
        expect(status(page)).to_have_text("Done")

    def test_cancelling_takes_back_and_frees_the_form(self, page: Page, fake: FakeRindle, beach: Path) -> None:
        body = fake.hold("body")
        page.goto("/page/single")
        page.get_by_label("Photo").set_input_files(beach)
        expect(status(page)).to_contain_text("Uploading")
        with page.expect_response(lambda response: response.request.method == "DELETE") as deleted:
            page.get_by_role("button", name="Cancel").click()
        assert deleted.value.url.endswith("/rindle/uploads/s1")
        expect(page.get_by_role("listitem")).to_have_count(0)
        expect(page.get_by_role("status")).to_have_text("beach.jpg: Cancelled")
        expect(page.get_by_label("Photo")).to_be_focused()

        body.set()
        page.get_by_label("Photo").set_input_files(photo("second.jpg"))
        expect(status(page)).to_have_text("Done")

    def test_choosing_another_file_replaces_the_one_under_way(self, page: Page, fake: FakeRindle, beach: Path) -> None:
        body = fake.hold("body")
        page.goto("/page/single")
        page.get_by_label("Photo").set_input_files(beach)
        expect(status(page)).to_contain_text("Uploading")
        page.get_by_label("Photo").set_input_files(photo("right.jpg"))
        expect(page.get_by_text("beach.jpg")).to_have_count(0)
        body.set()
        expect(page.locator(".rindle-name")).to_have_text("right.jpg")
        expect(status(page)).to_have_text("Done")
        assert fake.sessions["s1"]["state"] == "aborted"

    def test_a_used_ticket_offers_to_reload_and_leaves_the_picture(self, page: Page) -> None:
        page.goto("/page/single")
        page.get_by_label("Photo").set_input_files(photo("first.jpg"))
        expect(status(page)).to_have_text("Done")
        page.get_by_label("Photo").set_input_files(photo("second.jpg"))
        expect(status(page).last).to_have_text(
            "This upload form has been used already. Reload the page to send another file."
        )
        expect(page.locator(".rindle-preview picture img")).to_be_visible()
        with page.expect_navigation():
            page.get_by_role("button", name="Reload to change").click()
        page.get_by_label("Photo").set_input_files(photo("second.jpg"))
        expect(status(page)).to_have_text("Done")

    def test_keyboard_only(self, page: Page, fake: FakeRindle, beach: Path) -> None:
        body = fake.hold("body")
        choosers: list[Any] = []
        page.on(
            "filechooser", lambda chooser: choosers.append(chooser)
        )  # long before the key, or headless Chromium dismisses the dialog
        page.goto("/page/single")
        page.keyboard.press("Tab")
        expect(page.get_by_label("Photo")).to_be_focused()
        expect(page.get_by_label("Photo")).to_have_accessible_description(HINT)
        outline = page.locator(".rindle-zone").evaluate("(zone) => getComputedStyle(zone).outlineStyle")
        assert outline == "solid"
        page.keyboard.press("Enter")
        until(lambda: bool(page.evaluate("1") and choosers))
        choosers[0].set_files(beach)
        expect(status(page)).to_contain_text("Uploading")
        page.keyboard.press("Tab")
        expect(page.get_by_role("button", name="Pause")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name="Resume")).to_be_focused()
        body.set()
        page.keyboard.press("Enter")
        expect(status(page)).to_have_text("Done")

    def test_leaving_asks_only_while_something_would_be_lost(self, page: Page, fake: FakeRindle, beach: Path) -> None:
        body = fake.hold("body")
        asked = "() => !window.dispatchEvent(new Event('beforeunload', {cancelable: true}))"
        page.goto("/page/single")
        assert page.evaluate(asked) is False
        page.get_by_label("Photo").set_input_files(beach)
        expect(status(page)).to_contain_text("Uploading")
        assert page.evaluate(asked) is True
        body.set()
        expect(status(page)).to_have_text("Done")
        assert page.evaluate(asked) is False

    def test_a_removed_widget_cleans_up_and_a_moved_one_goes_on(
        self, page: Page, fake: FakeRindle, beach: Path
    ) -> None:
        body = fake.hold("body")
        page.goto("/page/single")
        page.get_by_label("Photo").set_input_files(beach)
        expect(status(page)).to_contain_text("Uploading")
        page.evaluate("document.body.append(document.querySelector('rindle-upload'))")
        expect(status(page)).to_contain_text("Uploading")
        with page.expect_response(lambda response: response.request.method == "DELETE"):
            page.evaluate("document.querySelector('rindle-upload').remove()")
        body.set()


class TestRefusals:
    def test_too_large_is_refused_without_a_request(self, page: Page, fake: FakeRindle) -> None:
        page.goto("/page/two")
        page.get_by_label("Photos").set_input_files(photo(size=MB + 1))
        expect(status(page)).to_have_text("The file is too large. Send one of at most 1 MB.")
        assert fake.log == []
        assert page.evaluate("heard.at(-1)[1].code") == "too_large"
        expect(page.get_by_label("Photos")).to_have_attribute("aria-invalid", "true")
        expect(page.get_by_label("Photos")).to_have_accessible_description(
            "Up to 1 MB each The file is too large. Send one of at most 1 MB."
        )
        page.get_by_role("button", name="Remove").click()
        expect(page.get_by_role("listitem")).to_have_count(0)

    def test_a_wrong_type_is_refused_without_a_request(self, page: Page, fake: FakeRindle) -> None:
        page.goto("/page/single")
        page.get_by_label("Photo").set_input_files({"name": "a.gif", "mimeType": "image/gif", "buffer": b"GIF89a"})
        expect(status(page)).to_have_text("Files of type image/gif are not accepted here. Send JPEG, PNG, WebP.")
        assert fake.log == []
        page.get_by_label("Photo").set_input_files(photo())
        expect(status(page)).to_have_text("Done")
        expect(page.get_by_label("Photo")).not_to_have_attribute("aria-invalid", "true")

    def test_what_the_server_says_is_shown_and_not_repeated(self, page: Page, fake: FakeRindle) -> None:
        fake.fail("open", (422, "extension_refused", "Files named .jpg are not accepted here. Send .png."))
        page.goto("/page/single")
        page.get_by_label("Photo").set_input_files(photo())
        expect(status(page)).to_have_text("Files named .jpg are not accepted here. Send .png.")
        expect(page.get_by_role("button", name="Try again")).to_be_hidden()
        assert fake.requests("POST open") == 1

    def test_a_quarantined_file_says_why(self, page: Page, fake: FakeRindle) -> None:
        fake.outcome = None
        page.goto("/page/single")
        page.get_by_label("Photo").set_input_files(photo())
        expect(status(page)).to_have_text("Processing")
        sentence = "The file is damaged or incomplete and cannot be opened. Send another copy."
        fake.finish("as1", "quarantined", {"code": "media_damaged", "detail": sentence})
        expect(status(page)).to_have_text(sentence)
        assert page.evaluate("heard.at(-1)[1].code") == "media_damaged"

    def test_a_damaged_transport_can_be_sent_anew(self, page: Page, fake: FakeRindle) -> None:
        fake.fail("complete", (422, "checksum_mismatch", "The file was damaged on its way. Send it again."))
        page.goto("/page/single")
        page.get_by_label("Photo").set_input_files(photo())
        page.get_by_role("button", name="Try again").click()
        expect(status(page)).to_have_text("Done")
        assert fake.sessions["s1"]["state"] == "aborted"
        assert fake.requests("PUT put") == 2


class TestTrouble:
    BUSY = (503, "database_busy", "The server is busy at the moment. Try again in a few seconds.", {"Retry-After": "1"})

    def test_busy_servers_are_asked_again(self, page: Page, fake: FakeRindle) -> None:
        fake.fail("open", self.BUSY)
        fake.fail("put", self.BUSY)
        fake.fail("complete", self.BUSY)
        page.goto("/page/single")
        page.get_by_label("Photo").set_input_files(photo())
        expect(status(page)).to_contain_text("Trying again in")
        expect(status(page)).to_have_text("Done")
        assert [fake.requests(route) for route in ("POST open", "PUT put", "POST complete")] == [2, 2, 2]

    def test_a_full_server_that_asks_for_an_hour_is_believed(self, page: Page, fake: FakeRindle) -> None:
        sentence = "The server has no room for this file at the moment. Try again later."
        fake.fail("put", (507, "storage_full", sentence, {"Retry-After": "3600"}))
        page.goto("/page/single")
        page.get_by_label("Photo").set_input_files(photo())
        expect(status(page)).to_have_text(sentence)
        page.get_by_role("button", name="Try again").click()
        expect(status(page)).to_have_text("Done")
        assert fake.requests("POST open") == 1

    def test_an_expired_url_is_signed_again_once(self, page: Page, fake: FakeRindle) -> None:
        fake.fail("put", (403, "expired_token", "This link has expired."))
        page.goto("/page/single")
        page.get_by_label("Photo").set_input_files(photo())
        expect(status(page)).to_have_text("Done")
        assert fake.requests("POST sign") == 1

    def test_a_second_403_is_an_answer(self, page: Page, fake: FakeRindle) -> None:
        fake.fail("put", *[(403, "expired_token", "This link has expired.")] * 2)
        page.goto("/page/single")
        page.get_by_label("Photo").set_input_files(photo())
        expect(status(page)).to_have_text("This link has expired.")
        assert fake.requests("POST sign") == 1

    def test_a_connection_that_breaks_in_the_middle(self, page: Page, fake: FakeRindle, beach: Path) -> None:
        fake.fail("put", "reset")
        page.goto("/page/single")
        page.get_by_label("Photo").set_input_files(beach)
        expect(status(page)).to_have_text("Done")
        assert fake.requests("PUT put") == 2

    def test_a_form_whose_answer_got_lost_is_not_sent_twice(self, page: Page, fake: FakeRindle) -> None:
        fake.fail("form", "lost")
        page.goto("/page/form")
        page.get_by_label("Photo").set_input_files(photo())
        expect(status(page)).to_have_text("Done")
        assert fake.requests("POST form") == 1
        assert fake.requests("GET look") == 1

    def test_offline_waits_for_online(self, page: Page, context: BrowserContext, fake: FakeRindle) -> None:
        page.goto("/page/single")
        context.set_offline(True)
        page.get_by_label("Photo").set_input_files(photo())
        expect(status(page)).to_contain_text("You are offline")
        context.set_offline(False)
        expect(status(page)).to_have_text("Done")

    def test_without_events_it_polls(self, page: Page, fake: FakeRindle) -> None:
        fake.sse = False
        fake.outcome = None
        page.goto("/page/single")
        page.get_by_label("Photo").set_input_files(photo())
        expect(status(page)).to_have_text("Processing")
        until(lambda: fake.requests("GET state") >= 2)
        fake.finish("as1")
        expect(status(page)).to_have_text("Done")
        assert fake.requests("GET events") == 1

    def test_a_hidden_page_holds_no_stream(self, page: Page, fake: FakeRindle) -> None:
        fake.outcome = None
        page.goto("/page/single")
        page.get_by_label("Photo").set_input_files(photo())
        until(lambda: fake.streams == 1)
        page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide', {persisted: true}))")
        until(lambda: fake.streams == 0)
        fake.finish("as1")
        page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")
        expect(status(page)).to_have_text("Done")


class TestManyFiles:
    def test_a_row_for_each_and_two_at_a_time(self, page: Page, fake: FakeRindle) -> None:
        answer = fake.hold("answer")
        page.goto("/page/many")
        page.get_by_label("Photos").set_input_files([photo(f"{name}.jpg") for name in "abcd"])
        expect(page.get_by_role("listitem")).to_have_count(4)
        until(lambda: fake.requests("PUT put") == 2)
        expect(page.get_by_text("Waiting for its turn")).to_have_count(2)
        answer.set()
        expect(status(page).get_by_text("Done")).to_have_count(4)
        expect(page.locator(".rindle-preview img")).to_have_count(4)

    def test_one_refusal_leaves_the_others_alone(self, page: Page) -> None:
        page.goto("/page/many")
        page.get_by_label("Photos").set_input_files([photo("a.jpg"), photo("big.jpg", size=2 * MB), photo("c.jpg")])
        expect(status(page).get_by_text("Done")).to_have_count(2)
        expect(page.get_by_role("listitem").filter(has_text="big.jpg")).to_contain_text("too large")

    def test_two_widgets_mind_their_own_business(self, page: Page, fake: FakeRindle) -> None:
        page.goto("/page/two")
        page.get_by_label("Photo", exact=True).set_input_files(photo("me.jpg"))
        page.get_by_label("Photos").set_input_files([photo("a.jpg"), photo("b.jpg")])
        first, second = page.locator("rindle-upload").first, page.locator("rindle-upload").last
        expect(first.locator(".rindle-status").get_by_text("Done")).to_have_count(1)
        expect(second.locator(".rindle-status").get_by_text("Done")).to_have_count(2)
        ids = page.evaluate("[...document.querySelectorAll('[id]')].map((node) => node.id)")
        assert len(ids) == len(set(ids))


class TestPicture:
    def asset(self, fake: FakeRindle, state: str = "processing", **more: Any) -> str:
        fake.assets["a7"] = {"state": state, "error": None, **more}
        return "/page/asset?asset=a7"

    def test_a_placeholder_becomes_the_picture(self, page: Page, fake: FakeRindle) -> None:
        page.goto(self.asset(fake))
        expect(page.get_by_role("status")).to_have_text("A drawn sun: Processing…")
        until(lambda: fake.streams == 1)
        fake.finish("a7")
        assert drawn(page, "rindle-picture img")
        sun = page.get_by_role("img", name="A drawn sun")
        expect(sun).to_have_class("wide")
        expect(sun).to_have_attribute("width", "640")
        until(lambda: fake.streams == 0)

    def test_the_original_stands_in_meanwhile(self, page: Page, fake: FakeRindle) -> None:
        page.goto(self.asset(fake, original=True))
        assert drawn(page, "rindle-picture picture img")
        expect(page.get_by_role("img", name="A drawn sun")).to_have_class("wide")
        until(lambda: fake.requests("GET state") == 1)
        expect(page.get_by_role("status")).to_contain_text("Processing")
        fake.finish("a7")
        expect(page.get_by_role("status")).to_have_count(0)
        expect(page.get_by_role("img")).to_have_count(1)
        assert drawn(page, "rindle-picture picture img")

    def test_a_reload_finds_it_again(self, page: Page, fake: FakeRindle) -> None:
        page.goto(self.asset(fake))
        expect(page.get_by_role("status")).to_contain_text("Processing")
        page.reload()
        expect(page.get_by_role("status")).to_contain_text("Processing")
        fake.finish("a7")
        assert drawn(page, "rindle-picture img")
        page.reload()
        assert drawn(page, "picture img")
        expect(page.locator("rindle-picture")).to_have_count(0)
        sun = page.get_by_role("img", name="A drawn sun")
        expect(sun).to_have_attribute("loading", "lazy")
        expect(sun).to_have_attribute("decoding", "async")
        expect(page.locator("source")).to_have_attribute("sizes", "100vw")

    def test_a_refused_one_says_why(self, page: Page, fake: FakeRindle) -> None:
        error = {"code": "scan_refused", "detail": "The file was refused by a security check."}
        page.goto(self.asset(fake))
        until(lambda: fake.streams == 1)
        fake.finish("a7", "quarantined", error)
        expect(page.get_by_role("status")).to_have_text(error["detail"])
        page.reload()
        expect(page.locator(".rindle-notice")).to_have_text(error["detail"])

    def test_an_expired_link_says_so(self, page: Page, fake: FakeRindle) -> None:
        sentence = "This link has expired. Reload the page that it came from."
        fake.fail("state", (403, "expired_token", sentence))
        page.goto(self.asset(fake))
        expect(page.get_by_role("status")).to_have_text(sentence)
        until(lambda: fake.streams == 0)

    def test_no_asset_prints_nothing(self, page: Page) -> None:
        page.goto("/page/nothing")
        expect(page.get_by_text("[]")).to_be_visible()


class TestWithoutScript:
    @pytest.fixture
    def plain(self, browser: Browser, fake: FakeRindle) -> Iterator[Page]:
        context = browser.new_context(base_url=fake.url, java_script_enabled=False)
        context.set_default_timeout(15_000)
        yield context.new_page()
        context.close()

    def test_the_form_posts_and_goes_on(self, plain: Page, fake: FakeRindle) -> None:
        plain.goto("/page/single")
        plain.get_by_label("Photo").set_input_files(photo())
        plain.get_by_role("button", name="Upload").click()
        expect(plain.get_by_role("heading", name="Thank you")).to_be_visible()
        assert fake.bytes == {"as1": SUN}

    def test_a_refusal_is_a_page_with_a_way_back(self, plain: Page) -> None:
        plain.goto("/page/single")
        plain.get_by_label("Photo").set_input_files({"name": "a.txt", "mimeType": "text/plain", "buffer": b"words"})
        plain.get_by_role("button", name="Upload").click()
        expect(plain.get_by_role("heading", level=1)).to_contain_text("Files of type text/plain are not accepted here.")
        plain.get_by_role("link", name="Go back").click()
        expect(plain.get_by_label("Photo")).to_be_visible()

    def test_a_pending_picture_says_what_to_do(self, plain: Page, fake: FakeRindle) -> None:
        fake.assets["a7"] = {"state": "processing", "error": None}
        plain.goto("/page/asset?asset=a7")
        expect(plain.locator("noscript .rindle-hint")).to_be_visible()


class TestLooksAndSounds:
    def test_coarse_steps_are_announced_once_each(self, page: Page, fake: FakeRindle, beach: Path) -> None:
        body = fake.hold("body")
        page.goto("/page/single")
        expect(page.get_by_role("status")).to_have_text("")
        page.get_by_label("Photo").set_input_files(beach)
        expect(page.get_by_role("status")).to_have_text("beach.jpg: Uploading")
        body.set()
        expect(page.get_by_role("status")).to_have_text("beach.jpg: Done")
        steps = page.evaluate("spoken")
        assert steps[-1] == "beach.jpg: Done"
        assert "beach.jpg: Sent, waiting for the server" in steps
        assert len(steps) == len(set(steps)) < 9

    def test_everything_has_a_name_and_a_role(self, page: Page, fake: FakeRindle, beach: Path) -> None:
        body = fake.hold("body")
        page.goto("/page/single")
        page.get_by_label("Photo").set_input_files(beach)
        expect(page.get_by_role("progressbar", name="Progress of beach.jpg")).to_be_visible()
        expect(page.get_by_role("list", name="Files")).to_be_visible()
        for name in ("Pause: beach.jpg", "Cancel: beach.jpg"):
            expect(page.get_by_role("button", name=name)).to_be_visible()
        expect(page.get_by_role("button", name="Try again")).to_be_hidden()
        body.set()

    @pytest.mark.parametrize("query", ["", "?rtl=1"])
    def test_nothing_scrolls_sideways_on_a_small_phone(self, page: Page, fake: FakeRindle, query: str) -> None:
        page.set_viewport_size({"width": 320, "height": 640})
        body = fake.hold("body")
        page.goto(f"/page/many{query}")
        long = "a-very-long-name-without-any-space-" * 4
        page.get_by_label("Photos").set_input_files([photo(f"{long}.jpg", size=2 * MB), photo(f"{long}2.jpg", size=MB)])
        expect(status(page).first).to_contain_text("too large")
        expect(page.get_by_role("button", name="Pause")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
        body.set()
        expect(status(page).last).to_have_text("Done")
        assert page.evaluate("document.documentElement.scrollWidth") <= 320

    def test_dark_mode_looks_different(self, page: Page) -> None:
        page.goto("/page/single")
        zone = page.locator(".rindle-zone")
        light = zone.screenshot(animations="disabled")
        page.emulate_media(color_scheme="dark")
        dark = zone.screenshot(animations="disabled")
        brightness = [
            Image.open(io.BytesIO(shot)).convert("L").resize((1, 1)).getpixel((0, 0)) for shot in (light, dark)
        ]
        assert brightness[0] > 200
        assert brightness[1] < 80

    def test_a_page_sets_its_own_accent(self, page: Page) -> None:
        page.goto("/page/single")
        page.evaluate("document.documentElement.style.setProperty('--rindle-accent', 'rgb(200, 0, 100)')")
        colour = page.locator(".rindle-invite strong").evaluate("(node) => getComputedStyle(node).color")
        assert colour == "rgb(200, 0, 100)"

    def test_a_camera_turned_picture_is_previewed_upright(self, page: Page, fake: FakeRindle) -> None:
        fake.hold("answer")
        image = Image.open(io.BytesIO(drawing())).transpose(Image.Transpose.ROTATE_90)
        exif = Image.Exif()
        exif[0x0112] = 6
        out = io.BytesIO()
        image.save(out, "JPEG", exif=exif)
        page.goto("/page/single")
        page.get_by_label("Photo").set_input_files(
            {"name": "t.jpg", "mimeType": "image/jpeg", "buffer": out.getvalue()}
        )
        expect(page.locator("canvas")).to_be_visible()
        pixel = "(node) => [...node.getContext('2d').getImageData(80, 155, 1, 1).data]"
        red, _green, blue, _alpha = page.locator("canvas").evaluate(pixel)
        assert red > blue + 40  # the sand is at the bottom
