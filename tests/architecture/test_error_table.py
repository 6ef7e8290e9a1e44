"""Every error has a code, a status and a place in the tree, and tells strangers nothing."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from http import HTTPStatus

import pytest

from flask_rindle import errors
from flask_rindle.errors import RejectedUpload, RindleError, UploadUnsupported
from flask_rindle.web.errors import STATUS, answer, status_of

SECRET = "s3cret"


def tree(root: type[RindleError] = RindleError) -> Iterator[type[RindleError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == "flask_rindle.errors":
            yield from tree(child)


CLASSES = list(dict.fromkeys(tree()))


def make(cls: type[RindleError]) -> RindleError:
    """One of the class, with a secret wherever a text or an object goes in."""
    arguments = {}
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        if name in ("self", "args", "kwargs"):
            continue
        kind = str(parameter.annotation)
        numeric = kind.startswith("int")
        arguments[name] = 7 if numeric else "row" if name == "kind" else [SECRET] if "Iterable" in kind else SECRET
    return cls(**arguments)


@pytest.mark.parametrize("cls", CLASSES)
class TestEveryError:
    def test_has_a_code_of_its_own(self, cls: type[RindleError]) -> None:
        assert "code" in vars(cls)
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", cls.code)
        assert [other for other in CLASSES if other.code == cls.code] == [cls]

    def test_has_a_code_that_is_its_name(self, cls: type[RindleError]) -> None:
        assert cls.code.replace("_", "") == cls.__name__.lower()

    def test_stands_in_the_drawing(self, cls: type[RindleError]) -> None:
        assert re.search(rf"\b{cls.__name__}\b", errors.__doc__ or "")

    def test_says_what_it_means(self, cls: type[RindleError]) -> None:
        assert cls.__doc__
        assert str(make(cls)) or cls in (RindleError, RejectedUpload, errors.LifecycleError, errors.ProcessingError)

    def test_has_a_status(self, cls: type[RindleError]) -> None:
        status = status_of(make(cls))
        assert 400 <= status < (500 if issubclass(cls, RejectedUpload) else 600)

    def test_tells_strangers_nothing(self, cls: type[RindleError]) -> None:
        """Keys, reasons, names of storages and tools stay here, unless the sender gave them or can mend them."""
        error = make(cls)
        if issubclass(cls, (RejectedUpload, UploadUnsupported)) and cls is not errors.ScanRefused:
            assert error.public_message or cls is RejectedUpload
            return
        assert SECRET not in error.public_message
        assert SECRET not in str(error.facts)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.TooLarge(1, 2), 413),
        (errors.TypeRefused("a/b", []), 415),
        (errors.TicketInvalid(), 403),
        (errors.TicketUsed(1), 409),
        (errors.SessionClosed("aborted"), 409),
        (errors.MalformedRequest("a", "b"), 400),
        (errors.MediaDamaged("image/png"), 422),
        (errors.NotAuthorized("view"), 403),
        (errors.NotFound("asset", 1), 404),
        (errors.ObjectNotFound("s", "k"), 404),
        (errors.StorageDenied("s", "k"), 500),
        (errors.StorageUnavailable("s", "k"), 503),
        (errors.StorageFull("s", "k"), 507),
        (errors.DatabaseBusy(), 503),
        (errors.OpenTransaction(), 500),
    ],
)
def test_statuses_are_what_http_says(error: RindleError, status: int) -> None:
    assert status_of(error) == status


def test_the_table_has_no_row_that_its_parent_has_already() -> None:
    for cls, status in STATUS.items():
        if cls is not RindleError:
            inherited = next(STATUS[parent] for parent in cls.__mro__[1:] if parent in STATUS)
            assert status != inherited, cls


def test_an_answer_is_a_problem_with_its_code(app: object) -> None:
    with app.test_request_context():  # type: ignore[attr-defined]
        response = answer(errors.TooLarge(8, 9))
    assert response.mimetype == "application/problem+json"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.get_json() == {
        "type": "about:blank",
        "title": HTTPStatus.REQUEST_ENTITY_TOO_LARGE.phrase,
        "status": 413,
        "code": "too_large",
        "detail": "The file is too large. Send one of at most 8 bytes.",
        "limit_bytes": 8,
        "size_bytes": 9,
    }


def test_an_answer_to_trouble_says_when_to_ask_again(app: object) -> None:
    with app.test_request_context():  # type: ignore[attr-defined]
        assert answer(errors.DatabaseBusy()).headers["Retry-After"]
        assert "Retry-After" not in answer(errors.TooLarge(1)).headers
