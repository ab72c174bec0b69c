"""Errors: their tree, how a task's becomes one of the user's type, and what survives pickling."""

from __future__ import annotations

import os
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
from rostral.execution import should_retry
from rostral.failure import dump_task_error, load_error, task_error
from rostral_objectstore.serialization import KIND_PICKLE

# All but how `exit_actor` leaves a method and how a stream ends, which are no errors.
ERRORS = [
    error
    for name in exceptions.__all__
    if (error := getattr(exceptions, name)) not in (exceptions.ActorExit, StopIteration)
]


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
        ("ReferenceCountError", AssertionError),
    ],
)
def test_errors_are_the_builtin_that_fits(error: str, builtin: type[Exception]) -> None:
    assert issubclass(getattr(exceptions, error), builtin)


# Ray's name, ours, and what Ray's users may catch it as.
NAMES_OF_RAY = {
    "RayError": ("RostralError", []),
    "RayTaskError": ("TaskError", []),
    "UnserializableException": ("UnserializableError", []),
    "UserCodeException": ("UserCodeError", []),
    "LocalRayletDiedError": ("ClusterUnavailableError", []),
    "RayActorError": ("ActorError", []),
    "ActorDiedError": ("ActorDiedError", ["RayActorError"]),
    "ActorUnavailableError": ("ActorUnavailableError", ["RayActorError"]),
    "ActorUnschedulableError": ("UnschedulableError", []),
    "TaskUnschedulableError": ("UnschedulableError", []),
    "ActorHandleNotFoundError": ("ActorNotFoundError", []),
    "PlasmaObjectNotAvailable": ("ObjectNotFoundError", []),
    "ObjectFetchTimedOutError": ("ObjectFetchTimeoutError", ["ObjectLostError"]),
    "ObjectFreedError": ("ObjectFreedError", ["ObjectLostError"]),
    "OwnerDiedError": ("ObjectLostError", []),
    "ObjectReconstructionFailedError": ("ObjectReconstructionFailedError", ["ObjectLostError"]),
    "ReferenceCountingAssertionError": ("ReferenceCountError", ["ObjectLostError"]),
    "RaySystemError": ("EngineError", []),
    "StreamingGeneratorReplayInconsistentError": (
        "StreamingGeneratorReplayInconsistentError",
        ["RaySystemError"],
    ),
    "AuthenticationError": ("UnauthenticatedError", []),
    "RpcError": ("GcsError", []),
    "OufOfBandObjectRefSerializationException": ("OutOfBandReferenceError", []),
}


@pytest.mark.parametrize("name", NAMES_OF_RAY)
def test_a_name_of_ray_is_a_class_of_ours(name: str) -> None:
    ours, bases = NAMES_OF_RAY[name]
    assert getattr(exceptions, name) is getattr(exceptions, ours)
    for base in bases:
        assert issubclass(getattr(exceptions, name), getattr(exceptions, base))


# What programs read of errors, beside their text.
FIELDS = {
    "RayTaskError": ["cause", "traceback_str", "function_name", "pid", "ip"],
    "TaskCancelledError": ["task_id"],
    "RayActorError": ["actor_id", "actor_init_failed", "preempted"],
    "ActorDiedError": ["actor_id", "actor_init_failed", "preempted"],
    "ActorUnavailableError": ["actor_id", "actor_init_failed", "preempted"],
    "ObjectLostError": ["object_ref_hex", "owner_address", "call_site"],
    "ObjectFreedError": ["object_ref_hex", "owner_address", "call_site"],
    "ObjectFetchTimedOutError": ["object_ref_hex", "owner_address", "call_site"],
}


@pytest.mark.parametrize("name", FIELDS)
def test_the_fields_that_rays_users_read_are_there_before_and_after_pickling(name: str) -> None:
    cls = getattr(exceptions, name)
    made = TaskError("work", "Traceback", KeyError(1), 5) if cls is TaskError else cls("told")
    again = pickle.loads(pickle.dumps(made))
    for field in FIELDS[name]:
        assert repr(getattr(again, field)) == repr(getattr(made, field))


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_every_error_survives_pickling(error: type[RostralError]) -> None:
    made = (
        TaskError("work", "Traceback", KeyError(1), 5)
        if error is TaskError
        else error("what happened", hint="what to do")
    )
    again = pickle.loads(pickle.dumps(made))
    assert isinstance(again, error)
    assert str(again) == str(made)
    assert again.hint == made.hint


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
    assert type(got.cause) is RostralError
    assert f"{type(error).__name__}: odd" in str(got.cause)
    assert f"{type(error).__name__}: odd" in str(got)


class FinalError(Exception):
    """Cannot be subclassed."""

    def __init_subclass__(cls) -> None:
        raise TypeError("this class is final")


def test_an_error_that_cannot_be_subclassed_is_the_cause_alone() -> None:
    got = raised(FinalError("x"))
    assert type(got) is TaskError
    assert isinstance(got.cause, FinalError)


class ShyError(Exception):
    """Pickles well, and is rebuilt in the process that made it alone."""

    is_home = True

    def __reduce__(self) -> Any:
        return _rebuilt_at_home, (os.getpid(),)


def _rebuilt_at_home(home: int) -> ShyError:
    if not ShyError.is_home:
        raise RuntimeError(f"made in {home}")
    return ShyError()


def test_what_cannot_be_rebuilt_by_its_reader_keeps_its_trace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    try:
        raise ShyError
    except ShyError as caught:
        stored = dump_task_error(task_error("work", caught))
    monkeypatch.setattr(ShyError, "is_home", False)
    got = load_error((KIND_PICKLE, True, stored.inband, ()))
    assert type(got) is exceptions.UnserializableError
    assert "made in" in str(got)
    assert "raise ShyError" in str(got)


def test_a_lost_object_is_named() -> None:
    error = pickle.loads(pickle.dumps(exceptions.ObjectLostError("lost", object_ref_hex="ab")))
    assert (error.object_ref_hex, error.owner_address, error.call_site) == ("ab", "", "")


def test_a_tasks_error_says_where_it_was_raised() -> None:
    error = raised(KeyError("zork"))
    assert isinstance(error, TaskError)
    assert error.traceback_str == error.remote_traceback
    assert (error.pid, error.ip) == (os.getpid(), "127.0.0.1")


@pytest.mark.parametrize(
    ("raised_from", "expected"), [(KeyError(), True), (ValueError(), False), (None, False)]
)
def test_a_librarys_error_is_retried_as_its_cause_is(
    raised_from: Exception | None, expected: bool
) -> None:
    error = exceptions.UserCodeError("the user's function failed")
    error.__cause__ = raised_from
    assert should_retry(error, (KeyError,)) is expected


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
    assert isinstance(error, exceptions.UnserializableError)
    assert "no_such_module" in str(error)


def test_the_nearest_name_is_suggested() -> None:
    error = UnsupportedOptionError.unknown("nam", ["name", "size"])
    assert error.message == "there is no option 'nam', did you mean 'name'?"
