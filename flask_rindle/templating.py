"""What the macros print: the data of upload forms and pictures, and the JSON twin of it."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from flask import has_request_context, request, url_for
from sqlalchemy import inspect

from flask_rindle.engine import Engine, current_engine
from flask_rindle.errors import ExpiredToken, InvalidToken, NotAuthorized, NotFound, format_bytes, type_name
from flask_rindle.models.asset import Asset, Variant
from flask_rindle.models.states import DELIVERABLE, SETTLED, AssetState
from flask_rindle.profiles import Profile
from flask_rindle.security.mime import may_show_inline
from flask_rindle.security.tokens import Purpose
from flask_rindle.slots import Slot, ticket_for
from flask_rindle.types import life
from flask_rindle.uploads.tickets import Ticket

VIEW_TTL = timedelta(hours=1)
NOTICE_TTL = timedelta(minutes=10)
# The query parameter with which a form without script hears what became of its file.
NOTICE_PARAMETER = "rindle"
PENDING_NOTICE = "The file has arrived and is being checked. Reload the page to see it."
# The first that a browser knows wins, so the best compression stands first.
_FORMAT_ORDER = ("image/avif", "image/webp", "image/png", "image/jpeg")

VariantChoice = str | tuple[str, str] | list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A `<source>` of a picture."""

    type: str
    srcset: str = field(repr=False)
    sizes: str | None
    media: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Img:
    """The `<img>` of a picture; width and height are those of `src`, in pixels."""

    src: str = field(repr=False)
    srcset: str | None = field(repr=False)
    sizes: str | None
    width: int | None
    height: int | None
    alt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A responsive picture."""

    sources: tuple[Source, ...]
    img: Img


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """Where to hear that an asset has become ready."""

    events_url: str = field(repr=False)
    state_url: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why an asset was refused."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureData:
    """What the picture macro prints."""

    picture: Picture | None = None
    pending: Pending | None = None
    error: Problem | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What became of the file that this form sent last, without script."""

    is_refusal: bool
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadData:
    """What the upload macro prints."""

    ticket: str = field(repr=False)
    form_url: str
    uploads_url: str
    accept: str | None
    max_bytes: int | None
    hint: str | None
    next: str
    field_id: str
    multiple: bool
    notice: Notice | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetUrls:
    """The script and the style sheet."""

    script: str
    style: str


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How a page wants to show an asset: travels in tickets and view tokens."""

    variants: tuple[tuple[str, str | None], ...] = ()
    alt: str = ""
    sizes: str | None = None

    @classmethod
    def of(cls, *, variants: Sequence[VariantChoice] = (), alt: str = "", sizes: str | None = None) -> View:
        """From what template authors write: names, or pairs of name and media query."""
        pairs = [(choice, None) if isinstance(choice, str) else (choice[0], choice[1]) for choice in variants]
        return cls(variants=tuple(pairs), alt=alt, sizes=sizes)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any] | None) -> View:
        """Back from JSON."""
        plain = plain or {}
        pairs = tuple((name, media) for name, media in plain.get("variants", ()))
        return cls(variants=pairs, alt=plain.get("alt", ""), sizes=plain.get("sizes"))

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {"variants": [list(pair) for pair in self.variants], "alt": self.alt, "sizes": self.sizes}


class RindleTemplates:
    """The one Jinja global; the macros of `rindle/macros.html` stand on it."""

    def asset_urls(self) -> AssetUrls:
        """Where the browser side is."""
        return AssetUrls(
            script=url_for("rindle.static", filename="rindle.js"),
            style=url_for("rindle.static", filename="rindle.css"),
        )

    def upload(
        self,
        profile: type[Profile] | str,
        *,
        owner: object = None,
        slot: str | None = None,
        actor: str | None = None,
        max_files: int = 1,
        expires_in: int = 3600,
        next: str | None = None,  # noqa: A002 - the field's name in the form
        picture: Mapping[str, Any] | None = None,
    ) -> UploadData:
        """A ticket, and all that a form needs around it."""
        engine = current_engine()
        declared = engine.profiles.get(profile)
        ticket = ticket_for(
            engine,
            declared,
            owner=owner,
            slot=slot,
            actor=actor,
            max_files=max_files,
            view=View.of(**picture).plain() if picture else None,
        )
        return UploadData(
            ticket=engine.tickets.issue(ticket, expires_in=life("expires_in", expires_in)),
            form_url=url_for("rindle.upload_form"),
            uploads_url=url_for("rindle.open_upload"),
            accept=", ".join(sorted(declared.allow_mime)) if declared.allow_mime else None,
            max_bytes=declared.max_bytes,
            hint=hint_for(declared),
            next=next or _this_page(),
            field_id=f"rindle-{secrets.token_hex(6)}",
            multiple=max_files > 1,
            notice=_notice(engine, ticket),
        )

    def picture(
        self,
        asset: Asset | Slot | None,
        *,
        variants: Sequence[VariantChoice] = (),
        alt: str = "",
        sizes: str | None = None,
    ) -> PictureData:
        """The picture as it can be shown now, and where to hear of a better one."""
        shown = asset.asset if isinstance(asset, Slot) else asset
        if shown is None:
            return PictureData()
        return picture_data(current_engine(), shown, View.of(variants=variants, alt=alt, sizes=sizes))


def _this_page() -> str:
    """The path of the page that is being rendered, to come back to."""
    if not has_request_context():
        return "/"
    return without_notice(request.full_path.rstrip("?"))


def without_notice(path: str) -> str:
    """The path without the parameter of an earlier form."""
    parts = urlsplit(path)
    kept = [(key, value) for key, value in parse_qsl(parts.query, keep_blank_values=True) if key != NOTICE_PARAMETER]
    return urlunsplit(parts._replace(query=urlencode(kept)))


def with_notice(engine: Engine, path: str, ticket: Ticket, asset_id: uuid.UUID) -> str:
    """The path, with a token by which the form of the same ticket's place tells what became of its file."""
    payload = {"asset": asset_id.hex, "place": _place(ticket)}
    token = engine.tokens.sign(Purpose.NOTICE, payload, expires_at=engine.clock() + NOTICE_TTL)
    parts = urlsplit(without_notice(path))
    query = "&".join(part for part in (parts.query, urlencode({NOTICE_PARAMETER: token})) if part)
    return urlunsplit(parts._replace(query=query))


