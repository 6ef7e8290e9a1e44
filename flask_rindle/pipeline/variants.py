"""Variants: everything an asset still lacks, from one download and one decode.

Rows stay independent: one that fails leaves its siblings alone. Publishing is a compare-and-set on
the source's etag and the recipe's digest; who loses removes the bytes that it wrote.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from sqlalchemy import and_, exists, select
from sqlalchemy.orm import Session

from flask_rindle.errors import (
    Cancelled,
    Discarded,
    LifecycleError,
    LostRace,
    MediaUnsupported,
    RindleError,
    UnknownName,
)
from flask_rindle.lifecycle import move, roll_up
from flask_rindle.models.asset import Asset, Variant
from flask_rindle.models.states import DELIVERABLE, VariantState
from flask_rindle.outbox import Claim, error_code, error_text
from flask_rindle.pipeline.tools import Tools
from flask_rindle.processing.base import Failed, Made, Order, Processor, Stop
from flask_rindle.security.mime import extension_for
from flask_rindle.security.names import variant_key
from flask_rindle.storage.base import StoredObject


class VariantWork:
    """The step of `JobKind.VARIANTS`."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    def run(self, claim: Claim, stop: Stop) -> None:
        """Make what is queued. Raises the first error that is worth another attempt."""
        taken = self._take(claim.asset_id)
        if taken is not None:
            asset, variants = taken
            self._settle(claim, asset, variants, self._make(asset, variants, stop))

    def give_up(self, claim: Claim, error: Exception) -> None:
        """No attempt is left: what still waits has failed."""
        # Undone as a whole when the job is somebody else's by now.
        with suppress(LostRace), self._tools.database.transaction() as db_session:
            waiting = (VariantState.QUEUED, VariantState.PROCESSING)
            query = select(Variant).where(Variant.asset_id == claim.asset_id, Variant.state.in_(waiting))
            for variant in db_session.scalars(query.order_by(Variant.name)):
                # Whoever cancelled it meanwhile has decided what becomes of it.
                with suppress(LostRace):
                    if variant.state == VariantState.QUEUED:
                        move(db_session, variant, VariantState.PROCESSING, now=self._tools.clock())
                    self._fail(db_session, variant, error)
            roll_up(db_session, claim.asset_id, now=self._tools.clock())
            # What was asked for while this attempt ran has attempts of its own.
            self._require_ours(db_session, claim, to_the_end=True)

    def _take(self, asset_id: uuid.UUID) -> tuple[Asset, dict[str, Variant]] | None:
        """The asset and what is to be made of it; a worker before us may have died over it.

        Raises Discarded when the asset is gone.
        """
        now = self._tools.clock()
        with self._tools.database.transaction() as db_session:
            asset = db_session.get(Asset, asset_id)
            if asset is None or asset.state not in DELIVERABLE:
                raise Discarded("the asset is gone")
            # Everybody locks an asset's variants in the order of their names, and the asset after them.
            query = (
                select(Variant)
                .where(Variant.asset_id == asset_id, Variant.state.in_((VariantState.QUEUED, VariantState.PROCESSING)))
                .order_by(Variant.name)
            )
            variants = {variant.name: variant for variant in db_session.scalars(query)}
            recipes = self._tools.profiles.get(asset.profile).variants
            for variant in variants.values():
                if variant.name in recipes:
                    # The recipe may have changed while the job waited; what is made is today's.
                    variant.recipe_digest = recipes[variant.name].digest
                move(db_session, variant, VariantState.PROCESSING, now=now)
            roll_up(db_session, asset_id, now=now)
        return (asset, variants) if variants else None

    def _make(self, asset: Asset, variants: Mapping[str, Variant], stop: Stop) -> list[Made | Failed]:
        """One answer a variant, published where it was made."""
        with self._tools.run_dir() as directory:
            source = directory / "source"
            try:
                self._tools.storages[asset.storage].save_to(str(asset.storage_key), source)
            except RindleError as error:
                return [Failed(name=name, error=error) for name in variants]
            by_processor, answers = self._orders(asset, variants, directory)
            for processor, orders in by_processor.items():
                made = self._ask(processor, asset, source, orders, stop=stop)
                answers += [self._store(asset, variants[answer.name], answer, directory) for answer in made]
            return answers

    def _ask(
        self, processor: Processor, asset: Asset, source: Path, orders: Sequence[Order], *, stop: Stop
    ) -> Sequence[Made | Failed]:
        """The processor's answers; an error about the source is one about every order."""
        max_pixels = self._tools.profiles.get(asset.profile).max_pixels
        try:
            return processor.process(source, str(asset.content_type), orders, max_pixels=max_pixels, stop=stop)
        except RindleError as error:
            return [Failed(name=order.name, error=error) for order in orders]

    def _orders(
        self, asset: Asset, variants: Mapping[str, Variant], directory: Path
    ) -> tuple[dict[Processor, list[Order]], list[Made | Failed]]:
        profile = self._tools.profiles.get(asset.profile)
        orders: dict[Processor, list[Order]] = {}
        refused: list[Made | Failed] = []
        for name in variants:
            try:
                recipe = profile.recipe(name)
                order = Order(name=name, recipe=recipe, target=directory / f"{name}.out")
                orders.setdefault(self._tools.processor_for(recipe), []).append(order)
            except (UnknownName, MediaUnsupported) as error:
                refused.append(Failed(name=name, error=error))
        return orders, refused

    def _store(self, asset: Asset, variant: Variant, answer: Made | Failed, directory: Path) -> Made | Failed:
        """Put the bytes under their key and publish the row; an error of this variant is its own."""
        if isinstance(answer, Failed):
            return answer
        extension = extension_for(answer.content_type)
        key = variant_key(asset.profile, asset.id, variant.name, variant.recipe_digest, extension)
        before = variant.storage_key
        try:
            with (directory / f"{variant.name}.out").open("rb") as source:
                stored = self._tools.storages[variant.storage].put(
                    key, source, content_type=answer.content_type, public=self._tools.profiles.get(asset.profile).public
                )
            self._publish(asset, variant, answer, stored)
            if before not in (None, stored.key):
                # Made by an older recipe; from now on no row names it.
                self._tools.storages[variant.storage].delete(str(before))
        except RindleError as error:
            return Failed(name=variant.name, error=error)
        return answer

    def _publish(self, asset: Asset, variant: Variant, made: Made, stored: StoredObject) -> None:
        now = self._tools.clock()
        same_source = exists().where(Asset.id == asset.id, Asset.etag == asset.etag, Asset.state.in_(DELIVERABLE))
        try:
            with self._tools.database.transaction() as db_session:
                move(
                    db_session,
                    variant,
                    VariantState.READY,
                    now=now,
                    only_if=and_(Variant.recipe_digest == variant.recipe_digest, same_source),
                    storage_key=stored.key,
                    etag=stored.etag,
                    content_type=made.content_type,
                    byte_size=stored.size_bytes,
                    width=made.width,
                    height=made.height,
                    generated_at=now,
                    error_code=None,
                    error_detail=None,
                )
                roll_up(db_session, asset.id, now=now)
        except LifecycleError:
            self._remove_if_unwanted(variant, stored.key)
            raise

    def _remove_if_unwanted(self, variant: Variant, key: str) -> None:
        """Delete what we wrote, unless another worker is at, or done with, the very same bytes."""
        wanted = (VariantState.QUEUED, VariantState.PROCESSING, VariantState.READY, VariantState.STALE)
        alive = exists().where(Asset.id == Variant.asset_id, Asset.state.in_(DELIVERABLE))
        same = select(Variant.id).where(
            Variant.id == variant.id, Variant.recipe_digest == variant.recipe_digest, Variant.state.in_(wanted), alive
        )
        with self._tools.database.reading() as db_session:
            keep = db_session.scalar(same) is not None
        if not keep:
            self._tools.storages[variant.storage].delete(key)

    def _settle(
        self, claim: Claim, asset: Asset, variants: Mapping[str, Variant], results: Iterable[Made | Failed]
    ) -> None:
        errors = {answer.name: answer.error for answer in results if isinstance(answer, Failed)}
        troubled = {name: variants[name] for name in sorted(errors) if not isinstance(errors[name], LifecycleError)}
        overtaken = list(troubled.values())
        try:
            overtaken = self._put_back(claim, troubled, errors)
        finally:
            # All of them when the job is somebody else's by now, and with it what becomes of its variants.
            for variant in overtaken:
                self._remove_what_was_stored(asset, variant)
        for error in errors.values():
            if _passes_by(error):
                raise error

    def _put_back(
        self, claim: Claim, variants: Mapping[str, Variant], errors: Mapping[str, RindleError]
    ) -> list[Variant]:
        """Have them made again, or fail them; those that somebody else has moved. Raises LostRace."""
        overtaken: list[Variant] = []
        with self._tools.database.transaction() as db_session:
            for name, variant in variants.items():
                try:
                    self._put_back_or_fail(db_session, variant, errors[name])
                except LostRace:
                    # Whoever cancelled it meanwhile has decided what becomes of it.
                    overtaken.append(variant)
            roll_up(db_session, claim.asset_id, now=self._tools.clock())
            self._require_ours(db_session, claim)
        return overtaken

    def _remove_what_was_stored(self, asset: Asset, variant: Variant) -> None:
        """Remove what was stored before the trouble that kept it from being published."""
        with suppress(UnknownName):
            extension = extension_for(self._tools.profiles.get(asset.profile).recipe(variant.name).content_type)
            key = variant_key(asset.profile, asset.id, variant.name, variant.recipe_digest, extension)
            self._remove_if_unwanted(variant, key)

    def _require_ours(self, db_session: Session, claim: Claim, *, to_the_end: bool = False) -> None:
        """Raises LostRace, which undoes the transaction, when another worker is at these variants by now."""
        if not self._tools.outbox.is_held(db_session, claim, to_the_end=to_the_end):
            raise LostRace("job", claim.id)

    def _put_back_or_fail(self, db_session: Session, variant: Variant, error: RindleError) -> None:
        if _passes_by(error):
            move(db_session, variant, VariantState.QUEUED, now=self._tools.clock())
        else:
            self._fail(db_session, variant, error)

    def _fail(self, db_session: Session, variant: Variant, error: Exception) -> None:
        code, detail = error_code(error), error_text(error)
        now = self._tools.clock()
        move(db_session, variant, VariantState.FAILED, now=now, error_code=code, error_detail=detail)


def _passes_by(error: RindleError) -> bool:
    """Whether the same work may succeed later; a lost race is settled already."""
    return isinstance(error, Cancelled) or (error.retryable and not isinstance(error, LifecycleError))
