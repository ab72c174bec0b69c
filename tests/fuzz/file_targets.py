"""Files that come from elsewhere, or that somebody may have changed, as bytes."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import safetensors.numpy

from rostral_gcs.backends.base import Answer
from rostral_gcs.backends.segment import Frame, Segment, read_frames
from rostral_gcs.errors import CorruptError, RostralError
from rostral_rl.checkpoint import MANIFEST, load_policy, save_policy
from rostral_rl.serve.sb3 import policy_of
from rostral_scheduler.environment import EnvironmentSpec, decode_environment, encode_environment
from rostral_scheduler.local.environment_setup import _unpack

from .http_targets import POLICY

_SCRATCH: Final = Path(tempfile.mkdtemp(prefix="rostral-fuzz-files-"))
_WEIGHTS: Final = "weights-00000000.safetensors"
_SB3_WEIGHTS: Final = {
    "mlp_extractor.policy_net.0.weight": np.zeros((3, 2), np.float32),
    "mlp_extractor.policy_net.0.bias": np.zeros(3, np.float32),
    "action_net.weight": np.zeros((2, 3), np.float32),
    "action_net.bias": np.zeros(2, np.float32),
}
# As that library writes spaces: the class, and each attribute as text.
_SB3_DATA: Final = {
    "observation_space": {
        ":type:": "<class 'gymnasium.spaces.box.Box'>",
        "_shape": [2],
        "dtype": "float32",
        "low": "[-1. -1.]",
        "high": "[1. 1.]",
        "low_repr": "-1.0",
        "high_repr": "1.0",
    },
    "action_space": {":type:": "<class 'gymnasium.spaces.discrete.Discrete'>", "n": 2, "start": 0},
    "policy_kwargs": {},
    "num_timesteps": 100,
}


def lineage_segment(data: bytes) -> None:
    """A file of the GCS's log."""
    path = _SCRATCH / "segment"
    path.write_bytes(data)
    try:
        frames = list(read_frames(path))
    except CorruptError:
        return
    segment = Segment(path, 1)
    try:
        segment.load(frames)
    finally:
        segment.remove()


def package_file(data: bytes) -> None:
    """A package of a runtime environment; nothing of it may lie outside its folder."""
    folder = _SCRATCH / "package"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    archive = folder / "package.zip"
    archive.write_bytes(data)
    try:
        _unpack(archive, folder / "content")
    except (RostralError, OSError):
        return
    finally:
        assert {one.name for one in folder.iterdir()} <= {"package.zip", "content"}


def runtime_environment(data: bytes) -> None:
    """What a driver, or another node, says of an environment."""
    try:
        decode_environment(data.decode(errors="replace"))
    except RostralError:
        return


def policy_manifest(data: bytes) -> None:
    """The description of a policy that somebody has sent, beside weights that are right."""
    _load(data, _right_weights())


def policy_weights(data: bytes) -> None:
    """Weights that somebody has sent, beside a description that names them."""
    digest = hashlib.sha256(data).hexdigest()
    manifest = {**_right_manifest(), "weights": {"file": _WEIGHTS, "sha256": digest}}
    _load(json.dumps(manifest).encode(), data)


def sb3_description(data: bytes) -> None:
    """The description in a zip of Stable-Baselines3, with weights that one such had."""
    try:
        policy_of(json.loads(data), _SB3_WEIGHTS, "fuzz.zip")
    except (RostralError, ValueError, RecursionError):
        return


def _load(manifest: bytes, weights: bytes) -> None:
    folder = _SCRATCH / "policy"
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST).write_bytes(manifest)
    (folder / _WEIGHTS).write_bytes(weights)
    try:
        load_policy(folder)
    except RostralError:
        return


def _right_weights() -> bytes:
    return bytes(safetensors.numpy.save(dict(POLICY.weights)))


@functools.cache
def _right_manifest() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        save_policy(POLICY, folder)
        manifest: dict[str, Any] = json.loads((Path(folder) / MANIFEST).read_bytes())
    digest = hashlib.sha256(_right_weights()).hexdigest()
    return {**manifest, "weights": {"file": _WEIGHTS, "sha256": digest}}


def _package() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as package:
        for name in ("module.py", "../outside.py", "/absolute.py"):
            # Its time is its own, not that of this moment.
            package.writestr(zipfile.ZipInfo(name), "answer = 42\n" * 20)
    return file.getvalue()


def _segment() -> bytes:
    frames = [
        Frame(table=3, key_size=2, keys=b"abcd", sizes=[1, 2], values=b"xyz", first_sequence=7),
        Frame(sequences=[9], table=1, key_size=1, keys=b"k", sizes=[1], values=b"v"),
        Frame(answer=Answer(b"r" * 16, b"payload", 1.5)),
    ]
    with tempfile.TemporaryDirectory() as folder:
        segment = Segment.create(Path(folder) / "segment", 1)
        segment.append(frames)
        segment.close()
        return segment.path.read_bytes()


def file_seeds() -> dict[str, list[bytes]]:
    """By target."""
    environment = EnvironmentSpec(env_vars={"A": "b"}, installer="pip", requirements=("numpy",))
    return {
        "lineage_segment": [_segment()],
        "package_file": [_package()],
        "runtime_environment": [encode_environment(environment).encode()],
        "policy_manifest": [json.dumps(_right_manifest()).encode()],
        "policy_weights": [_right_weights()],
        "sb3_description": [json.dumps(_SB3_DATA).encode()],
    }
