"""What the documents show is run, and what they list is there."""

from __future__ import annotations

import importlib
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from PIL import Image

from flask_rindle import outbox, profiles, settings
from flask_rindle.cli import group
from flask_rindle.models import states

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.M | re.S)


def picture() -> io.BytesIO:
    data = io.BytesIO()
    Image.linear_gradient("L").resize((1600, 1200)).convert("RGB").save(data, "JPEG")
    data.seek(0)
    return data


@pytest.fixture
def readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The README's Python as a module of its own, with its page; and an app made of it."""
    page = "\n".join(blocks(README, "jinja"))
    (tmp_path / "readme_app.py").write_text("\n".join([*blocks(README, "python"), f"PAGE = {page!r}\n"]))
    monkeypatch.syspath_prepend(tmp_path)
    names = vars(importlib.import_module("readme_app"))
    app: Flask = names["create_app"](RINDLE_JOBS="inline")
    with app.app_context():
        names["db"].create_all()
        names["db"].session.add(names["User"]())
        names["db"].session.commit()
    yield {**names, "app": app}
    app.extensions["rindle"].close()
    with app.app_context():
        names["db"].session.remove()
        names["db"].engine.dispose()
    del sys.modules["readme_app"]


def test_the_readme_works_as_it_stands(readme: dict[str, Any]) -> None:
    client = readme["app"].test_client()
    page = client.get("/users/1").text
    assert "<rindle-upload" in page
    assert "<picture>" not in page
    ticket = re.search(r'name="ticket" value="([^"]+)"', page)[1]
    fields = {"ticket": ticket, "next": "/users/1", "file": (picture(), "me.jpg", "image/jpeg")}
    answer = client.post("/rindle/uploads/form", data=fields)
    assert (answer.status_code, answer.headers["Location"].partition("?")[0]) == (303, "/users/1")
    page = client.get("/users/1").text
    assert 'media="(min-width: 800px)"' in page
    assert 'width="96" height="96"' in page


def test_the_readmes_functions_work(readme: dict[str, Any], tmp_path: Path) -> None:
    app, db = readme["app"], readme["db"]
    path = tmp_path / "me.jpg"
    path.write_bytes(picture().getvalue())
    with app.app_context():
        user = db.session.get(readme["User"], 1)
        shown = readme["show"](readme["import_avatar"](user, path))
        session_id, url, headers = readme["start"]("x.jpg", path.stat().st_size)
        assert app.test_client().put(url, data=path.read_bytes(), headers=headers).status_code == 200
        assert readme["finish"](session_id).id
    for link in shown.values():
        assert app.test_client().get(link, buffered=True).status_code == 200
    assert shown["thumb"].endswith("/me-thumb.jpg")


def test_the_profiles_page_runs() -> None:
    names: dict[str, Any] = {}
    for block in blocks(ROOT / "docs" / "profiles.md", "python"):
        exec(compile(block, "profiles.md", "exec"), names)  # noqa: S102
    options = {name for name in profiles._options(names["Photo"]) if name != "name"}
    assert options <= set(vars(names["Photo"]))


def test_the_jobs_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a worker does: import the module, and find the tasks, the queues and the schedule."""
    (tmp_path / "shop.py").write_text("\n".join(blocks(ROOT / "docs" / "jobs.md", "python")))
    monkeypatch.syspath_prepend(tmp_path)
    shop = importlib.import_module("shop")
    try:
        assert "flask_rindle.run" in shop.celery_app.tasks
        assert {queue.name for queue in shop.celery_app.conf.task_queues} == {"celery", *outbox.Queue}
        assert set(shop.celery_app.conf.beat_schedule) == {"flask_rindle.republish", "flask_rindle.sweep"}
    finally:
        shop.app.extensions["rindle"].close()
        del sys.modules["shop"]


def test_the_jobs_page_tells_every_kind() -> None:
    text = (ROOT / "docs" / "jobs.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (`rindle_\w+`.*? \| \d+) \|", text, re.M))
    assert set(rows) == set(outbox.JobKind)
    for kind, policy in outbox.POLICIES.items():
        assert rows[kind].startswith(f"`{policy.queue}`")
        assert rows[kind].endswith(f"| {policy.max_attempts}")
    assert all(f"`{queue}`" in text for queue in outbox.Queue)
    assert all(f"| `{state}` |" in text for state in states.JobState)


def test_every_command_is_documented() -> None:
    text = "".join(path.read_text() for path in [README, *(ROOT / "docs").glob("*.md")])
    assert [name for name in group.commands if f"flask rindle {name}" not in text] == []


def test_every_setting_is_documented_with_its_default() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    rows = dict(re.findall(r"^\| `(RINDLE_\w+)` \| (.*?) \|", text, re.M))
    assert set(rows) == set(settings.DEFAULTS)
    for key, default in settings.DEFAULTS.items():
        if isinstance(default, int):
            assert rows[key] == f"`{default}`"
        elif default is not None:
            assert rows[key] == f'`"{default}"`'


def test_every_route_is_documented(readme: dict[str, Any]) -> None:
    text = (ROOT / "docs" / "http.md").read_text()
    routes = [rule for rule in readme["app"].url_map.iter_rules() if rule.endpoint.startswith("rindle.")]
    for rule in routes:
        if rule.endpoint == "rindle.static":
            continue
        path = re.sub(r"<(?:\w+:)?(\w+)>", lambda m: "<id>" if m[1].endswith("_id") else f"<{m[1]}>", rule.rule)
        for method in rule.methods - {"HEAD", "OPTIONS"}:
            assert f"`{method} {path.removeprefix('/rindle/')}" in text, (method, path)


def test_session_states_are_documented() -> None:
    text = (ROOT / "docs" / "http.md").read_text()
    assert all(f"`{state}`" in text for state in states.SessionState)


def test_links_between_documents_lead_somewhere() -> None:
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
            assert (path.parent / target).exists(), (path.name, target)
