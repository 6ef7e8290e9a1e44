"""A member chooses a photo, and the picture appears: the story that the package is for, in a real Chromium."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

pytestmark = pytest.mark.browser

READY_MS = 60_000
PHONE = {"width": 320, "height": 640}
# Where to look, as shares of width and height, and what is there when the photo is held the right way up.
CORNERS = {
    (0.2, 0.2): (216, 40, 40),
    (0.8, 0.2): (30, 150, 70),
    (0.2, 0.8): (40, 70, 200),
    (0.8, 0.8): (240, 200, 40),
}
REFUSED = {"name": "holiday.jpg", "mimeType": "image/jpeg", "buffer": b"Wish you were here.\n" * 50}
REFUSAL = re.compile(r"Files of type text/plain are not accepted here")
SERVERS = {
    "gthread": ("--workers", "1", "--worker-class", "gthread", "--threads", "2"),
    "sync": ("--workers", "1", "--worker-class", "sync"),
}

HEAR = """
window.heard = [];
for (const name of ["added", "progress", "uploaded", "processing", "ready", "error"]) {
  document.addEventListener(`rindle:${name}`, () => heard.at(-1) === name || heard.push(name));
}
"""
# naturalWidth is corrected for the density that srcset implies, so the chosen file is opened once more on its own.
LOOK = """async (image, points) => {
  await image.decode();
  const file = new Image();
  file.src = image.currentSrc;
  await file.decode();
  const {naturalWidth: width, naturalHeight: height} = file;
  const canvas = document.createElement("canvas");
  Object.assign(canvas, {width, height});
  const context = canvas.getContext("2d", {willReadFrequently: true});
  context.drawImage(file, 0, 0);
  const pixel = ([x, y]) => context.getImageData(Math.floor(x * width), Math.floor(y * height), 1, 1);
  const colours = points.map((point) => [...pixel(point).data.slice(0, 3)]);
  return {width, height, name: image.currentSrc.split("/").at(-1), colours};
}"""


def look(image: Locator) -> dict[str, Any]:
    """Which file the browser chose, and what it shows."""
    image.scroll_into_view_if_needed()
    seen: dict[str, Any] = image.evaluate(LOOK, [list(point) for point in CORNERS])
    return seen


def assert_is_portrait(page: Page, name: str, side: int) -> None:
    """The portrait is the file that suits this window: square, upright, its place kept free while it loads."""
    image = page.locator("#portrait img")
    seen = look(image)
    assert (seen["name"], seen["width"], seen["height"]) == (name, side, side)
    for colour, expected in zip(seen["colours"], CORNERS.values(), strict=True):
        assert max(abs(a - b) for a, b in zip(colour, expected, strict=True)) < 40, f"{seen['colours']} is not upright"
    expect(image).to_have_attribute("alt", "Portrait of Chidi")
    expect(image).to_have_attribute("width", "480")
    expect(image).to_have_attribute("height", "480")
    expect(image).to_have_attribute("src", re.compile(r"/holiday-plain\.jpg$"))
    source = page.locator('#portrait source[type="image/avif"]')
    expect(source).to_have_attribute("srcset", re.compile(r"/holiday-small\.avif 240w, .*/holiday-large\.avif 640w$"))
    expect(source).to_have_attribute("sizes", "(min-width: 48rem) 26rem, 15rem")


def expect_portrait(page: Page) -> None:
    """Waits for the picture in its final form to take its place, by itself."""
    source = page.locator('#portrait source[srcset*="holiday-large.avif"][srcset*="holiday-small.avif"]')
    expect(source).to_be_attached(timeout=READY_MS)
    expect(page.locator("rindle-upload .rindle-item")).to_have_attribute("data-state", "ready", timeout=READY_MS)


def choose(page: Page, photo: Path | dict[str, Any]) -> None:
    page.get_by_label("Choose a photo").set_input_files(photo)  # type: ignore[arg-type]


def reload_until(page: Page, is_there: Callable[[], bool]) -> None:
    """What somebody without script does."""
    ends_at = time.monotonic() + READY_MS / 1000
    while not is_there():
        assert time.monotonic() < ends_at, page.content()
        page.reload()


@pytest.fixture(scope="module", params=SERVERS.values(), ids=SERVERS)
def served_by_gunicorn(request: pytest.FixtureRequest, serve_cohort: Any) -> Iterator[Any]:
    yield from serve_cohort(*request.param)


class TestPortrait:
    def test_appears_by_itself_and_fits_every_window(self, cohort, visit, sideways_photo):
        desk = visit(cohort)
        page = desk.page
        page.add_init_script(HEAR)
        desk.sign_in()
        page.evaluate("window.neverLeft = true")
        choose(page, sideways_photo)
        expect_portrait(page)

        heard = page.evaluate("heard")
        assert heard[:3] == ["added", "progress", "uploaded"]
        assert heard[-1] == "ready"
        assert set(heard) <= {"added", "progress", "uploaded", "processing", "ready"}
        expect(page.locator(".rindle-item .rindle-status")).to_have_text("Done")
        assert page.evaluate("window.neverLeft")
        assert_is_portrait(page, "holiday-large.avif", 640)

        page.reload()
        expect(page.locator("rindle-picture")).to_have_count(0)
        assert_is_portrait(page, "holiday-large.avif", 640)

        phone = visit(cohort, viewport=PHONE)
        phone.page.goto(page.url)
        assert_is_portrait(phone.page, "holiday-small.avif", 240)

    def test_says_how_far_it_is(self, cohort, visit, sideways_photo):
        desk = visit(cohort)
        desk.sign_in()
        said: list[str] = []
        desk.page.expose_function("say", lambda text: said.append(text))
        desk.page.evaluate(
            """() => new MutationObserver(() => say(document.querySelector("rindle-upload .rindle-live").textContent))
                 .observe(document.querySelector("rindle-upload .rindle-live"), {childList: true})"""
        )
        choose(desk.page, sideways_photo)
        expect_portrait(desk.page)
        steps = [text.removeprefix("holiday.jpg: ") for text in said]
        assert [step for step in steps if step in {"Checking the file", "Processing", "Done"}] == [
            "Checking the file",
            "Processing",
            "Done",
        ]

    def test_appears_after_a_reload_without_script(self, cohort, visit, sideways_photo):
        plain = visit(cohort, java_script_enabled=False)
        page = plain.page
        plain.sign_in("Emil")
        choose(page, sideways_photo)
        with page.expect_response("**/uploads/form") as answer:
            page.get_by_role("button", name="Upload").click()
        assert answer.value.status == 303
        page.wait_for_url("**/members/*")
        reload_until(page, lambda: page.locator('#portrait picture source[srcset*="holiday-large.avif"]').count() == 1)
        reload_until(page, lambda: page.locator("rindle-picture").count() == 0)
        expect(page.locator("#portrait img")).to_have_attribute("src", re.compile(r"/holiday-plain\.jpg$"))

        # Looking at pixels takes script, in whatever window.
        desk = visit(cohort)
        desk.page.goto(page.url)
        seen = look(desk.page.locator("#portrait img"))
        assert (seen["name"], seen["width"], seen["height"]) == ("holiday-large.avif", 640, 640)

    def test_stays_when_something_else_is_sent(self, cohort, visit):
        desk = visit(cohort)
        desk.sign_in("Dóra")
        before = desk.page.locator("#portrait img").get_attribute("alt")
        choose(desk.page, REFUSED)
        item = desk.page.locator("rindle-upload .rindle-item")
        expect(item).to_have_attribute("data-state", "error", timeout=READY_MS)
        expect(item).to_contain_text(REFUSAL)
        desk.page.reload()
        assert desk.page.locator("#portrait img").get_attribute("alt") == before

    def test_appears_behind_gunicorn(self, served_by_gunicorn, visit, sideways_photo):
        desk = visit(served_by_gunicorn)
        desk.sign_in()
        for _ in range(2):  # the second one, too: nothing may be left hanging from the first
            choose(desk.page, sideways_photo)
            expect_portrait(desk.page)
            assert_is_portrait(desk.page, "holiday-large.avif", 640)
            desk.page.reload()
            assert_is_portrait(desk.page, "holiday-large.avif", 640)


class TestPostPictures:
    def test_come_several_at_once(self, cohort, visit, drawn_photos):
        desk = visit(cohort)
        page = desk.page
        desk.sign_in()
        page.get_by_role("link", name="Write").click()
        page.get_by_label("Title").fill("Three squares")
        page.get_by_label("Text").fill("One red.\n\nOne green, one blue.")
        page.get_by_role("button", name="Publish").click()
        expect(page.get_by_role("status").first).to_contain_text("Your post is out")
        page.get_by_label("Choose up to six pictures").set_input_files(drawn_photos)
        items = page.locator("rindle-upload .rindle-item")
        expect(items).to_have_count(3)
        expect(page.locator('rindle-upload .rindle-item[data-state="ready"]')).to_have_count(3, timeout=READY_MS)
        images = page.locator("#gallery img")
        expect(images).to_have_count(3)
        sizes = {"one": (900, 600), "two": (700, 900), "three": (800, 800)}
        for image in images.all():
            seen = look(image)
            stem = seen["name"].partition("-")[0]
            assert seen["name"].endswith(".webp")
            assert seen["width"] / seen["height"] == pytest.approx(sizes[stem][0] / sizes[stem][1], rel=0.01)

        page.reload()
        expect(page.locator("#gallery img")).to_have_count(3)
        expect(page.locator("#gallery rindle-picture")).to_have_count(0)
        expect(page.locator("#gallery source[srcset$='w'][sizes]")).to_have_count(3)
        desk.open("/")
        expect(page.get_by_role("article").first).to_contain_text("Three squares")
        assert look(page.get_by_role("article").first.locator(".lead img"))["name"].endswith("-card.webp")

    def test_are_taken_from_the_author_alone(self, cohort, visit):
        desk = visit(cohort)
        desk.sign_in("Ada")
        desk.open("/posts/4")
        expect(desk.page.get_by_role("heading", name="The ferry")).to_be_visible()
        expect(desk.page.locator("rindle-upload")).to_have_count(0)


PATHS = ["/", "/members", "/members/3", "/posts/4", "/posts/new", "/sign-in"]


@pytest.mark.parametrize("path", PATHS)
class TestEveryPage:
    def test_is_named_and_structured(self, cohort, visit, path):
        desk = visit(cohort)
        desk.sign_in()
        desk.open(path)
        page = desk.page
        expect(page).to_have_title(re.compile("Cohort"))
        expect(page.get_by_role("main")).to_have_count(1)
        expect(page.get_by_role("banner")).to_have_count(1)
        expect(page.get_by_role("navigation", name="Main")).to_be_visible()
        expect(page.get_by_role("heading", level=1)).to_have_count(1)
        levels = page.get_by_role("heading").evaluate_all("all => all.map((heading) => Number(heading.tagName[1]))")
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels)), levels
        assert page.locator("img:not([alt])").count() == 0
        assert (
            page.locator(":is(a, button):not([hidden])").evaluate_all("all => all.filter((it) => !it.innerText.trim())")
            == []
        )
        fields = page.locator("input:not([type=hidden]), textarea, select")
        assert fields.evaluate_all("all => all.filter((field) => !field.labels.length)") == []

    def test_fits_a_small_phone(self, cohort, visit, path):
        phone = visit(cohort, viewport=PHONE)
        phone.sign_in()
        phone.open(path)
        assert phone.page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


def test_upload_is_described_to_everybody(cohort, visit, sideways_photo):
    desk = visit(cohort)
    desk.sign_in("Ada")
    page = desk.page
    field = page.get_by_label("Choose a photo")
    expect(field).to_have_accessible_description("AVIF, JPEG, PNG or WebP, up to 8 MB")
    choose(page, sideways_photo)
    item = page.get_by_role("list", name="Files").get_by_role("listitem")
    expect(item).to_contain_text("holiday.jpg")
    expect(page.locator("rindle-upload").get_by_role("status")).to_have_text("holiday.jpg: Done", timeout=READY_MS)


def test_signing_in_has_no_password_and_says_so(cohort, visit):
    desk = visit(cohort)
    desk.open("/sign-in")
    expect(desk.page.get_by_role("main")).to_contain_text("there are no passwords")
    expect(desk.page.locator("input[type=password]")).to_have_count(0)
