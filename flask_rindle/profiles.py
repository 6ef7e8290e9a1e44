"""Profiles: what may be uploaded, what is made of it, and who may see it. Validated when the class is made."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

from flask_rindle.errors import InvalidProfile, UnknownName
from flask_rindle.processing.base import Scanner
from flask_rindle.recipes.base import Recipe
from flask_rindle.security.mime import OCTET_STREAM, canonical_type
from flask_rindle.types import MAX_SECONDS

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_EXTENSION = re.compile(r"\.[a-z0-9]{1,15}")


class Authorizer(Protocol):
    """Decides who may see what. Return to allow, raise NotAuthorized to refuse."""

    def authorize(self, actor: object, action: str, subject: object) -> None:
        """`action` is `view`; `subject` is a `flask_rindle.delivery.Subject`."""


# The arguments of a function are left open: checkers take one in a class for a method and count `self` off.
AuthorizerOption = Authorizer | Callable[..., None]


class Profile:
    """Subclass this and set the options. Wrong ones raise InvalidProfile where the class is made."""

    name: ClassVar[str]
    storage: ClassVar[str] = "default"
    allow_mime: ClassVar[Collection[str] | None] = None
    allow_extensions: ClassVar[Collection[str] | None] = None
    max_bytes: ClassVar[int | None] = None
    max_pixels: ClassVar[int | None] = None
    public: ClassVar[bool] = False
    signed_url_ttl: ClassVar[int | None] = None
    authorizer: ClassVar[AuthorizerOption | None] = None
    scanners: ClassVar[Sequence[Scanner]] = ()
    variants: ClassVar[Mapping[str, Recipe]] = MappingProxyType({})

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "name" not in vars(cls):
            cls.name = snake_case(cls.__name__)
        problems = [*_unknown_options(cls), *(p for check in _CHECKS for p in check(cls))]
        if problems:
            raise InvalidProfile(cls.__name__, problems)
        _freeze(cls)

    @classmethod
    def recipe(cls, variant: str) -> Recipe:
        """The recipe of a declared variant; UnknownName otherwise."""
        try:
            return cls.variants[variant]
        except KeyError:
            raise UnknownName("variant", variant, cls.variants) from None

    @classmethod
    def planned_for(cls, kind: str) -> dict[str, Recipe]:
        """The variants that can be made from an asset of this kind, by name in order."""
        return {name: recipe for name, recipe in sorted(cls.variants.items()) if kind in recipe.source_kinds}

    @classmethod
    def authorize(cls, actor: object, subject: object) -> None:
        """Ask the profile's authorizer, if it has one. Raises NotAuthorized."""
        chosen = vars_of(cls, "authorizer")
        if chosen is not None:
            getattr(chosen, "authorize", chosen)(actor, "view", subject)


def vars_of(cls: type, name: str) -> Any:
    """A class attribute as it was written: a plain function is not bound to the class."""
    value = next(vars(base)[name] for base in cls.__mro__ if name in vars(base))
    return value.__func__ if isinstance(value, staticmethod) else value