def _place(ticket: Ticket) -> list[str | None]:
    owner = ticket.owner
    return [ticket.profile, None if owner is None else owner.type, None if owner is None else owner.id, ticket.slot]


def _notice(engine: Engine, ticket: Ticket) -> Notice | None:
    """What the visitor of a form without script has to know, if this is the form."""
    token = request.args.get(NOTICE_PARAMETER) if has_request_context() else None
    if token is None:
        return None
    try:
        payload = engine.tokens.open(Purpose.NOTICE, token)
        asset = engine.feed.asset(uuid.UUID(payload["asset"]))
    except (InvalidToken, ExpiredToken, NotFound):
        return None
    if payload["place"] != _place(ticket):
        return None
    if asset.state == AssetState.QUARANTINED:
        return Notice(is_refusal=True, text=asset.error_detail or "")
    return None if asset.state in SETTLED else Notice(is_refusal=False, text=PENDING_NOTICE)


def hint_for(profile: type[Profile]) -> str | None:
    """What may be sent, in words: `JPEG, PNG or WebP, up to 8 MB`."""
    names = sorted(type_name(content_type) for content_type in profile.allow_mime or ())
    listed = " or ".join(part for part in (", ".join(names[:-1]), names[-1]) if part) if names else ""
    limit = f"up to {format_bytes(profile.max_bytes)}" if profile.max_bytes else ""
    text = ", ".join(part for part in (listed, limit) if part)
    return (text[0].upper() + text[1:]) if text else None


def picture_data(engine: Engine, asset: Asset, view: View) -> PictureData:
    """What to show of an asset, after asking its authorizer once. Nothing, where that says no."""
    try:
        engine.delivery.authorize(asset, engine.host.actor())
    except NotAuthorized:
        return PictureData()
    if asset.state == AssetState.QUARANTINED:
        return PictureData(error=Problem(code=asset.error_code or "", detail=asset.error_detail or ""))
    is_settled = asset.state in SETTLED
    return PictureData(
        picture=_picture(engine, _with_variants(engine, asset), view),
        pending=None if is_settled else pending(engine, asset.id, view),
    )


def _with_variants(engine: Engine, asset: Asset) -> Asset:
    """The asset, if its variants are loaded or can be; else a fresh copy."""
    state = inspect(asset)
    return engine.feed.asset(asset.id) if state.detached and "variants" in state.unloaded else asset


def pending(engine: Engine, asset_id: uuid.UUID, view: View) -> Pending:
    """Links to hear of changes, for somebody who may see the asset."""
    expires_at = engine.clock() + VIEW_TTL
    seen = engine.tokens.sign(Purpose.VIEW, {"asset": asset_id.hex, "view": view.plain()}, expires_at=expires_at)
    heard = events_token(engine, [asset_id], expires_in=VIEW_TTL)
    return Pending(
        events_url=url_for("rindle.events", token=heard),
        state_url=url_for("rindle.show_asset_state", asset_id=asset_id, token=seen),
    )


