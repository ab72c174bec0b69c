"""The functions that users type once they are connected: get, put, wait and their kin."""

from __future__ import annotations

import math
from typing import Any, NoReturn, TypedDict, TypeVar, overload

from rostral import _context
from rostral.actor import ActorHandle
from rostral.generator import ObjectRefGenerator, Waited, wait_for_any
from rostral.object_ref import ObjectRef

T = TypeVar("T")
W = TypeVar("W", bound=Waited)


class NodeInfo(TypedDict):
    """One node of the cluster, under the names that Ray's users know."""

    NodeID: str
    NodeName: str
    Alive: bool
    alive: bool
    NodeManagerAddress: str
    NodeManagerHostname: str
    ObjectStoreSocketName: str
    RayletSocketName: str
    Resources: dict[str, float]
    Labels: dict[str, str]
    DeathReasonMessage: str


def put(value: T) -> ObjectRef[T]:
    """Stores a value, copied once into the node's shared memory.

    Raises: TypeError for a reference; NotPicklableError; ObjectStoreFullError.
    """
    return _context.runtime().put(value)


@overload
def get(refs: ObjectRef[T], *, timeout: float | None = None) -> T: ...
@overload
def get(refs: list[ObjectRef[T]], *, timeout: float | None = None) -> list[T]: ...
@overload
def get(refs: ObjectRefGenerator[T], *, timeout: float | None = None) -> ObjectRefGenerator[T]: ...
def get(refs: Any, *, timeout: float | None = None) -> Any:
    """The value of a reference, or a list of values for a list. Blocks until they are there.

    Arrays come back as read-only views of shared memory.

    Args:
        refs: A reference, or a list of references; duplicates are fine.
        timeout: Seconds to wait at most; 0 polls; None or -1 waits for ever.

    Raises:
        TaskError: Of the first reference whose task failed; also an instance of what it raised.
        GetTimeoutError: The time is over.
        TypeError: Something is no reference.
        ValueError: A tuple, or a wrong timeout.
    """
    if timeout is not None:
        timeout = _check_timeout(timeout)
    current = _context.runtime()
    if isinstance(refs, ObjectRef):
        return current.get((refs,), timeout)[0]
    if isinstance(refs, list):
        for index, ref in enumerate(refs):
            if not isinstance(ref, ObjectRef):
                _refuse_item("get", index, ref)
        return current.get(refs, timeout)
    if isinstance(refs, ObjectRefGenerator):
        return refs
    if isinstance(refs, tuple):
        raise ValueError("get() takes a reference or a list of references, not a tuple")
    raise TypeError(f"get() takes a reference or a list of references, not {type(refs).__name__}")


def _refuse_item(function: str, index: int, item: object) -> NoReturn:
    raise TypeError(
        f"{function}() was given a list whose item {index} is {type(item).__name__}, not ObjectRef"
    )


def _check_timeout(timeout: object) -> float | None:
    """Seconds of 0 or more, or None for no limit."""
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout must be a number of seconds, not {type(timeout).__name__}")
    if timeout == -1:
        return None
    if not timeout >= 0:
        raise ValueError(f"timeout is {timeout}: it must be -1, or 0 or more seconds")
    return None if math.isinf(timeout) else timeout


def wait(
    refs: list[W],
    *,
    num_returns: int = 1,
    timeout: float | None = None,
    fetch_local: bool = True,
) -> tuple[list[W], list[W]]:
    """Waits until `num_returns` of the references are ready, or the timeout (seconds) is over.

    A failed task counts as ready; a generator, when `next` would not block. Every object of this
    version is local, so `fetch_local` changes nothing.

    Returns:
        (ready, others), each in the order given; never more than `num_returns` ready ones.

    Raises:
        TypeError: `refs` is no list of references, or another argument is of the wrong type.
        ValueError: Duplicates, a wrong `num_returns` or a negative timeout.
    """
    del fetch_local
    _check_wait(refs, num_returns)
    if timeout is not None:
        if timeout == -1:
            raise ValueError("timeout is -1: it must be 0 or more seconds, or None for no limit")
        timeout = _check_timeout(timeout)
    if not refs:
        return [], []
    current = _context.runtime()
    # Programs wait in a loop over thousands of references, so the look at each of them is native.
    mixed: list[Any] = refs
    misfit = current.table.first_misfit(ObjectRef, mixed)
    if misfit >= 0:
        if any(isinstance(item, ObjectRefGenerator) for item in refs):
            return wait_for_any(current, refs, num_returns, timeout)
        _refuse_misfit(refs, misfit)
    current.wait_sealed(mixed, num_returns, timeout)
    return current.table.split(mixed, num_returns)


def _refuse_misfit(refs: list[Any], index: int) -> NoReturn:
    if not isinstance(refs[index], ObjectRef):
        _refuse_item("wait", index, refs[index])
    if refs[index] in refs[:index]:
        raise ValueError("wait() was given the same reference twice")
    raise ValueError(f"item {index} of wait()'s list is a reference of another store")


def _check_wait(refs: object, num_returns: object) -> None:
    if not isinstance(refs, list):
        raise TypeError(f"wait() takes a list of references, not {type(refs).__name__}")
    if isinstance(num_returns, bool) or not isinstance(num_returns, int):
        raise TypeError(f"num_returns must be a whole number, not {type(num_returns).__name__}")
    if not refs:
        return
    if not 1 <= num_returns <= len(refs):
        raise ValueError(
            f"num_returns is {num_returns}: it must be from 1 to the number of references, "
            f"{len(refs)}"
        )


def kill(actor: ActorHandle[Any], *, no_restart: bool = True) -> None:
    """Ends an actor at once: its running and queued calls raise ActorDiedError.

    Args:
        actor: The actor's handle.
        no_restart: False uses up one of its restarts, if it has any left.

    Raises:
        ValueError: Not a handle.
        ActorNotFoundError: An actor of another session (a ValueError).
    """
    if not isinstance(actor, ActorHandle):
        raise ValueError(f"kill() takes an actor handle, not {type(actor).__name__}")
    body = {
        "actor_id": actor._actor_id,
        "no_restart": bool(no_restart),
        "home": actor._home,
    }
    _context.runtime().ask("kill_actor", body)


def nodes() -> list[NodeInfo]:
    """The nodes of the cluster, dead ones too. Raises NotConnectedError."""
    return [
        NodeInfo(
            NodeID=node["node_id"].hex(),
            NodeName=node["address"],
            Alive=node["alive"],
            alive=node["alive"],
            NodeManagerAddress=node["address"],
            NodeManagerHostname=node["hostname"],
            ObjectStoreSocketName=node["store_socket"],
            RayletSocketName=node["scheduler_socket"],
            Resources=dict(node["resources"]),
            Labels=dict(node["labels"]),
            DeathReasonMessage=node["death_cause"],
        )
        for node in _context.connected().ask("nodes", {})["nodes"]
    ]


def cluster_resources() -> dict[str, float]:
    """What all living nodes offer together. Raises NotConnectedError."""
    return dict(_context.connected().ask("cluster_resources", {})["resources"])


def available_resources() -> dict[str, float]:
    """What of it is free at this moment. Raises NotConnectedError."""
    return dict(_context.connected().ask("available_resources", {})["resources"])
