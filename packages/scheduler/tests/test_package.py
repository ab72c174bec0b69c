"""The public face, and that importing it is cheap."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

import rostral_scheduler
from rostral_gcs.errors import RostralError
from rostral_scheduler import errors


def test_public_names_are_these() -> None:
    assert sorted(rostral_scheduler.__all__) == [
        "LocalScheduler",
        "LocalSchedulerConfig",
        "WorkerStart",
        "errors",
    ]
    assert all(hasattr(rostral_scheduler, name) for name in rostral_scheduler.__all__)


def test_worker_does_not_pay_for_the_daemon() -> None:
    program = (
        "import sys, rostral_scheduler\n"
        "heavy = {'asyncio', 'grpc', 'click', 'rostral_objectstore'} & set(sys.modules)\n"
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", errors.__all__)
def test_errors_survive_pickling_with_their_attributes(name: str) -> None:
    cls: type[RostralError] = getattr(errors, name)
    error = cls("what happened", hint="what to do")
    error.task_id = b"t"  # type: ignore[attr-defined]
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert vars(again) == vars(error)
    assert str(again) == "what happened; what to do"