def events_token(engine: Engine, assets: Sequence[uuid.UUID], *, expires_in: timedelta) -> str:
    """A token to hear the changes of these assets with."""
    payload = {"assets": [asset_id.hex for asset_id in assets]}
    return engine.tokens.sign(Purpose.EVENTS, payload, expires_at=engine.clock() + expires_in)


def open_view(engine: Engine, token: str, asset_id: uuid.UUID) -> View:
    """The view that a state link was made for. Raises InvalidToken, ExpiredToken."""
    payload = engine.tokens.open(Purpose.VIEW, token)
    if payload["asset"] != asset_id.hex:
        raise InvalidToken("view")
    return View.from_plain(payload["view"])


def asset_state(engine: Engine, asset_id: uuid.UUID, view: View) -> dict[str, Any]:
    """Where an asset stands, as JSON for the browser."""
    try:
        asset = engine.feed.asset(asset_id)
    except NotFound:
        return _gone(asset_id)
    data = picture_data(engine, asset, view)
    return {
        "asset_id": str(asset.id),
        "state": asset.state,
        "settled": asset.state in SETTLED,
        "variants": {variant.name: variant.state for variant in asset.variants},
        "picture": None if data.picture is None else asdict(data.picture),
        "error": None if data.error is None else asdict(data.error),
    }


def _gone(asset_id: uuid.UUID) -> dict[str, Any]:
    return {
        "asset_id": str(asset_id),
        "state": AssetState.DELETED.value,
        "settled": True,
        "variants": {},
        "picture": None,
        "error": None,
    }


def _picture(engine: Engine, asset: Asset, view: View) -> Picture | None:
    if asset.state not in DELIVERABLE:
        return None
    ready = [(engine.delivery.ready_variant(asset, name), media) for name, media in view.variants]
    shown = [(variant, media) for variant, media in ready if variant is not None]
    plain = [variant for variant, media in shown if media is None]
    sources = [_source(engine, asset, [variant], media, view.sizes) for variant, media in shown if media is not None]
    groups = _by_format(plain)
    sources += [_source(engine, asset, group, None, view.sizes) for group in groups[:-1]]
    img = _img(engine, asset, groups[-1], view) if groups else _original(engine, asset, view)
    return None if img is None else Picture(sources=tuple(sources), img=img)


def _by_format(variants: Sequence[Variant]) -> list[list[Variant]]:
    """Variants of one type together, narrowest first; the type that every browser knows stands last."""
    types = sorted({str(v.content_type) for v in variants}, key=_format_rank)
    same = [[v for v in variants if v.content_type == content_type] for content_type in types]
    return [sorted(group, key=lambda v: v.width or 0) for group in same]


def _format_rank(content_type: str) -> int:
    return _FORMAT_ORDER.index(content_type) if content_type in _FORMAT_ORDER else len(_FORMAT_ORDER)


def _srcset(engine: Engine, asset: Asset, variants: Sequence[Variant]) -> str:
    urls = [(engine.delivery.variant_url(asset, variant), variant.width) for variant in variants]
    return urls[0][0] if len(urls) == 1 else ", ".join(f"{url} {width}w" for url, width in urls)


def _source(engine: Engine, asset: Asset, variants: Sequence[Variant], media: str | None, sizes: str | None) -> Source:
    return Source(
        type=str(variants[0].content_type),
        srcset=_srcset(engine, asset, variants),
        sizes=(sizes or "100vw") if len(variants) > 1 else None,
        media=media,
    )


def _img(engine: Engine, asset: Asset, variants: Sequence[Variant], view: View) -> Img:
    widest = variants[-1]
    several = len(variants) > 1
    return Img(
        src=engine.delivery.variant_url(asset, widest),
        srcset=_srcset(engine, asset, variants) if several else None,
        sizes=(view.sizes or "100vw") if several else None,
        width=widest.width,
        height=widest.height,
        alt=view.alt,
    )


def _original(engine: Engine, asset: Asset, view: View) -> Img | None:
    """The upload itself, while there is nothing smaller and if a browser can show it."""
    if asset.kind != "image" or not may_show_inline(asset.content_type or ""):
        return None
    url = engine.delivery.original_url(asset)
    return Img(src=url, srcset=None, sizes=None, width=asset.width, height=asset.height, alt=view.alt)
