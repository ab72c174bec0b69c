"""What asks the store's daemon waits for its next life, and not for ever."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rostral_objectstore.client import StoreClient
from rostral_objectstore.errors import StoreRestartedError, StoreUnavailableError
from rostral_scheduler.between.patience import patiently

from .node import Node


def failing(*errors: Exception) -> tuple[Callable[[], str], list[int]]:
    """What fails in turn with each, and then answers; and how often it was asked."""
    left, asked = list(errors), [0]

    def ask() -> str:
        asked[0] += 1
        if left:
            raise left.pop(0)
        return "here"

    return ask, asked


@pytest.fixture
def client(node: Node) -> StoreClient:
    """A client of a store."""
    return StoreClient.connect(node.config.store_socket)


@pytest.mark.slow
def test_an_answer_is_waited_for_until_there_is_a_daemon(client: StoreClient) -> None:
    with client:
        ask, asked = failing(StoreUnavailableError("away"), StoreUnavailableError("away"))
        assert patiently(client, ask) == "here"
        assert asked == [3]


@pytest.mark.slow
def test_a_daemon_with_other_memory_and_a_closed_client_end_it_at_once(client: StoreClient) -> None:
    with client:
        ask, asked = failing(StoreRestartedError("anew"))
        with pytest.raises(StoreRestartedError):
            patiently(client, ask)
        assert asked == [1]
    ask, asked = failing(StoreUnavailableError("closed"))
    with pytest.raises(StoreUnavailableError):
        patiently(client, ask)
    assert asked == [1]
