"""What users import, and what importing it brings along."""

from __future__ import annotations

import pickle
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import rostral_objectstore
from rostral_gcs.errors import RostralError
from rostral_objectstore import errors


def test_the_public_names_are_these() -> None:
    assert sorted(rostral_objectstore.__all__) == [
        "ObjectEvent",
        "ObjectHandle",
        "ObjectID",
        "ObjectInfo",
        "StoreClient",
        "StoreConfig",
        "StoreDaemon",
        "StoreStats",
        "Subscription",
        "WritableArray",
        "WritableObject",
    ]
    assert all(hasattr(rostral_objectstore, name) for name in rostral_objectstore.__all__)


def test_importing_it_brings_neither_numpy_nor_pyarrow() -> None:
    code = (
        "import sys, rostral_objectstore\n"
        "heavy = {'numpy', 'pyarrow', 'torch', 'grpc', 'cupy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_types_are_published() -> None:
    spec = find_spec("rostral_objectstore")
    assert spec is not None
    assert spec.origin is not None
    assert (Path(spec.origin).parent / "py.typed").exists()


ERRORS = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, errors.ObjectStoreError)
]


@pytest.mark.parametrize("error", ERRORS)
def test_errors_are_ours_and_survive_pickling(error: type[errors.ObjectStoreError]) -> None:
    raised = error("what happened", hint="what to do")
    again = pickle.loads(pickle.dumps(raised))
    assert type(again) is error
    assert isinstance(again, RostralError)
    assert (again.message, again.hint) == ("what happened", "what to do")
