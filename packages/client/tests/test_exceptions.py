"""Errors: their tree, how a task's becomes one of the user's type, and what survives pickling."""

from __future__ import annotations

import pickle
import urllib.error
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from rostral import exceptions
from rostral.exceptions import (
    ActorDiedError,
    ObjectStoreFullError,
    RostralError,
    TaskError,
    UnsupportedOptionError,
)
from rostral.failure import dump_task_error, load_error, task_error
from rostral_objectstore.serialization import KIND_PICKLE

ERRORS = [getattr(exceptions, name) for name in exceptions.__all__]


class SlottedError(Exception):
    """Keeps what it knows in a slot."""

    __slots__ = ("depth",)

    def __init__(self, depth: int) -> None:
        super().__init__(depth)
        self.depth = depth


class KeywordError(Exception):
    """Cannot be rebuilt from its args, as pickle does."""

    def __init__(self, *, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class StubbornError(Exception):
    """Refuses to be pickled."""

    def __reduce__(self) -> Any:
        raise RuntimeError("no")


def raised(error: BaseException) -> BaseException:
    """What `get` would raise for a task that raised the error."""
    try:
        raise error
    except BaseException as caught:
        stored = dump_task_error(task_error("work", caught))
    return load_error((KIND_PICKLE, True, stored.inband, ()))


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_every_error_is_a_rostral_error_with_a_docstring(error: type[Exception]) -> None:
    assert issubclass(error, RostralError)
    assert error.__doc__


def test_the_tree_in_the_docstring_names_every_class_defined_here() -> None:
    own = {error.__name__ for error in ERRORS if error.__module__ == exceptions.__name__}
    drawn = exceptions.__doc__ or ""
    assert not [name for name in own if name not in drawn]


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        ("GetTimeoutError", TimeoutError),
        ("ClusterUnavailableError", ConnectionError),
        ("ActorNotFoundError", ValueError),
        ("ActorAlreadyExistsError", ValueError),
        ("UnschedulableError", ValueError),
        ("NotPicklableError", TypeError),
        ("NotConnectedError", RuntimeError),
        ("AlreadyInitializedError", RuntimeError),
        ("UnsupportedOptionError", ValueError),
        ("UnknownArgumentError", TypeError),
        ("UnknownArgumentError", RuntimeError),
    ],
)
def test_errors_are_the_builtin_that_fits(error: str, builtin: type[Exception]) -> None:
    assert issubclass(getattr(exceptions, error), builtin)


def test_names_of_ray_are_the_same_classes() -> None:
    assert exceptions.RayTaskError is TaskError
    assert exceptions.RayActorError is exceptions.ActorError
    assert exceptions.RayError is RostralError


def test_a_tasks_error_is_also_of_the_users_type() -> None:
    error = raised(KeyError("zork"))
    assert isinstance(error, KeyError)
    assert isinstance(error, TaskError)
    assert isinstance(error.cause, KeyError)
    assert "KeyError: 'zork'" in str(error)
    assert error.function_name == "work"
    assert "raise error" in error.remote_traceback


def test_a_causes_fields_are_there() -> None:
    error = raised(FileNotFoundError(2, "No such file", "data.csv"))
    assert isinstance(error, FileNotFoundError)
    assert (error.errno, error.filename) == (2, "data.csv")
    slotted = raised(SlottedError(3))
    assert isinstance(slotted, SlottedError)
    assert slotted.depth == 3


def test_a_causes_code_and_hint_are_not_taken_for_ours() -> None:
    error = raised(urllib.error.HTTPError("http://x", 404, "gone", Message(), None))
    assert str(error).startswith("work() raised in process")


def test_an_error_of_ours_keeps_its_class_too() -> None:
    assert isinstance(raised(ObjectStoreFullError("full")), ObjectStoreFullError)
    died = raised(ActorDiedError("dead", actor_id=b"x" * 16))
    assert isinstance(died, ActorDiedError)
    assert died.actor_id == b"x" * 16


def test_an_exception_group_keeps_its_members() -> None:
    error = raised(ExceptionGroup("several", [ValueError(1), KeyError(2)]))
    assert isinstance(error, ExceptionGroup)
    assert [type(member) for member in error.exceptions] == [ValueError, KeyError]


@pytest.mark.parametrize("error", [KeywordError(reason="odd"), StubbornError("odd")])
def test_what_cannot_be_pickled_leaves_its_text(error: Exception) -> None:
    got = raised(error)
    assert type(got) is TaskError
    assert got.cause is None
    assert f"{type(error).__name__}: odd" in str(got)


def test_an_inputs_error_is_not_wrapped_again() -> None:
    inner = raised(KeyError("zork"))
    outer = raised(inner)
    assert isinstance(outer, KeyError)
    assert isinstance(outer, TaskError)
    assert not isinstance(outer.cause, TaskError)
    assert "zork" in str(outer)


def test_a_tasks_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(raised(KeyError("zork"))))
    assert isinstance(error, TaskError)
    assert isinstance(error.cause, KeyError)


def test_a_traceback_begins_in_the_users_code() -> None:
    error = raised(KeyError("zork"))
    assert isinstance(error, TaskError)
    first = error.remote_traceback.splitlines()[1]
    assert Path(__file__).name in first


def test_an_error_that_was_cut_short_says_so() -> None:
    error = load_error((KIND_PICKLE, True, pickle.dumps("no room"), ()))
    assert isinstance(error, ObjectStoreFullError)


def test_an_error_that_cannot_be_rebuilt_here_is_still_an_error() -> None:
    missing = b"cno_such_module\nThing\n."
    error = load_error((KIND_PICKLE, True, missing, ()))
    assert isinstance(error, RostralError)
    assert "no_such_module" in str(error)


def test_the_nearest_name_is_suggested() -> None:
    error = UnsupportedOptionError.unknown("nam", ["name", "size"])
    assert error.message == "there is no option 'nam', did you mean 'name'?"
