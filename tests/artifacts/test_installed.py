"""Each wheel in a virtual environment of its own, with no more than it asks for.

The test environments hold pytest and the test dependencies too, which can hide a dependency that
was not declared; here there is nothing to hide behind.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from .artifact import PACKAGES, ROOT, Artifact, artifact

# Their libraries need hardware that a build machine may lack; modules must import without them.
HARDWARE_EXTRAS = {"gpu"}
# What a package must not bring, however indirectly.
UNWANTED = {
    "gcs": {"numpy", "pyarrow", "torch", "gymnasium", "redis", "cupy"},
    "objectstore": {"torch", "gymnasium", "cupy"},
    "scheduler": {"torch", "gymnasium", "cupy"},
    "client": {"torch", "gymnasium", "cupy"},
    "rl": {"cupy"},
}
IMPORT_EVERYTHING = textwrap.dedent(
    """
    import importlib, pkgutil, sys

    def failed(name):
        raise SystemExit(f"cannot import {name}: {sys.exc_info()[1]!r}")

    package = importlib.import_module(sys.argv[1])
    assert package.__file__.startswith(sys.prefix), package.__file__
    found = pkgutil.walk_packages(package.__path__, package.__name__ + ".", onerror=failed)
    names = [module.name for module in found if not module.name.endswith("__main__")]
    for name in names:
        importlib.import_module(name)
    print(len(names))
    """
)


class Installed:
    """One package in its own environment."""

    def __init__(self, package: Artifact, folder: Path) -> None:
        self.package = package
        self.bin = folder / "bin"
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)

    def install(self, *extras: str) -> None:
        """Installs the wheel with its dependencies, siblings from the wheelhouse."""
        wheel = f"{self.package.wheel}[{','.join(extras)}]" if extras else str(self.package.wheel)
        self.run(
            *("python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--constraint", str(ROOT / "constraints.txt")),
            *("--find-links", str(self.package.wheels), wheel),
        )

    def start(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        """Starts a program of the environment whose first line of output says that it serves."""
        command = [str(self.bin / program), *arguments]
        return subprocess.Popen(command, cwd=self.bin, stdout=subprocess.PIPE, text=True)

    def run(self, program: str, *arguments: str) -> str:
        """The output of a program of the environment, run away from the checkout."""
        command = [str(self.bin / program), *arguments]
        result = subprocess.run(
            command, cwd=self.bin, capture_output=True, text=True, check=False, timeout=600
        )
        assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
        return result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKAGES)
def test_wheel_installs_starts_and_imports_alone(name: str) -> None:
    package = artifact(name)
    # Not pytest's tmp_path, which would keep the gigabytes of the last three runs.
    with tempfile.TemporaryDirectory() as folder:
        check_alone(package, Installed(package, Path(folder)))


def check_alone(package: Artifact, installed: Installed) -> None:
    """The claims, in the order in which a user meets them."""
    installed.install()

    brought = installed.run("python", "-m", "pip", "list", "--format=freeze").split()
    brought_names = {line.partition("==")[0].lower() for line in brought}
    assert package.distribution in brought_names
    assert not brought_names & UNWANTED[package.folder.name]

    installed.run("python", "-c", f"import {package.import_name}")
    assert "Usage" in installed.run(package.distribution, "--help")

    USES.get(package.folder.name, use_nothing)(installed)

    installed.install(*(extra for extra in package.extras if extra not in HARDWARE_EXTRAS))
    modules = int(installed.run("python", "-c", IMPORT_EVERYTHING, package.import_name))
    assert modules >= 2


def use_nothing(installed: Installed) -> None:
    """What needs its siblings to be of use is used in the integration tests."""


def use_gcs(installed: Installed) -> None:
    """`rostral-gcs serve` runs where nothing but the package is installed."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ("--port", "0", "--data-dir", f"{folder}/data")
        with installed.start("rostral-gcs", "serve", *arguments) as server:
            try:
                assert server.stdout is not None
                assert "serving" in server.stdout.readline()
            finally:
                server.terminate()
        assert server.returncode == 0


WRITE_ARRAY = """
import sys, numpy
from rostral_objectstore import StoreClient
with StoreClient.connect(sys.argv[1]) as store:
    handle = store.put(numpy.arange(12_500_000, dtype=numpy.int64))
    store.pin(handle)
    print(handle.hex())
"""
READ_ARRAY = """
import sys, numpy
from rostral_gcs.ids import ObjectID
from rostral_objectstore import StoreClient
with StoreClient.connect(sys.argv[1]) as store:
    array = store.get(ObjectID.from_hex(sys.argv[2]), timeout_s=5)
    assert array.nbytes == 100_000_000 and not array.flags.writeable and not array.flags.owndata
    start = array.__array_interface__["data"][0]
    maps = [line.split() for line in open("/proc/self/maps") if "rostral-segment" in line]
    inside = [line for line in maps if int(line[0].split("-")[0], 16) <= start
              and start + array.nbytes <= int(line[0].split("-")[1], 16)]
    assert inside, "the array does not lie in the shared segment"
    print(int(array.sum()))
"""


def use_objectstore(installed: Installed) -> None:
    """Two unrelated processes exchange 100 MB with no copy, and no scheduler is installed."""
    installed.run("python", "-m", "pip", "install", "--quiet", "numpy")
    with pytest.raises(AssertionError, match="No module named 'rostral_scheduler'"):
        installed.run("python", "-c", "import rostral_scheduler")
    with tempfile.TemporaryDirectory() as folder:
        socket = f"{folder}/store.sock"
        arguments = ("--socket", socket, "--memory", str(256 << 20))
        with installed.start("rostral-objectstore", "serve", *arguments) as server:
            try:
                assert server.stdout is not None
                assert "serving" in server.stdout.readline()
                object_id = installed.run("python", "-c", WRITE_ARRAY, socket).strip()
                total = installed.run("python", "-c", READ_ARRAY, socket, object_id)
                assert int(total) == 12_499_999 * 12_500_000 // 2
            finally:
                server.terminate()
        assert server.returncode == 0
        assert not list(Path(folder).iterdir())


USES = {"gcs": use_gcs, "objectstore": use_objectstore}
