"""Each call of a storage fails once, in every way: the upload ends well all the same, and nothing is left over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from direct_sites import Answer, Picture, Site

from flask_rindle.errors import StorageDenied, StorageUnavailable
from flask_rindle.models import Asset, UploadSession
from flask_rindle.testing.clock import FrozenClock
from flask_rindle.testing.faults import Fault, ReplyLost, scripted

VERBS = (
    "put",
    "read",
    "stat",
    "delete",
    "save_to",
    "promote",
    "presign_put",
    "start_parts",
    "presign_part",
    "list_parts",
    "complete_parts",
    "abort_parts",
    "start_resumable",
    "resumable_progress",
    "cancel_resumable",
)
FAULTS: dict[str, Fault] = {
    "does not answer": StorageUnavailable("default", "key"),
    "refuses for now": StorageDenied("default", "key"),
    "loses its reply": ReplyLost(StorageUnavailable("default", "key")),
}
PATIENCE = 8


@contextmanager
def counted(storage: Any) -> Iterator[Counter[str]]:
    """How often each verb is called meanwhile."""
    calls: Counter[str] = Counter()

    def counting(verb: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[verb] += 1
            return real(*args, **kwargs)

        return call

    with replaced(storage, {verb: counting(verb, getattr(storage, verb)) for verb in VERBS if hasattr(storage, verb)}):
        yield calls


@contextmanager
def replaced(storage: Any, verbs: dict[str, Callable[..., Any]]) -> Iterator[None]:
    vars(storage).update(verbs)
    try:
        yield
    finally:
        for verb in verbs:
            del vars(storage)[verb]


def again(site: Site, ask: Callable[[], Any]) -> Any:
    """What a patient client does: the same request, as long as the server has trouble."""
    for _ in range(PATIENCE):
        answer = ask()
        if answer.status_code < 500:
            return answer
    raise AssertionError(answer.json)


def put_whole(site: Site, http: Callable[..., Answer], data: bytes) -> None:
    headers = site.ticket(max_files=PATIENCE)
    opened = again(site, lambda: site.open(headers, data)).json
    upload = opened["upload"]
    assert http(upload["method"], upload["url"], upload["headers"], data).status == 200
    again(site, lambda: site.client.post(f"/rindle/uploads/{opened['id']}/complete", headers=headers))


def put_parts(site: Site, http: Callable[..., Answer], data: bytes) -> None:
    headers = site.ticket(max_files=PATIENCE)
    opened = again(site, lambda: site.open(headers, data)).json
    assert opened["strategy"] == "multipart"
    url = f"/rindle/uploads/{opened['id']}"
    again(site, lambda: site.client.get(url, headers=headers))
    (part,) = again(site, lambda: site.client.post(f"{url}/parts", json={"numbers": [1]}, headers=headers)).json[
        "parts"
    ]
    assert http("PUT", part["url"], part["headers"], data).status == 200
    assert again(site, lambda: site.client.post(f"{url}/complete", headers=headers)).status_code == 200


def send_on(site: Site, http: Callable[..., Answer], data: bytes) -> None:
    headers = site.ticket(max_files=PATIENCE)
    opened = again(site, lambda: site.open(headers, data)).json
    assert opened["strategy"] == "resumable"
    url = f"/rindle/uploads/{opened['id']}"
    uri = again(site, lambda: site.client.get(url, headers=headers)).json["upload"]["url"]
    assert http("PUT", uri, {}, data).status == 200
    assert again(site, lambda: site.client.post(f"{url}/complete", headers=headers)).status_code == 200


def cancel(site: Site, http: Callable[..., Answer], data: bytes) -> None:
    """An upload that is given up half-way; then another that is not."""
    headers = site.ticket(max_files=PATIENCE)
    opened = again(site, lambda: site.open(headers, data)).json
    again(site, lambda: site.client.delete(f"/rindle/uploads/{opened['id']}", headers=headers))
    put_whole(site, http, data)


ROADS = {
    "s3 whole": ("s3_site", put_whole, None),
    "s3 parts": ("s3_site", put_parts, 1),
    "s3 cancelled": ("s3_site", cancel, None),
    "gcs whole": ("gcs_site", put_whole, None),
    "gcs resumable": ("gcs_site", send_on, 1),
    "gcs cancelled": ("gcs_site", cancel, None),
}


def settle(site: Site, clock: FrozenClock) -> None:
    """Time passes until all that is put off has been done."""
    for _ in range(PATIENCE):
        site.drain()
        clock.tick(hours=25)
    site.drain()


def remove_all(site: Site) -> None:
    with site.engine.database.transaction() as db_session:
        for asset in db_session.query(Asset):
            site.engine.attachments.remove(db_session, asset)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("road", ROADS)
def test_every_call_may_fail_once(
    request: pytest.FixtureRequest,
    http: Callable[..., Answer],
    png: Callable[..., bytes],
    clock: FrozenClock,
    monkeypatch: pytest.MonkeyPatch,
    road: str,
    fault: str,
) -> None:
    name, story, large_from = ROADS[road]
    if large_from is not None:
        monkeypatch.setattr("flask_rindle.uploads.strategies.LARGE_BYTES", large_from)
    site: Site = request.getfixturevalue(name)(profiles=[Picture])
    data = png()
    with counted(site.storage) as calls:
        story(site, http, data)
        settle(site, clock)
    assert calls["promote"] + calls["complete_parts"] + calls["start_resumable"] > 0
    assert calls["put"] == 1, "the thumbnail"
    check(site, data)
    for verb, times in calls.items():
        for nth in range(times):
            remove_all(site)
            settle(site, clock)
            assert (site.look(), site.open_uploads()) == ({}, 0)
            with replaced(site.storage, {verb: scripted(getattr(site.storage, verb), [*[None] * nth, FAULTS[fault]])}):
                story(site, http, data)
                settle(site, clock)
            # Of an upload whose URI nobody has learned Google keeps no bytes, and forgets it after a week.
            unknown = verb == "start_resumable" and fault == "loses its reply"
            check(site, data, f"{verb} number {nth + 1} {fault}", open_uploads=int(unknown))
            site.forget_uploads()


def check(site: Site, data: bytes, when: str = "", *, open_uploads: int = 0) -> None:
    """One asset that is ready, its bytes and its thumbnail, and not a byte more."""
    with site.engine.database.reading() as db_session:
        (asset,) = db_session.query(Asset)
        assert asset.state == "ready", when
        sessions = db_session.query(UploadSession).all()
        assert {session.state for session in sessions if session.asset_id is not None} == {"completed"}, when
        unnamed = [session.id for session in sessions if session.state == "failed" and session.error_code is None]
        assert unnamed == [], f"{when}: a failure that says nothing"
        keys = sorted([asset.storage_key, *(variant.storage_key for variant in asset.variants)])
    assert b"".join(site.storage.read(asset.storage_key)) == data, when
    assert sorted(site.look()) == keys, when
    assert site.open_uploads() == open_uploads, when