def snake_case(name: str) -> str:
    """`TeamPhoto` → `team_photo`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _freeze(cls: type[Profile]) -> None:
    if cls.allow_mime is not None:
        cls.allow_mime = frozenset(canonical_type(t) for t in cls.allow_mime)
    if cls.allow_extensions is not None:
        cls.allow_extensions = frozenset(e.lower() for e in cls.allow_extensions)
    cls.scanners = tuple(cls.scanners)
    cls.variants = MappingProxyType(dict(sorted(cls.variants.items())))


def _options(cls: type[Profile]) -> set[str]:
    return {name for base in cls.__mro__ for name in getattr(base, "__annotations__", {})}


def _written(cls: type[Profile], option: str) -> Any:
    """An option as its author wrote it, which need not be what its annotation says."""
    return getattr(cls, option)


def _unknown_options(cls: type[Profile]) -> Iterable[str]:
    known = _options(cls)
    for name, value in vars(cls).items():
        if name.startswith("_") or name in known or isinstance(value, (classmethod, staticmethod, property, type)):
            continue
        near = difflib.get_close_matches(name, known, n=1)
        yield f"{name} is no option of a profile; " + (f"write {near[0]}" if near else f"there are {sorted(known)}")


def _check_name(cls: type[Profile]) -> Iterable[str]:
    name, storage = _written(cls, "name"), _written(cls, "storage")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        yield f"name={name!r}: write lower-case letters, digits and _, beginning with a letter"
    if not isinstance(storage, str) or not storage:
        yield f"storage={storage!r}: write a name of RINDLE_STORAGES"


def _check_types(cls: type[Profile]) -> Iterable[str]:
    for option, example in (("allow_mime", '{"image/png"}'), ("allow_extensions", '{".png"}')):
        given = _written(cls, option)
        if given is None:
            continue
        if isinstance(given, str) or not isinstance(given, Collection) or not given:
            yield f"{option}={given!r}: write a set such as {example}, or None to accept any"
            continue
        yield from _check_members(option, given, example)


def _check_members(option: str, given: Collection[object], example: str) -> Iterable[str]:
    for member in given:
        text = member.lower() if isinstance(member, str) else ""
        if option == "allow_mime":
            fine = canonical_type(text) != OCTET_STREAM or text == OCTET_STREAM
        else:
            fine = _EXTENSION.fullmatch(text) is not None
        if not fine:
            yield f"{option} has {member!r}: write it like {example}"


def _check_limits(cls: type[Profile]) -> Iterable[str]:
    for option, unit in (("max_bytes", "bytes"), ("max_pixels", "pixels"), ("signed_url_ttl", "seconds")):
        given = _written(cls, option)
        if given is not None and (type(given) is not int or given < 1):
            yield f"{option}={given!r}: write a whole number of {unit} above 0, or None"
        elif option == "signed_url_ttl" and given is not None and given > MAX_SECONDS:
            yield f"{option}={given!r}: write at most {MAX_SECONDS} seconds, or set public = True for permanent links"
    public = _written(cls, "public")
    if type(public) is not bool:
        yield f"public={public!r}: write True or False"


def _check_hooks(cls: type[Profile]) -> Iterable[str]:
    authorizer = vars_of(cls, "authorizer")
    if authorizer is not None and not callable(getattr(authorizer, "authorize", authorizer)):
        yield f"authorizer={authorizer!r}: write a function of (actor, action, subject), or an object with authorize()"
    scanners = _written(cls, "scanners")
    if not isinstance(scanners, Sequence) or isinstance(scanners, str):
        yield f"scanners={scanners!r}: write a list of scanners"
        return
    for scanner in scanners:
        if not callable(getattr(scanner, "scan", None)) or not isinstance(getattr(scanner, "name", None), str):
            yield f"scanners has {scanner!r}: write an object with a name and scan(path)"


def _check_variants(cls: type[Profile]) -> Iterable[str]:
    variants = _written(cls, "variants")
    if not isinstance(variants, Mapping):
        yield f'variants={variants!r}: write a dict such as {{"thumb": image.fit(128, 128)}}'
        return
    for name, recipe in variants.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            yield f"variant name {name!r}: write lower-case letters, digits and _, beginning with a letter"
        if name == "original":
            yield "variant name 'original': that is the upload itself; choose another name"
        if not isinstance(recipe, Recipe):
            yield f"variant {name!r} is {recipe!r}: write a recipe such as image.fit(128, 128)"


_CHECKS = (_check_name, _check_types, _check_limits, _check_hooks, _check_variants)


class ProfileRegistry:
    """The profiles of one app by stored name; names from the database are only ever looked up here."""

    def __init__(self, profiles: Iterable[type[Profile]]) -> None:
        self._by_name = {profile.name: profile for profile in profiles}

    def get(self, profile: type[Profile] | str) -> type[Profile]:
        """The profile with this name, or the class itself if it is registered; UnknownName otherwise."""
        name = profile if isinstance(profile, str) else getattr(profile, "name", repr(profile))
        found = self._by_name.get(name)
        if found is None or (not isinstance(profile, str) and found is not profile):
            raise UnknownName("profile", name, self._by_name)
        return found

    def __iter__(self) -> Iterator[type[Profile]]:
        return iter(self._by_name.values())
