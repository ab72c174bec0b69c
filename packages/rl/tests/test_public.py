"""The public face: what `rostral_rl` promises does not change unannounced."""

from __future__ import annotations

import subprocess
import sys

import rostral_rl as rl
from rostral_rl.exports import LAZY


def test_the_public_names_are_these() -> None:
    assert sorted(rl.__all__) == [
        "A2C",
        "APPO",
        "ARS",
        "ApeX",
        "DQN",
        "ES",
        "Evaluation",
        "IMPALA",
        "PPO",
        "Policy",
        "PolicyClient",
        "PolicyInfo",
        "Run",
        "SAC",
        "SharedSource",
        "TD3",
        "VectorSource",
        "cosine",
        "embed",
        "evaluate",
        "linear",
        "load",
        "piecewise",
        "record",
        "resume",
        "serve",
        "train",
    ]
    assert dir(rl) == sorted(rl.__all__)


def test_every_public_name_can_be_had() -> None:
    assert set(LAZY) < set(rl.__all__)
    for name in rl.__all__:
        assert callable(getattr(rl, name))


def test_importing_loads_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "gymnasium", "grpc", "starlette", "uvicorn", "rich")
    code = f"import sys, rostral_rl; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
