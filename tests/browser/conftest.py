"""The example app as a process of its own, and a real Chromium to visit it with."""

from __future__ import annotations

import http
import http.client
import io
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, Response, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1] / "servers"))

from s3_servers import localstack as localstack
from s3_servers import make_bucket as make_bucket

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_SECONDS = 60
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 320, "height": 640}

# Upright, the photo shows these in its four corners.
RED, GREEN, BLUE, YELLOW = (216, 40, 40), (30, 150, 70), (40, 70, 200), (240, 200, 40)
SEEDED_MEMBER = "Chidi"


@dataclass
class Cohort:
    """A running example."""

    url: str
    log: Path


@dataclass
class Visit:
    """A page, and everything that went wrong in it."""

    page: Page
    base: str
    troubles: list[str] = field(default_factory=list)

    def open(self, path: str) -> None:
        self.page.goto(f"{self.base}{path}")

    def sign_in(self, name: str = SEEDED_MEMBER) -> None:
        """Ends on the member's own page."""
        self.open("/sign-in")
        self.page.get_by_role("button", name=name).click()
        self.page.wait_for_url("**/members/*")


def browser_is_missing(reason: str) -> None:
    """Skip; fail where everything is required to be there."""
    if os.environ.get("RINDLE_REQUIRE_ALL") or os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def find_chromium() -> str:
    found = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if found is None:
        browser_is_missing("there is no Chromium; on Debian: apt-get install chromium")
    return str(found)


@pytest.fixture(scope="module")
def cohort_browser() -> Iterator[Browser]:
    chromium = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def cohort_seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An instance folder as `make demo` leaves it: migrated and filled."""
    instance = tmp_path_factory.mktemp("cohort") / "instance"
    for command in (["db", "upgrade"], ["cohort", "seed"]):
        done = subprocess.run(
            [sys.executable, "-m", "flask", "--app", "example.cohort", *command],
            cwd=ROOT,
            env=_environment(instance),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
    return instance


@pytest.fixture(scope="session")
def serve_cohort(cohort_seed: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Iterator[Cohort]]:
    """Serves a copy of the filled example: `flask run`, or gunicorn with these options."""

    def serve(*gunicorn: str) -> Iterator[Cohort]:
        folder = tmp_path_factory.mktemp("served")
        shutil.copytree(cohort_seed, folder / "instance")
        port = _free_port()
        command = ["flask", "--app", "example.cohort", "run", "--port", str(port)]
        if gunicorn:
            command = [
                "gunicorn",
                "--bind",
                f"127.0.0.1:{port}",
                "--graceful-timeout",
                "2",
                *gunicorn,
                "example.cohort:create_app()",
            ]
        log = folder / "server.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=ROOT,
                env=_environment(folder / "instance"),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                _wait_for_answer(port, process, log)
                yield Cohort(f"http://127.0.0.1:{port}", log)
            finally:
                process.terminate()
                process.wait(PATIENCE_SECONDS)
        assert "Traceback" not in log.read_text(), log.read_text()

    return serve


@pytest.fixture(scope="module")
def cohort(serve_cohort: Callable[..., Iterator[Cohort]]) -> Iterator[Cohort]:
    """The example as `make demo` serves it."""
    yield from serve_cohort()


@pytest.fixture
def visit(cohort_browser: Browser) -> Iterator[Callable[..., Visit]]:
    """Opens visits; when the test is over, none of them may have seen an error."""
    contexts: list[BrowserContext] = []
    visits: list[Visit] = []

    def begin(site: Cohort, **options: object) -> Visit:
        context = cohort_browser.new_context(**{"viewport": DESKTOP, **options})  # type: ignore[arg-type]
        contexts.append(context)
        begun = Visit(context.new_page(), site.url)
        _note_troubles(begun)
        visits.append(begun)
        return begun

    yield begin
    for context in contexts:
        context.close()
    assert [trouble for begun in visits for trouble in begun.troubles] == []


def _note_troubles(begun: Visit) -> None:
    """Violations of the content security policy are console errors, too."""
    page, note = begun.page, begun.troubles.append
    page.on("console", lambda message: message.type in {"error", "warning"} and note(f"console: {message.text}"))
    page.on("pageerror", lambda error: note(f"error: {error}"))
    page.on("response", lambda response: response.status >= 400 and note(f"{response.status}: {response.url}"))
    page.on("response", lambda response: _has_policy(response) or note(f"no policy: {response.url}"))
    page.on("requestfailed", lambda request: _is_trouble(request.failure) and note(f"{request.failure}: {request.url}"))


def _has_policy(response: Response) -> bool:
    """Pages let nothing inline through; what members have sent stands in a sandbox."""
    policy = response.headers.get("content-security-policy", "")
    if "/rindle/files/" in response.url and response.request.method == "GET":
        return "sandbox" in policy and "default-src 'none'" in policy
    return "default-src 'self'" in policy and "unsafe" not in policy


def _is_trouble(failure: str | None) -> bool:
    """A page that is left ends its streams and unfinished pictures."""
    return failure != "net::ERR_ABORTED"


@pytest.fixture(scope="session")
def sideways_photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A portrait of 1200 × 1500 whose pixels lie on their side, as cameras write them (EXIF orientation 6)."""
    upright = Image.new("RGB", (1200, 1500))
    for place, colour in (((0, 0), RED), ((600, 0), GREEN), ((0, 750), BLUE), ((600, 750), YELLOW)):
        upright.paste(colour, (*place, place[0] + 600, place[1] + 750))
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    noise = Image.effect_noise(stored.size, 30).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path_factory.mktemp("photo") / "holiday.jpg"
    Image.blend(stored, noise, 0.04).save(path, "JPEG", quality=92, exif=exif)
    return path


@pytest.fixture(scope="session")
def drawn_photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three pictures of different shapes and types."""
    folder = tmp_path_factory.mktemp("photos")
    paths = []
    for name, size, colour in (
        ("one.png", (900, 600), RED),
        ("two.jpg", (700, 900), GREEN),
        ("three.webp", (800, 800), BLUE),
    ):
        file = io.BytesIO()
        Image.new("RGB", size, colour).save(file, {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}[name.partition(".")[2]])
        paths.append(folder / name)
        paths[-1].write_bytes(file.getvalue())
    return paths


def _environment(instance: Path) -> dict[str, str]:
    return {**os.environ, "COHORT_INSTANCE": str(instance), "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "error"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for_answer(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    ends_at = time.monotonic() + PATIENCE_SECONDS
    while not _answers(port):
        if process.poll() is not None or time.monotonic() > ends_at:
            pytest.fail(f"the example did not start:\n{log.read_text()}")
        time.sleep(0.05)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/sign-in")
        return connection.getresponse().status == http.HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()
