"""Profiles are checked where they are written, whole, and cannot be changed afterwards."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest

from flask_rindle import Profile, image, video
from flask_rindle.errors import InvalidProfile, NotAuthorized, UnknownName
from flask_rindle.processing.base import Clean
from flask_rindle.profiles import ProfileRegistry, snake_case


def declare(base: type[Profile] = Profile, **options: Any) -> type[Profile]:
    return type("Photo", (base,), options)


class Scanner:
    name = "clamav"

    def scan(self, source: object) -> Clean:
        return Clean()


class TestOptions:
    def test_have_defaults_that_let_private_files_of_any_type_in(self) -> None:
        profile = declare()
        assert (profile.name, profile.storage, profile.public) == ("photo", "default", False)
        limits = (profile.allow_mime, profile.allow_extensions, profile.max_bytes, profile.max_pixels)
        assert limits == (None,) * 4
        assert (profile.signed_url_ttl, profile.authorizer, profile.scanners) == (None, None, ())
        assert dict(profile.variants) == {}

    @pytest.mark.parametrize(
        ("name", "stored"),
        [("Avatar", "avatar"), ("TeamPhoto", "team_photo"), ("HTMLPage", "html_page"), ("Mp4Video", "mp4_video")],
    )
    def test_the_stored_name_is_the_class_name_in_snake_case(self, name: str, stored: str) -> None:
        assert snake_case(name) == type(name, (Profile,), {}).name == stored

    def test_a_name_of_its_own_stays_when_the_class_is_renamed(self) -> None:
        assert declare(name="portrait").name == "portrait"

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"name": "Team Photo"}, "name='Team Photo'"),
            ({"name": "1photo"}, "beginning with a letter"),
            ({"name": "x" * 64}, "lower-case letters"),
            ({"name": None}, "name=None"),
            ({"storage": ""}, "RINDLE_STORAGES"),
            ({"storage": None}, "RINDLE_STORAGES"),
            ({"allow_mime": "image/png"}, '{"image/png"}'),
            ({"allow_mime": set()}, "None to accept any"),
            ({"allow_mime": 7}, '{"image/png"}'),
            ({"allow_mime": {"image/*"}}, "allow_mime has 'image/*'"),
            ({"allow_mime": {"png"}}, "allow_mime has 'png'"),
            ({"allow_mime": {7}}, "allow_mime has 7"),
            ({"allow_extensions": {"png"}}, "allow_extensions has 'png'"),
            ({"allow_extensions": ".png"}, '{".png"}'),
            ({"allow_extensions": {".tar.gz"}}, "allow_extensions has '.tar.gz'"),
            ({"max_bytes": 0}, "max_bytes=0"),
            ({"max_bytes": -1}, "number of bytes above 0"),
            ({"max_bytes": "8MB"}, "max_bytes='8MB'"),
            ({"max_bytes": True}, "max_bytes=True"),
            ({"max_pixels": 1.5}, "number of pixels above 0"),
            ({"signed_url_ttl": 0}, "number of seconds above 0"),
            ({"public": "yes"}, "write True or False"),
            ({"public": 1}, "write True or False"),
            ({"authorizer": 7}, "a function of (actor, action, subject)"),
            ({"authorizer": object()}, "an object with authorize()"),
            ({"scanners": "clamav"}, "write a list of scanners"),
            ({"scanners": {Scanner()}}, "write a list of scanners"),
            ({"scanners": [object()]}, "scan(path)"),
            ({"variants": [image.fit(6)]}, '{"thumb": image.fit(128, 128)}'),
            ({"variants": {"Thumb": image.fit(6)}}, "variant name 'Thumb'"),
            ({"variants": {"a/b": image.fit(6)}}, "variant name 'a/b'"),
            ({"variants": {7: image.fit(6)}}, "variant name 7"),
            ({"variants": {"original": image.fit(6)}}, "choose another name"),
            ({"variants": {"thumb": (64, 64)}}, "variant 'thumb' is (64, 64)"),
            ({"variants": {"thumb": image.fit}}, "write a recipe such as image.fit(128, 128)"),
            ({"allow_mimes": {"image/png"}}, "allow_mimes is no option of a profile; write allow_mime"),
            ({"max_byte": 1}, "write max_bytes"),
            ({"varients": {}}, "write variants"),
            ({"authorize": lambda actor, action, subject: None}, "write authorizer"),
            ({"xyzzy": 1}, "there are ["),
        ],
    )
    def test_that_are_wrong_are_refused_with_what_to_write(self, options: dict[str, Any], says: str) -> None:
        with pytest.raises(InvalidProfile) as caught:
            declare(**options)
        (problem,) = caught.value.problems
        assert problem.startswith("Photo: ")
        assert says in problem

    def test_that_are_wrong_are_refused_all_at_once(self) -> None:
        with pytest.raises(InvalidProfile) as caught:
            declare(max_bytes=0, publik=True, variants={"Big": 7}, name="?")
        assert len(caught.value.problems) == 5
        assert caught.value.profile == "Photo"

    def test_may_have_helpers_that_are_no_options(self) -> None:
        class Photo(Profile):
            _sizes = (64, 128)

            @classmethod
            def largest(cls) -> int:
                return max(cls._sizes)

        assert Photo.largest() == 128


class TestFreezing:
    def test_gives_one_spelling(self) -> None:
        profile = declare(
            allow_mime=["IMAGE/JPG", "image/png"], allow_extensions=[".PNG"], scanners=[scanner := Scanner()]
        )
        assert profile.allow_mime == frozenset({"image/jpeg", "image/png"})
        assert profile.allow_extensions == frozenset({".png"})
        assert profile.scanners == (scanner,)

    def test_lists_variants_by_name(self) -> None:
        profile = declare(variants={"thumb": image.fit(6), "banner": image.fit(7)})
        assert list(profile.variants) == ["banner", "thumb"]

    def test_holds_against_later_changes(self) -> None:
        variants, types = {"thumb": image.fit(6)}, {"image/png"}
        profile = declare(variants=variants, allow_mime=types)
        variants["more"] = image.fit(7)
        types.add("text/html")
        assert list(profile.variants) == ["thumb"]
        assert profile.allow_mime == {"image/png"}
        assert isinstance(profile.variants, MappingProxyType)


class TestInheritance:
    def test_takes_over_everything_but_the_name(self) -> None:
        parent = declare(name="parent", max_bytes=7, allow_mime={"image/png"}, variants={"thumb": image.fit(6)})
        child = type("Child", (parent,), {"max_bytes": 8})
        assert (child.name, child.max_bytes, child.allow_mime) == ("child", 8, {"image/png"})
        assert child.variants == parent.variants
        assert parent.max_bytes == 7

    def test_checks_the_child(self) -> None:
        with pytest.raises(InvalidProfile):
            type("Child", (declare(),), {"max_bytes": 0})

    def test_keeps_the_authorizer(self) -> None:
        asked: list[object] = []
        parent = declare(authorizer=lambda *asking: asked.append(asking))
        type("Child", (parent,), {}).authorize("ann", "the subject")
        assert asked == [("ann", "view", "the subject")]


def refuse(actor: object, action: str, subject: object) -> None:
    raise NotAuthorized(action)


class Gate:
    def authorize(self, actor: object, action: str, subject: object) -> None:
        refuse(actor, action, subject)


class Callable:
    def __call__(self, actor: object, action: str, subject: object) -> None:
        refuse(actor, action, subject)


class TestAuthorizer:
    def test_is_nobody_by_default(self) -> None:
        declare().authorize(None, "subject")

    @pytest.mark.parametrize(
        "authorizer",
        [refuse, staticmethod(refuse), lambda *asking: refuse(*asking), Gate(), Gate().authorize, Callable()],
    )
    def test_may_be_a_function_or_an_object(self, authorizer: Any) -> None:
        with pytest.raises(NotAuthorized) as caught:
            declare(authorizer=authorizer).authorize("ann", "subject")
        assert caught.value.action == "view"

    def test_may_be_written_in_the_class(self) -> None:
        class Photo(Profile):
            def authorizer(actor, action, subject):  # type: ignore[no-untyped-def,override] # noqa: N805
                refuse(actor, action, subject)

        with pytest.raises(NotAuthorized):
            Photo.authorize("ann", "subject")


class TestVariants:
    profile = declare(variants={"thumb": image.fit(6), "poster": video.poster(), "banner": image.fit(7)})

    def test_are_found_by_name(self) -> None:
        assert self.profile.recipe("thumb") == image.fit(6)
        with pytest.raises(UnknownName) as caught:
            self.profile.recipe("thumbs")
        assert (caught.value.kind, caught.value.known) == ("variant", ("banner", "poster", "thumb"))

    def test_are_planned_for_the_kinds_that_they_are_made_of(self) -> None:
        assert list(self.profile.planned_for("image")) == ["banner", "thumb"]
        assert list(self.profile.planned_for("video")) == ["poster"]
        assert self.profile.planned_for("other") == {}


class TestRegistry:
    def test_finds_by_name_and_by_class(self) -> None:
        profile = declare()
        registry = ProfileRegistry([profile])
        assert registry.get("photo") is registry.get(profile) is profile
        assert list(registry) == [profile]

    @pytest.mark.parametrize("asked", ["phot", declare(), Gate])
    def test_knows_nobody_else(self, asked: Any) -> None:
        """Not even another class of the same name."""
        with pytest.raises(UnknownName) as caught:
            ProfileRegistry([declare()]).get(asked)
        assert caught.value.known == ("photo",)
