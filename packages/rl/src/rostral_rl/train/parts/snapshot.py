"""A training on disk: what it takes to go on exactly where it stood. Never a pickle.

    checkpoint.json                  algorithm, settings, plan, counters, generators, environments
    state-<8 hex>.safetensors        nets, moments of optimisers and normalisers, replay

As with a policy folder, the JSON file is moved into place last and names the other by its digest,
so that a save that is cut short leaves the older checkpoint whole. Exact means: the same steps, bit
for bit, in sync mode and with the same layout of workers; where an environment cannot be brought
back, its episode begins anew and a warning says so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import safetensors
import safetensors.numpy

from rostral_rl.arrays import SpaceArray
from rostral_rl.checkpoint import replace_file, unwritable
from rostral_rl.errors import CheckpointError
from rostral_rl.simulate.sampler import SamplerState

if TYPE_CHECKING:
    from rostral_rl.train.trainer import Plan, Settings

FORMAT = "rostral-checkpoint"
FORMAT_VERSION = 1
MANIFEST = "checkpoint.json"
STACKED: tuple[Literal["seen", "state"], ...] = ("seen", "state")
"""Arrays of each environment, which are kept side by side."""


@dataclass(slots=True)
class Snapshot:
    """What a checkpoint holds.

    Attributes:
        arrays: By name; any shape and dtype that safetensors knows.
        values: Plain values that JSON keeps exactly.
        manifest: The head of a checkpoint that was read: algorithm, settings, plan.
    """

    arrays: dict[str, SpaceArray] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)

    def put_generator(self, name: str, generator: np.random.Generator) -> None:
        """Keeps a generator's state."""
        self.values[f"generator.{name}"] = generator.bit_generator.state

    def take_generator(self, name: str, generator: np.random.Generator) -> None:
        """Gives a generator the state that was kept."""
        generator.bit_generator.state = self.values[f"generator.{name}"]

    def put_all(self, prefix: str, arrays: dict[str, SpaceArray]) -> None:
        """Keeps arrays under `prefix.name`."""
        self.arrays.update({f"{prefix}.{name}": array for name, array in arrays.items()})

    def take_all(self, prefix: str) -> dict[str, SpaceArray]:
        """The arrays that were kept under a prefix, by their names."""
        start = f"{prefix}."
        return {k[len(start) :]: v for k, v in self.arrays.items() if k.startswith(start)}

    def put_env_states(self, states: Sequence[SamplerState]) -> None:
        """Keeps where the environments stand; none where nothing was played yet."""
        if states:
            for name in STACKED:
                self.arrays[name] = np.stack([state[name] for state in states])
        self.values["environments"] = [
            {k: v for k, v in state.items() if k not in STACKED} for state in states
        ]


def take_env_states(snapshot: Snapshot) -> list[SamplerState]:
    """Where the environments stood."""
    plain = snapshot.values["environments"]
    return [
        cast("SamplerState", {**values, **{name: snapshot.arrays[name][i] for name in STACKED}})
        for i, values in enumerate(plain)
    ]


def save_snapshot(snapshot: Snapshot, folder: Path, settings: Settings, plan: Plan) -> None:
    """Writes a checkpoint into `folder`, which is made where missing.

    Raises:
        FolderUnwritableError: It cannot be written.
    """
    blob = safetensors.numpy.save({k: np.asarray(v, order="C") for k, v in snapshot.arrays.items()})
    digest = hashlib.sha256(blob).hexdigest()
    name = f"state-{digest[:8]}.safetensors"
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "algorithm": settings.algorithm,
        "settings": settings.plain(),
        "plan": {
            "env": plan.env if isinstance(plan.env, str) else None,
            "total_steps": plan.total_steps,
            "seed": plan.seed,
        },
        "state": {"file": name, "sha256": digest},
        "values": snapshot.values,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / name, blob)
        replace_file(folder / MANIFEST, json.dumps(manifest).encode() + b"\n")
        for stale in folder.glob("state-*.safetensors"):
            if stale.name != name:
                stale.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error


def load_snapshot(folder: Path) -> Snapshot:
    """Reads a checkpoint.

    Raises:
        CheckpointError: There is none, it is damaged, or of a format that this release does not
            read.
    """
    file = folder / MANIFEST
    try:
        manifest = json.loads(file.read_bytes())
        if manifest["format"] != FORMAT or manifest["format_version"] != FORMAT_VERSION:
            raise CheckpointError(
                f"{file} is not a {FORMAT} of version {FORMAT_VERSION}",
                hint="resume with the release that wrote it",
            )
        state = folder / Path(manifest["state"]["file"]).name
        blob = state.read_bytes()
        if hashlib.sha256(blob).hexdigest() != manifest["state"]["sha256"]:
            raise CheckpointError(f"{state} is not what was saved: its SHA-256 differs")
        arrays = dict(safetensors.numpy.load(blob))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"no checkpoint in {folder}",
            hint="rostral-rl train --out DIR --checkpoint-every N writes one",
        ) from error
    except (ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"the checkpoint in {folder} is damaged: {error!r}") from error
    return Snapshot(arrays=arrays, values=manifest["values"], manifest=manifest)
