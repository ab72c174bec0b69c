"""Requests and answers of the placement policy as messages, and back.

This file owns the conversion; both ends use it. What comes from others is checked here, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rostral_gcs.errors import InvalidArgumentError
from rostral_scheduler._proto import scheduler_pb2
from rostral_scheduler.core.placement_request import (
    Affinity,
    Answer,
    Constraints,
    InBundle,
    Infeasible,
    Later,
    Placed,
    Strategy,
    TaskInput,
    TaskRequest,
)
from rostral_scheduler.core.resources import ResourceSet
from rostral_scheduler.errors import RequestError

__all__ = ["answers_of", "encode_answers", "encode_requests", "requests_of"]

ID_SIZE: Final = 16
INPUTS_MAX: Final = 10_000


def encode_requests(requests: Sequence[TaskRequest]) -> scheduler_pb2.PlaceRequest:
    """The message of a batch; constraints that many share are in it once."""
    message = scheduler_pb2.PlaceRequest()
    places: dict[Constraints, int] = {}
    for request in requests:
        place = places.get(request.constraints)
        if place is None:
            place = places[request.constraints] = len(places)
            message.constraints.append(_encode_constraints(request.constraints))
        message.tasks.add(
            task_id=request.task_id,
            attempt=request.attempt,
            constraints=place,
            function_id=request.function_id,
            run_time_s=request.run_time_s,
            avoid_node_id=request.avoid,
            inputs=[
                scheduler_pb2.TaskInput(
                    object_id=one.object_id, size_bytes=one.size_bytes, node_ids=one.node_ids
                )
                for one in request.inputs
            ],
        )
    return message


def _encode_constraints(constraints: Constraints) -> scheduler_pb2.PlaceConstraints:
    message = scheduler_pb2.PlaceConstraints(
        resources=constraints.shape.as_floats(),
        selectors=[scheduler_pb2.Selector(labels=dict(one)) for one in constraints.selectors],
    )
    match constraints.strategy:
        case "SPREAD":
            message.is_spread = True
        case Affinity(node_id=node_id, soft=soft):
            message.affinity.node_id, message.affinity.is_soft = node_id, soft
        case InBundle(group_id=group_id, index=index):
            message.bundle.group_id, message.bundle.index = group_id, index
    return message


def requests_of(message: scheduler_pb2.PlaceRequest) -> list[TaskRequest]:
    """The batch of a message.

    Raises:
        InvalidArgumentError: An id, an amount, an index or a count is out of range; says which.
    """
    constraints = [_constraints_of(one) for one in message.constraints]
    requests = []
    for at, task in enumerate(message.tasks):
        _check_id(f"tasks[{at}].task_id", task.task_id)
        if task.constraints >= len(constraints):
            raise InvalidArgumentError(
                f"tasks[{at}].constraints is {task.constraints}; there are {len(constraints)}",
                hint="give an index into the request's constraints",
            )
        if len(task.inputs) > INPUTS_MAX:
            raise InvalidArgumentError(
                f"tasks[{at}] has {len(task.inputs)} inputs; allowed: up to {INPUTS_MAX}",
                hint="give those that are worth moving the task for",
            )
        if not 0 <= task.run_time_s < float("inf"):
            raise InvalidArgumentError(
                f"tasks[{at}].run_time_s is {task.run_time_s}; allowed: a finite number, 0 or more",
                hint="give 0 when it is not known",
            )
        requests.append(
            TaskRequest(
                task.task_id,
                task.attempt,
                constraints[task.constraints],
                task.function_id,
                tuple(
                    TaskInput(one.object_id, one.size_bytes, tuple(one.node_ids))
                    for one in task.inputs
                ),
                task.run_time_s,
                task.avoid_node_id,
            )
        )
    return requests


def _constraints_of(message: scheduler_pb2.PlaceConstraints) -> Constraints:
    strategy: Strategy = "DEFAULT"
    match message.WhichOneof("strategy"):
        case "is_spread":
            strategy = "SPREAD"
        case "affinity":
            _check_id("affinity.node_id", message.affinity.node_id)
            strategy = Affinity(message.affinity.node_id, message.affinity.is_soft)
        case "bundle":
            _check_id("bundle.group_id", message.bundle.group_id)
            strategy = InBundle(message.bundle.group_id, max(message.bundle.index, -1))
    try:
        shape = ResourceSet.of(message.resources)
    except RequestError as error:
        raise InvalidArgumentError(error.message, hint=error.hint or None) from error
    selectors = tuple(tuple(sorted(one.labels.items())) for one in message.selectors)
    return Constraints(shape, selectors, strategy)


def _check_id(what: str, given: bytes) -> None:
    if len(given) != ID_SIZE:
        raise InvalidArgumentError(
            f"{what} has {len(given)} bytes; it must have {ID_SIZE}", hint="send the id's bytes"
        )


def encode_answers(answers: Sequence[Answer]) -> scheduler_pb2.PlaceReply:
    """The message of the answers."""
    message = scheduler_pb2.PlaceReply()
    for answer in answers:
        one = message.answers.add()
        match answer:
            case Placed(node_id, address, wait_s):
                one.placed.node_id, one.placed.address = node_id, address
                one.placed.wait_s = wait_s
            case Infeasible(text, hint, requested, best):
                one.infeasible.message, one.infeasible.hint = text, hint
                one.infeasible.requested.update(requested.as_floats())
                one.infeasible.best.update(best.as_floats())
            case Later(retry_after_s, reason):
                one.later.retry_after_ms = max(1, round(retry_after_s * 1000))
                one.later.reason = reason
    return message


def answers_of(message: scheduler_pb2.PlaceReply) -> list[Answer]:
    """The answers of a message."""
    answers: list[Answer] = []
    for one in message.answers:
        match one.WhichOneof("answer"):
            case "placed":
                placed = one.placed
                answers.append(Placed(placed.node_id, placed.address, placed.wait_s))
            case "infeasible":
                found = one.infeasible
                answers.append(
                    Infeasible(
                        found.message,
                        found.hint,
                        ResourceSet.of(found.requested),
                        ResourceSet.of(found.best),
                    )
                )
            case _:
                answers.append(Later(one.later.retry_after_ms / 1000, one.later.reason))
    return answers
