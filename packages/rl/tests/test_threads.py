"""Small passes take one thread in NumPy and torch alike, and leave the process as it was."""

from __future__ import annotations

import torch
from threadpoolctl import threadpool_info  # type: ignore[import-untyped]

from rostral_rl.threads import ONE_THREAD_MACS_MAX, threads_for


def blas_threads() -> list[int]:
    return [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]


def test_a_small_pass_takes_one_thread_and_gives_the_rest_back() -> None:
    before, torch_before = blas_threads(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with threads_for(1000):
            assert set(blas_threads()) == {1}
            assert torch.get_num_threads() == 1
        assert blas_threads() == before
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(torch_before)


def test_a_large_pass_is_left_alone() -> None:
    before = blas_threads()
    with threads_for(ONE_THREAD_MACS_MAX + 1):
        assert blas_threads() == before


def test_who_learns_from_many_rows_and_acts_on_few_shares_out_the_learning_alone() -> None:
    before, torch_before = blas_threads(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with threads_for(ONE_THREAD_MACS_MAX + 1, acting=1000):
            assert set(blas_threads()) == {1}
            assert torch.get_num_threads() == 2
        assert blas_threads() == before
        with threads_for(1000, acting=ONE_THREAD_MACS_MAX + 1):
            assert blas_threads() == before
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(torch_before)
