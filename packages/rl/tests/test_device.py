"""Which device a learner takes, and that it says why."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from rostral_rl.errors import ConfigError
from rostral_rl.train import train
from rostral_rl.train.parts import device as device_module
from rostral_rl.train.parts.device import available_devices, choose_device, on_device
from rostral_rl.train.ppo import PPO

DEVICES = ("cpu", "cuda:0")


class Clock:
    """A clock that only steps turn."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def steps(self, **step_s: float) -> Callable[[str], Callable[[], None]]:
        def step_on(device: str) -> Callable[[], None]:
            def step() -> None:
                self.now_s += step_s[device.partition(":")[0]]

            return step

        return step_on


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    return Clock()


@pytest.mark.parametrize(
    ("cpu_s", "cuda_s", "best"), [(0.001, 0.004, "cpu"), (0.020, 0.003, "cuda:0")]
)
def test_auto_takes_the_device_whose_step_is_quicker_and_says_so(
    clock: Clock, cpu_s: float, cuda_s: float, best: str
) -> None:
    step_on = clock.steps(cpu=cpu_s, cuda=cuda_s)
    choice = choose_device("auto", step_on, devices=DEVICES, clock=lambda: clock.now_s)
    assert choice.device == best
    assert choice.step_s == pytest.approx({"cpu": cpu_s, "cuda:0": cuda_s})
    assert choice.reason.startswith(f"{best}: a step takes {min(cpu_s, cuda_s) * 1e3:.3g} ms")
    assert f"{max(cpu_s, cuda_s) * 1e3:.3g} ms on" in choice.reason


def test_one_device_is_not_measured() -> None:
    def step_on(device: str) -> Callable[[], None]:
        raise AssertionError(device)

    choice = choose_device("auto", step_on, devices=["cpu"])
    assert (choice.device, choice.step_s) == ("cpu", {})
    assert "no other device" in choice.reason


@pytest.mark.parametrize(("wanted", "device"), [("cpu", "cpu"), ("cuda", "cuda:0")])
def test_what_is_asked_for_is_taken(clock: Clock, wanted: str, device: str) -> None:
    choice = choose_device(wanted, clock.steps(), devices=DEVICES)
    assert (choice.device, choice.reason) == (device, f"{device}: as asked for")


@pytest.mark.parametrize("wanted", ["cuda:3", "tpu", ""])
def test_a_device_that_is_not_there_is_an_error(clock: Clock, wanted: str) -> None:
    with pytest.raises(ConfigError, match="device must be 'auto' or one of cpu, cuda:0"):
        choose_device(wanted, clock.steps(), devices=DEVICES)


def test_the_cpu_is_always_there() -> None:
    assert available_devices()[0] == "cpu"


def test_arrays_of_this_device_are_not_copied() -> None:
    values = np.arange(4, dtype=np.float32)
    tensor = on_device(values, "cpu")
    values[0] = 7.0
    assert tensor.tolist() == [7.0, 1.0, 2.0, 3.0]
    assert on_device(tensor, "cpu") is tensor
    shared = on_device(OtherLibrary(tensor), "cpu")
    assert shared.data_ptr() == tensor.data_ptr()


class OtherLibrary:
    """What shows a tensor by DLPack alone."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.__dlpack__ = tensor.__dlpack__
        self.__dlpack_device__ = tensor.__dlpack_device__


@pytest.fixture
def second_device(monkeypatch: pytest.MonkeyPatch) -> str:
    """Another name of the CPU, which learners take for another device."""
    monkeypatch.setattr(device_module, "available_devices", lambda: ("cpu", "cpu:0"))
    return "cpu:0"


@pytest.mark.parametrize("lstm", [0, 8])
def test_ppo_learns_on_another_device_what_it_learns_on_the_cpu(
    second_device: str, lstm: int
) -> None:
    found = {}
    for device in ("cpu", second_device):
        settings = PPO(
            envs=4, steps=32, minibatch=64, epochs=2, hidden=(16,), lstm=lstm, device=device
        )
        with settings.build("CartPole-v1", total_steps=256, seed=3) as trainer:
            for _ in trainer:
                pass
            assert trainer.device_reason == f"{device}: as asked for"
            found[device] = trainer.weights
    for name, expected in found["cpu"].items():
        assert np.allclose(found[second_device][name], expected, atol=1e-4), name


def test_auto_times_the_first_step_on_each_device_and_the_run_says_why(
    second_device: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "rostral.rl.train")
    run = train(
        "ppo", "CartPole-v1", total_steps=256, seed=1, device="auto", envs=4, steps=32, minibatch=64
    )
    assert " ms there, " in run.device_reason
    assert all(name in run.device_reason for name in ("cpu", second_device))
    assert f"learner on {run.device_reason}" in caplog.messages


def test_auto_where_there_is_one_device_changes_nothing() -> None:
    found = []
    for device in ("cpu", "auto"):
        settings = PPO(envs=4, steps=32, minibatch=64, epochs=2, hidden=(16,), device=device)
        with settings.build("CartPole-v1", total_steps=256, seed=3) as trainer:
            for _ in trainer:
                pass
            found.append(trainer.weights)
    if available_devices() == ("cpu",):
        assert all(np.array_equal(found[0][name], found[1][name]) for name in found[0])


def test_a_device_that_is_not_there_ends_the_training_with_an_error() -> None:
    with pytest.raises(ConfigError, match="device"):
        train("ppo", "CartPole-v1", total_steps=256, seed=1, device="cuda:99")


def test_what_names_no_device_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="device"):
        PPO(device="gpu")


def test_several_learners_take_no_gpu() -> None:
    with pytest.raises(ConfigError, match="learners > 1"):
        PPO(learners=2, device="cuda:0")
