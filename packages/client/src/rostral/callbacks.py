"""Callbacks of a reference: called once its object is there, with its value or with nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rostral.exceptions import RostralError

if TYPE_CHECKING:
    from rostral.object_ref import ObjectRef
    from rostral.runtime import Runtime


def call_with_value(
    runtime: Runtime, ref: ObjectRef[Any], callback: Callable[[Any], object]
) -> None:
    """Calls back with the value, or with the exception that `get` would raise."""

    def on_sealed(failure: RostralError | None) -> None:
        value: Any = failure
        if failure is None:
            try:
                value = runtime.get([ref], None)[0]
            except Exception as error:  # what the task raised is what the callback is to see
                value = error
        callback(value)

    runtime.watch(ref, on_sealed)


def call_when_ready(runtime: Runtime, ref: ObjectRef[Any], callback: Callable[[], object]) -> None:
    """Calls back without looking at the value; also when the cluster has gone."""

    def on_sealed(failure: RostralError | None) -> None:
        del failure
        callback()

    runtime.watch(ref, on_sealed)
