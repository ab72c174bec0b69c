"""The policy folder on disk: `policy.json` and one safetensors file. Never a pickle.

    policy.json                  format, version, spaces, net, provenance, and the name and SHA-256
    of the weights weights-<8 hex>.safetensors  float32 tensors

The weights' name holds the start of their digest and the JSON file is moved into place last, in one
rename. So a save over an older policy that is cut short at any instruction leaves the older one
whole.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from rostral_rl import spaces
from rostral_rl.arrays import Weights, non_finite
from rostral_rl.errors import (
    MISFITS,
    FolderUnwritableError,
    PolicyCorruptError,
    PolicyFormatError,
    PolicyNotFoundError,
    RLError,
)
from rostral_rl.forward import NetSpec
from rostral_rl.net import shapes
from rostral_rl.policy import Policy, PolicyInfo, policy_class

FORMAT = "rostral-policy"
FORMAT_VERSION = 1
MANIFEST = "policy.json"
MANIFEST_BYTES_MAX = 16 << 20
"""A manifest is a few kilobytes; a larger one is not ours and is not read into memory."""


def save_policy(policy: Policy, folder: str | os.PathLike[str]) -> None:
    """Writes a policy into `folder`, which is made where missing, replacing a policy already there.

    Raises:
        FolderUnwritableError: The folder cannot be made, or a file in it cannot be written.
    """
    path = Path(folder)
    blob = safetensors.numpy.save({k: np.ascontiguousarray(v) for k, v in policy.weights.items()})
    digest = hashlib.sha256(blob).hexdigest()
    weights_name = f"weights-{digest[:8]}.safetensors"
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "observation_space": spaces.to_json(policy.observation_space),
        "action_space": spaces.to_json(policy.action_space),
        "net": dataclasses.asdict(policy.spec),
        "info": dataclasses.asdict(policy.info),
        "weights": {"file": weights_name, "sha256": digest},
    }
    try:
        path.mkdir(parents=True, exist_ok=True)
        replace_file(path / weights_name, blob)
        replace_file(
            path / MANIFEST, json.dumps(manifest, indent=2, allow_nan=False).encode() + b"\n"
        )
        for stale in path.glob("weights-*.safetensors"):
            if stale.name != weights_name:
                stale.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(folder: Path, error: OSError) -> FolderUnwritableError:
    """The error for a folder that the system does not let us write."""
    return FolderUnwritableError(
        f"cannot write {folder}: {os.strerror(error.errno or 0)}", hint="give another folder"
    )


def load_policy(folder: str | os.PathLike[str]) -> Policy:
    """Reads a policy folder.

    Raises:
        PolicyNotFoundError: No such folder, or no `policy.json` in it.
        PolicyCorruptError: A file is damaged, missing or does not fit the rest.
        PolicyFormatError: Another program's folder, or a version of ours that this one does not
            read.
    """
    path = Path(folder)
    try:
        return _policy_of(path, _read_manifest(path))
    except RLError:
        raise
    except MISFITS as error:
        raise PolicyCorruptError(f"{path / MANIFEST} lacks or misspells {error}") from error


def _policy_of(path: Path, manifest: dict[str, Any]) -> Policy:
    # JSON has no tuples.
    net: dict[str, Any] = {k: _tuples(v) for k, v in manifest["net"].items()}
    spec = NetSpec(**net)
    info = PolicyInfo(**manifest["info"])
    observation_space = spaces.from_json(manifest["observation_space"])
    action_space = spaces.from_json(manifest["action_space"])
    weights_file, digest = str(manifest["weights"]["file"]), str(manifest["weights"]["sha256"])
    weights = _read_weights(path, weights_file, digest)
    _check_weights(path, spec, weights)
    return policy_class(spec)(
        observation_space=observation_space,
        action_space=action_space,
        spec=spec,
        weights=weights,
        info=info,
    )


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    if not path.is_dir():
        raise PolicyNotFoundError(
            f"no policy folder at {path}", hint="rostral-rl train ... --out DIR writes one"
        )
    try:
        if file.stat().st_size > MANIFEST_BYTES_MAX:
            raise PolicyFormatError(f"{file} is too large to be a policy's manifest")
        manifest = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise PolicyNotFoundError(
            f"{path} holds no {MANIFEST}", hint="is it a policy folder?"
        ) from error
    except ValueError as error:
        raise PolicyCorruptError(f"{file} is not JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise PolicyFormatError(f"{file} does not describe a {FORMAT}")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise PolicyFormatError(
            f"{file} has format version {manifest.get('format_version')!r}, "
            f"this release reads {FORMAT_VERSION}",
            hint="load it with the release of rostral-rl that wrote it",
        )
    return manifest


def _read_weights(path: Path, name: str, digest: str) -> Weights:
    if (
        Path(name).name != name
    ):  # A manifest from elsewhere must not make us read outside its folder.
        raise PolicyCorruptError(f"{path / MANIFEST} names weights outside the folder: {name!r}")
    try:
        blob = (path / name).read_bytes()
    except FileNotFoundError as error:
        raise PolicyCorruptError(f"{path} holds no {name}, which {MANIFEST} names") from error
    except OSError as error:
        raise PolicyCorruptError(
            f"{path} holds no weights {name[:80]!r} that can be read: {error.strerror}"
        ) from error
    if hashlib.sha256(blob).hexdigest() != digest:
        raise PolicyCorruptError(f"{path / name} is not what was saved: its SHA-256 differs")
    try:
        weights: Weights = dict(safetensors.numpy.load(blob))
    except safetensors.SafetensorError as error:
        raise PolicyCorruptError(f"{path / name} is not a safetensors file: {error}") from error
    if (bad := non_finite(weights)) is not None:
        raise PolicyCorruptError(
            f"{path / name}: {bad} holds NaN or infinity", hint="the training diverged"
        )
    return weights


def _check_weights(path: Path, spec: NetSpec, weights: Weights) -> None:
    expected = shapes(spec)
    if "obs.mean" in weights:
        expected["obs.mean"] = expected["obs.std"] = (spec.inputs,)
    for name, shape in expected.items():
        found = weights[name].shape if name in weights else None
        if found != shape:
            raise PolicyCorruptError(
                f"{path}: tensor {name} has shape {found}, the net needs {shape}"
            )


def replace_file(file: Path, data: bytes) -> None:
    """Writes `file` so that a reader or a crash sees the old content or the new."""
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
