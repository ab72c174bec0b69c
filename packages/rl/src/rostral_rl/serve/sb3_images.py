"""Stable-Baselines3's CnnPolicy: its NatureCNN, turned into a net of ours.

The library's convolutions are those of Mnih et al. 2015; their strides are not in its files, so
that only what has exactly their windows is taken for them. It flattens channel by channel first,
our nets channel last: the first layer after them is turned around accordingly.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rostral_rl.arrays import FloatArray, Weights
from rostral_rl.errors import ModelRejectedError
from rostral_rl.forward import NetSpec
from rostral_rl.heads import HeadKind
from rostral_rl.images import NATURE, image_of
from rostral_rl.net import trunk_widths
from rostral_rl.spaces import Space

EXTRACTORS = {
    "actor_critic": "features_extractor",
    "dqn": "q_net.features_extractor",
    "sac": "actor.features_extractor",
    "td3": "actor.features_extractor",
}
"""Where each kind of file keeps what looks at images."""


def looks_at_images(kind: str, tensors: Weights) -> bool:
    """Whether the file's actor has convolutions."""
    return f"{EXTRACTORS[kind]}.cnn.0.weight" in tensors


def image_net(
    kind: str,
    tensors: Weights,
    layers: list[tuple[FloatArray, FloatArray]],
    *,
    space: Space,
    head: HeadKind,
    parts: tuple[int, ...],
    activation: str,
    settings: dict[str, Any],
    name: str,
) -> tuple[NetSpec, Weights]:
    """The net's shape and weights.

    Args:
        kind: As `EXTRACTORS` has them.
        tensors: All of the file.
        layers: Matrix (in, out) and bias of each layer after the extractor.
        space: Of observations.
        head: How outputs become actions.
        parts: As of `NetSpec`.
        activation: Between the layers after the extractor, whose own is ReLU.
        settings: The file's `policy_kwargs`.
        name: Of the file, for errors.

    Raises:
        ModelRejectedError: Not the library's own extractor, or not on images of bytes.
    """

    def refuse(why: str) -> ModelRejectedError:
        return ModelRejectedError(
            f"{name}: {why}", hint="of those with images, only CnnPolicy with NatureCNN can be read"
        )

    image = image_of(space)
    if image is None or not image.channels_first or space.dtype != np.uint8:
        raise refuse(f"its observations are no images of bytes, channels first: {space}")
    if settings.get("normalize_images") is False:
        raise refuse("it reads bytes as they are, and not as shares of 255")
    if len(layers) > 1 and activation != "relu":
        raise refuse(f"it has layers of {activation} on convolutions of relu")
    prefix = EXTRACTORS[kind]
    weights: Weights = {}
    for i, (filters, size, _) in enumerate(NATURE):
        weight = tensors.get(f"{prefix}.cnn.{2 * i}.weight")
        if weight is None or weight.shape[:1] + weight.shape[2:] != (filters, size, size):
            raise refuse("its convolutions are not NatureCNN's")
        weights[f"conv.{i}.weight"] = np.ascontiguousarray(weight.transpose(2, 3, 1, 0))
        weights[f"conv.{i}.bias"] = tensors[f"{prefix}.cnn.{2 * i}.bias"]
    linear = tensors.get(f"{prefix}.linear.0.weight")
    if linear is None or f"{prefix}.cnn.{2 * len(NATURE)}.weight" in tensors:
        raise refuse("its convolutions are not NatureCNN's")
    spec = NetSpec(
        inputs=math.prod(image.shape),
        hidden=(len(linear), *(bias.size for _, bias in layers[:-1])),
        outputs=layers[-1][1].size,
        activation="relu",
        head=head,
        parts=parts,
        image=image.shape,
        channels_first=True,
        conv=NATURE,
    )
    flat = trunk_widths(spec)[0]
    channels = NATURE[-1][0]
    if linear.shape[1] != flat:
        raise refuse(f"its convolutions leave {linear.shape[1]} numbers and not {flat}")
    # (out, channels, cells) to (out, cells, channels).
    turned = linear.reshape(len(linear), channels, -1).transpose(0, 2, 1).reshape(len(linear), -1)
    weights["trunk.0.weight"] = np.ascontiguousarray(turned.T)
    weights["trunk.0.bias"] = tensors[f"{prefix}.linear.0.bias"]
    for i, (matrix, bias) in enumerate(layers[:-1], start=1):
        weights[f"trunk.{i}.weight"], weights[f"trunk.{i}.bias"] = matrix, bias
    weights["pi.0.weight"], weights["pi.0.bias"] = layers[-1]
    return spec, weights
