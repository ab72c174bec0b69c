"""The caller's check of arguments: it refuses exactly what the call itself would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rostral.signature import Signature


def nothing() -> None: ...
def plain(a: int, b: int = 2) -> None: ...
def open_ended(a: int, *rest: int, flag: bool = False, **more: int) -> None: ...
def keyword(*, needed: int) -> None: ...
def positional(a: int, /, b: int) -> None: ...


FUNCTIONS: list[Callable[..., Any]] = [nothing, plain, open_ended, keyword, positional]
CALLS: list[tuple[tuple[int, ...], dict[str, int]]] = [
    ((), {}),
    ((1,), {}),
    ((1, 2), {}),
    ((1, 2, 3), {}),
    ((1,), {"b": 2}),
    ((), {"a": 1}),
    ((1,), {"a": 1}),
    ((), {"needed": 1}),
    ((1,), {"needed": 1}),
    ((1,), {"flag": 1, "extra": 2}),
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize(("args", "kwargs"), CALLS, ids=repr)
def test_the_check_says_what_the_call_would(
    function: Callable[..., Any], args: tuple[int, ...], kwargs: dict[str, int]
) -> None:
    def refusal(call: Callable[[], object]) -> bool:
        try:
            call()
        except TypeError:
            return True
        return False

    signature = Signature(function)
    checked = refusal(lambda: signature.check("f", args, kwargs))
    assert checked == refusal(lambda: function(*args, **kwargs))


def test_the_error_names_the_function() -> None:
    with pytest.raises(TypeError, match=r"train\(\): missing a required argument: 'a'"):
        Signature(plain).check("train", (), {})


def test_self_is_not_the_callers_to_give() -> None:
    class Actor:
        def __init__(self, a: int) -> None: ...

    class Anything:
        def __init__(*args: int) -> None: ...

    check = Signature(Actor.__init__, drop_first=True).check
    check("Actor", (1,), {})
    with pytest.raises(TypeError):
        check("Actor", (), {})
    Signature(Anything.__init__, drop_first=True).check("Anything", (1, 2, 3), {})
    Signature(object.__init__, drop_first=True).check("Plain", (), {})


def test_a_function_that_says_nothing_of_its_parameters_takes_anything() -> None:
    Signature(max).check("max", (1, 2), {"key": None})
