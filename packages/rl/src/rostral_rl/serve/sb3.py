"""Policies of Stable-Baselines3: its zip files, read as data and turned into policies of ours.

A zip of that library holds JSON in which some values are pickles, and weights that torch saved.
Neither is unpickled here: spaces and settings are read from the text that the library writes beside
each pickle, weights by torch's loader that builds tensors and nothing else. So what is loaded acts,
is served and is exported like any policy of ours, without the library; and what cannot be read like
that is refused. Policies "MlpPolicy" and "CnnPolicy" of PPO, A2C, DQN, SAC and TD3.
"""

from __future__ import annotations

import io
import json
import lzma
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from gymnasium import spaces as gym_spaces

from rostral_rl import spaces
from rostral_rl.arrays import FloatArray, Weights
from rostral_rl.errors import MISFITS, ModelRejectedError, PolicyNotFoundError, RLError
from rostral_rl.forward import Activation, NetSpec
from rostral_rl.heads import HeadKind
from rostral_rl.policy import Policy, PolicyInfo
from rostral_rl.serve.sb3_images import image_net, looks_at_images

MEMBER_BYTES_MAX = 1 << 30
"""An unpacked member beyond this is no net that this file can read."""
OBSERVATION_SIZE_MAX = 1 << 24
"""Numbers of an observation: a file of few bytes may claim any shape."""
_BROKEN: Final[tuple[type[Exception], ...]] = (
    *MISFITS,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
)

# Where each algorithm keeps the layers of its actor, in the order in which they are applied.
_TOWERS: dict[str, tuple[str, ...]] = {
    "actor_critic": ("mlp_extractor.policy_net", "action_net"),
    "dqn": ("q_net.q_net",),
    "sac": ("actor.latent_pi", "actor.mu"),
    "td3": ("actor.mu",),
}
# By what a file is known to be of one, in this order.
_MARKS = {
    "actor_critic": "action_net.",
    "dqn": "q_net.q_net.",
    "sac": "actor.latent_pi.",
    "td3": "actor.mu.",
}


def load_sb3(file: str | os.PathLike[str]) -> Policy:
    """Reads a policy that Stable-Baselines3 saved; unpickles nothing.

    Raises:
        PolicyNotFoundError: There is no such file.
        ModelRejectedError: Not such a file, or of a policy that is not a plain perceptron.
    """
    name = str(file)
    try:
        with zipfile.ZipFile(Path(file)) as archive:
            data = json.loads(_member(archive, "data", name))
            tensors = _tensors(_member(archive, "policy.pth", name), name)
    except RLError:
        raise
    except OSError as error:
        raise PolicyNotFoundError(f"cannot read {name}: {error.strerror}") from error
    except _BROKEN as error:
        raise ModelRejectedError(f"{name} is no file of Stable-Baselines3: {error}") from error
    return policy_of(data, tensors, name)


def policy_of(data: Any, tensors: Weights, name: str) -> Policy:
    """The policy that a file describes.

    Args:
        data: What its JSON says.
        tensors: Its weights.
        name: Of the file, for errors.

    Raises:
        ModelRejectedError: It describes none, or not a plain perceptron.
    """
    try:
        return _policy(data, tensors, name)
    except RLError:
        raise
    except MISFITS as error:
        raise ModelRejectedError(f"{name} does not describe a policy: {error!r}") from error


def _policy(data: dict[str, Any], tensors: Weights, name: str) -> Policy:
    observation_space = _space(data, "observation_space", name)
    action_space = _space(data, "action_space", name)
    kind = _kind(tensors, name)
    layers = _layers(kind, tensors, name)
    spec, weights = _net(kind, tensors, layers, observation_space, action_space, data, name)
    if "log_std" in tensors and spec.head == "gaussian":
        weights["log_std"] = tensors["log_std"]
    return Policy(
        observation_space=observation_space,
        action_space=action_space,
        spec=spec,
        weights=weights,
        info=PolicyInfo(algorithm=f"sb3-{kind}", env_steps=int(data["num_timesteps"])),
    )


def _net(
    kind: str,
    tensors: Weights,
    layers: list[tuple[FloatArray, FloatArray]],
    observation_space: spaces.Space,
    action_space: spaces.Space,
    data: dict[str, Any],
    name: str,
) -> tuple[NetSpec, Weights]:
    """The net's shape, and its layers by our names."""
    head, parts = _head(kind, action_space), spaces.choices(action_space)
    activation = _activation(kind, data, name)
    if looks_at_images(kind, tensors):
        return image_net(
            kind,
            tensors,
            layers,
            space=observation_space,
            head=head,
            parts=parts,
            activation=activation,
            settings=data.get("policy_kwargs", {}),
            name=name,
        )
    inputs = len(layers[0][0])
    if inputs != spaces.feature_count(observation_space):
        raise ModelRejectedError(
            f"{name}: the net reads {inputs} numbers, observations of {observation_space} "
            f"have {spaces.feature_count(observation_space)}",
            hint="only MlpPolicy on plain observations, and CnnPolicy, can be read",
        )
    weights: Weights = {}
    for i, (matrix, bias) in enumerate(layers):
        weights[f"pi.{i}.weight"], weights[f"pi.{i}.bias"] = matrix, bias
    spec = NetSpec(
        inputs=inputs,
        hidden=tuple(bias.size for _, bias in layers[:-1]),
        outputs=layers[-1][1].size,
        activation=activation,
        head=head,
        parts=parts,
    )
    return spec, weights


