"""What errors promise: readable, picklable whole, in families, each with a code."""

from __future__ import annotations

import pickle

import pytest

from rostral_gcs import errors
from rostral_gcs.errors import ConflictError, GcsError, RostralError

CLASSES: list[type[RostralError]] = [getattr(errors, name) for name in errors.__all__]


class _LocalError(RostralError):
    def __init__(self, first: int, second: str) -> None:
        super().__init__(f"{first} {second}")
        self.first = first
        self.second = second


def test_text_is_code_then_message_then_hint() -> None:
    assert str(RostralError("it broke")) == "it broke"
    assert str(RostralError("it broke", hint="mend it")) == "it broke; mend it"
    assert str(ConflictError("row 'a' moved", hint="read it")) == "CONFLICT: row 'a' moved; read it"


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_survives_pickle_with_its_attributes(cls: type[RostralError]) -> None:
    error = cls("what", hint="do")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert again.__dict__ == error.__dict__
    assert str(again) == str(error)


def test_a_subclass_with_its_own_signature_survives_pickle() -> None:
    again = pickle.loads(pickle.dumps(_LocalError(1, "x")))
    assert (again.first, again.second, str(again)) == (1, "x", "1 x")


def test_conflict_carries_the_current_version_through_pickle() -> None:
    again = pickle.loads(pickle.dumps(ConflictError("m", current_version=7)))
    assert again.current_version == 7


def test_codes_are_unique_and_every_leaf_has_one() -> None:
    leaves = [
        cls for cls in CLASSES if not any(c is not cls and issubclass(c, cls) for c in CLASSES)
    ]
    codes = [cls.code for cls in leaves]
    assert None not in codes
    assert len(set(codes)) == len(codes)


def test_the_drawn_tree_names_every_class() -> None:
    assert errors.__doc__ is not None
    for cls in CLASSES:
        assert cls.__name__ in errors.__doc__
        assert cls is RostralError or issubclass(cls, GcsError)
