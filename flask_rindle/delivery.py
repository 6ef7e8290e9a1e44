"""Delivery: who may see an asset, and the URL at which it is to be had."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import get_args

from flask_rindle import signals
from flask_rindle.errors import DeliveryUnsupported, MalformedRequest, NotDeliverable, UnknownName
from flask_rindle.models.asset import Asset, Variant
from flask_rindle.models.states import DELIVERABLE, VariantState
from flask_rindle.profiles import Profile, ProfileRegistry
from flask_rindle.security.mime import OCTET_STREAM, may_show_inline
from flask_rindle.security.names import clean_filename
from flask_rindle.storage.base import Capability, LinkTerms, Storage
from flask_rindle.types import Clock, Disposition

# Links are the same for a quarter of their life, so that a browser can use its cache.
_WINDOWS_PER_TTL = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What an authorizer is asked about: an asset, one of its variants, or a bare key."""

    profile: type[Profile]
    asset: Asset | None = None
    variant: str | None = None
    key: str | None = None


class Delivery:
    """Makes URLs. The authorizer runs before any of them, for public profiles too."""

    def __init__(
        self, profiles: ProfileRegistry, storages: Mapping[str, Storage], clock: Clock, default_ttl: timedelta
    ) -> None:
        self._profiles = profiles
        self._storages = storages
        self._clock = clock
        self._default_ttl = default_ttl

    def authorize(self, asset: Asset, actor: object, *, variant: str | None = None) -> None:
        """Ask the profile's authorizer once. Raises NotAuthorized."""
        profile = self._profiles.get(asset.profile)
        profile.authorize(actor, Subject(profile=profile, asset=asset, variant=variant))

    def original_url(
        self,
        asset: Asset,
        *,
        expires_in: timedelta | None = None,
        disposition: Disposition = "inline",
        filename: str | None = None,
    ) -> str:
        """Where the verified original is; the caller has authorised. Raises NotDeliverable."""
        if asset.state not in DELIVERABLE or asset.storage_key is None:
            raise NotDeliverable(asset.id, asset.state)
        return self._link(
            self._profiles.get(asset.profile),
            self._storages[asset.storage],
            asset.storage_key,
            content_type=asset.content_type or OCTET_STREAM,
            disposition=disposition,
            filename=filename or asset.filename,
            expires_in=expires_in,
        )

    def ready_variant(self, asset: Asset, name: str) -> Variant | None:
        """The variant, if it can be delivered. Raises UnknownName for one that nobody declared or made."""
        found = next((variant for variant in asset.variants if variant.name == name), None)
        if found is None:
            if name not in self._profiles.get(asset.profile).variants:
                raise UnknownName("variant", name, self._profiles.get(asset.profile).variants)
            return None
        ready = found.state == VariantState.READY and found.storage_key is not None and asset.state in DELIVERABLE
        return found if ready else None

    def variant_url(self, asset: Asset, variant: Variant, *, expires_in: timedelta | None = None) -> str:
        """Where a ready variant is; the caller has authorised."""
        stem = PurePosixPath(asset.filename).stem
        extension = PurePosixPath(str(variant.storage_key)).suffix
        return self._link(
            self._profiles.get(asset.profile),
            self._storages[variant.storage],
            str(variant.storage_key),
            content_type=variant.content_type or OCTET_STREAM,
            disposition="inline",
            filename=f"{stem}-{variant.name}{extension}",
            expires_in=expires_in,
        )

    def fallback_url(
        self, asset: Asset, variant: str, fallback: str | None, *, expires_in: timedelta | None = None
    ) -> str:
        """What stands in for a variant that is not ready; the caller has authorised."""
        if fallback != "original":
            raise NotDeliverable(f"{asset.id}/{variant}", "not ready")
        return self.original_url(asset, expires_in=expires_in)

    def key_url(
        self,
        profile: type[Profile],
        key: str,
        *,
        actor: object,
        expires_in: timedelta | None,
        disposition: Disposition,
        filename: str | None,
    ) -> str:
        """Where the object under a bare key of a profile's storage is."""
        profile.authorize(actor, Subject(profile=profile, key=key))
        return self._link(
            profile,
            self._storages[profile.storage],
            key,
            content_type=OCTET_STREAM,
            disposition=disposition,
            filename=filename or PurePosixPath(key).name,
            expires_in=expires_in,
        )

    def _link(
        self,
        profile: type[Profile],
        storage: Storage,
        key: str,
        *,
        content_type: str,
        disposition: Disposition,
        filename: str,
        expires_in: timedelta | None,
    ) -> str:
        if disposition not in get_args(Disposition):
            raise MalformedRequest("disposition", "must be inline or attachment")
        needed = Capability.PUBLIC_URL if profile.public else Capability.SIGNED_URL
        if needed not in storage.capabilities:
            raise DeliveryUnsupported(f"storage {storage.name!r}", needed)
        terms = LinkTerms(
            expires_in=None if profile.public else expires_in or self._until_window_ends(profile),
            content_type=content_type,
            disposition=disposition if may_show_inline(content_type) else "attachment",
            filename=clean_filename(filename),
        )
        url = storage.url(key, terms)
        signals.delivery_signed.send(profile.name, storage=storage.name, public=profile.public)
        return url

    def _until_window_ends(self, profile: type[Profile]) -> timedelta:
        """A life between three quarters of the TTL and the whole, that ends when its neighbours' do."""
        ttl = self._default_ttl if profile.signed_url_ttl is None else timedelta(seconds=profile.signed_url_ttl)
        now = self._clock()
        window = max(int(ttl.total_seconds()) // _WINDOWS_PER_TTL, 1)
        end = int((now + ttl).timestamp()) // window * window
        return datetime.fromtimestamp(end, tz=now.tzinfo) - now