def _member(archive: zipfile.ZipFile, member: str, name: str) -> bytes:
    try:
        info = archive.getinfo(member)
    except KeyError as error:
        raise ModelRejectedError(f"{name} holds no {member}") from error
    if info.file_size > MEMBER_BYTES_MAX:
        raise ModelRejectedError(f"{name}: {member} would unpack to {info.file_size} bytes")
    return archive.read(info)


def _tensors(content: bytes, name: str) -> Weights:
    import torch  # Here alone: to act, and to serve what was converted, nobody needs it.

    try:
        # Refuses whatever is no tensor, before any code of it could run.
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return {key: tensor.float().numpy() for key, tensor in state.items()}
    except Exception as error:
        raise ModelRejectedError(f"{name}: its weights cannot be read: {error}") from error


def _kind(tensors: Weights, name: str) -> str:
    for kind, mark in _MARKS.items():
        if any(key.startswith(mark) for key in tensors):
            return kind
    raise ModelRejectedError(f"{name} holds no actor that is known here", hint="PPO, A2C, DQN, ...")


def _layers(kind: str, tensors: Weights, name: str) -> list[tuple[FloatArray, FloatArray]]:
    """Matrix (in, out) and bias of each layer of the actor, in the order of their application."""
    found: list[str] = []
    for prefix in _TOWERS[kind]:
        of_it = [key.removesuffix(".weight") for key in tensors if key.endswith(".weight")]
        of_it = [k for k in of_it if re.fullmatch(rf"{re.escape(prefix)}(\.\d+)?", k)]
        found += sorted(of_it, key=lambda key: int("0" + key.removeprefix(prefix).strip(".")))
    layers: list[tuple[FloatArray, FloatArray]] = []
    for key in found:
        weight = tensors[f"{key}.weight"]
        if weight.ndim != 2 or (layers and layers[-1][1].size != weight.shape[1]):
            raise ModelRejectedError(f"{name}: {key} is no layer of a perceptron")
        layers.append((np.ascontiguousarray(weight.T), tensors[f"{key}.bias"]))
    if not layers:
        raise ModelRejectedError(f"{name} holds no layer of its actor")
    return layers


def _head(kind: str, space: spaces.Space) -> HeadKind:
    match kind:
        case "dqn":
            return "greedy"
        case "sac" | "td3":  # SAC's deviations are left out: only its means act.
            return "deterministic"
        case _:
            return spaces.usual_head(space)


def _activation(kind: str, data: dict[str, Any], name: str) -> Activation:
    """What the caller chose, else the library's default."""
    said = str(data.get("policy_kwargs", {}).get("activation_fn", ""))
    if not said:
        return "tanh" if kind == "actor_critic" else "relu"
    for activation, theirs in (("tanh", "Tanh'"), ("relu", "ReLU'")):
        if theirs in said:
            return "tanh" if activation == "tanh" else "relu"
    raise ModelRejectedError(f"{name}: activation {said[:80]} is not tanh or relu")


# NumPy reads much more as a dtype than a name, and evaluates a part of that.
_BOX_DTYPES = frozenset(
    f"{kind}{bits}" for kind in ("int", "uint", "float") for bits in (8, 16, 32, 64)
)


def _space(data: dict[str, Any], key: str, name: str) -> spaces.Space:
    described = data.get(key)
    kinds: dict[str, Callable[[dict[str, Any]], spaces.Space]] = {
        "Box": _box,
        "Discrete": lambda d: gym_spaces.Discrete(int(d["n"]), start=int(d["start"])),
        "MultiDiscrete": lambda d: gym_spaces.MultiDiscrete(_numbers(d["nvec"]).astype(np.int64)),
        "MultiBinary": lambda d: gym_spaces.MultiBinary(int(d["n"])),
    }
    try:
        assert isinstance(described, dict)
        kind = re.search(r"\.(\w+)'>$", described[":type:"])
        assert kind is not None
        return kinds[kind[1]](described)
    except (AssertionError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ModelRejectedError(f"{name}: its {key} cannot be read: {error!r}") from error


def _box(described: dict[str, Any]) -> spaces.Space:
    shape = tuple(int(length) for length in described["_shape"])
    name = described["dtype"]
    if name not in _BOX_DTYPES:
        raise ValueError(f"no numbers of dtype {str(name)[:40]!r} are observed or acted with")
    dtype = np.dtype(name)
    low, high = (_bound(described, key, shape) for key in ("low", "high"))
    return gym_spaces.Box(low.astype(dtype), high.astype(dtype), shape, dtype.type)


def _bound(described: dict[str, Any], key: str, shape: tuple[int, ...]) -> Any:
    """The bound as the library printed it: of a long array some values alone, all of them equal."""
    values = _numbers(described.get(f"{key}_repr") or described[key])
    if values.size != int(np.prod(shape)):
        values = _numbers(described[key])
    size = math.prod(shape)
    if values.size != size and size <= OBSERVATION_SIZE_MAX and np.unique(values).size == 1:
        return np.full(shape, values[0])
    return values.reshape(shape)


def _numbers(text: object) -> Any:
    found = re.findall(r"[-+]?(?:inf|\d+\.?\d*(?:e[-+]?\d+)?)", str(text))
    return np.array([float(number) for number in found])
