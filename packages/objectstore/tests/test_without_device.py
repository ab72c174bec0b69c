"""Where there is no GPU: everything else works, and asking for one is one clear error."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from rostral_objectstore.errors import DeviceError, DeviceUnavailableError
from rostral_objectstore.gpu.backend import BACKEND_VARIABLE, load_backend

from .store import Store

needs_no_gpu = pytest.mark.skipif(
    importlib.util.find_spec("cupy") is not None, reason="CuPy is installed here"
)


@pytest.fixture(autouse=True)
def _default_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(BACKEND_VARIABLE, raising=False)


@needs_no_gpu
def test_asking_for_a_gpu_says_what_to_install(table_store: Store) -> None:
    client = table_store.connect()
    handle = client.put(np.arange(1000))
    for ask in (
        lambda: client.get(handle, device="cuda:0"),
        lambda: client.put(np.arange(10), device="cuda"),
    ):
        with pytest.raises(DeviceUnavailableError, match="needs CuPy") as caught:
            ask()
        assert isinstance(caught.value, DeviceError)
        assert "pip install 'rostral-objectstore[cuda12]'" in str(caught.value.hint)


@needs_no_gpu
def test_the_processors_memory_needs_no_gpu(table_store: Store) -> None:
    client = table_store.connect()
    values = np.arange(1000)
    handle = client.put(values, device="cpu")
    assert np.array_equal(client.get(handle, device="cpu"), values)
    assert np.array_equal(client.get([handle], device="cpu")[0], values)


def test_an_unknown_backend_is_an_error() -> None:
    with pytest.raises(DeviceUnavailableError, match="is 'vulkan'"):
        load_backend("vulkan")


def test_who_has_no_device_arrays_imports_nothing_of_the_tier() -> None:
    code = (
        "import sys, rostral_objectstore, rostral_objectstore.serialization\n"
        "names = [name for name in sys.modules if 'cupy' in name or '_objectstore.gpu' in name]\n"
        "assert not names, names"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
