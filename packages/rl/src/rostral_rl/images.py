"""What counts as an image among observations, and the convolutions that are usual for it."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from gymnasium import spaces as gym_spaces

from rostral_rl.spaces import Space

Convolutions: TypeAlias = tuple[tuple[int, int, int], ...]
"""Filters, size and stride of each layer."""

NATURE: Convolutions = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
"""Those of Mnih et al. 2015, followed there by one layer of 512."""
NATURE_SIDE_MIN = 36
"""Sides of an image from which on they leave something."""
SMALL: Convolutions = ((16, 3, 1),)
"""For images as small as MinAtar's (Young & Tian 2019), whose net this is."""
SMALL_SIDE_MIN = 3


class Image(NamedTuple):
    """How an observation is laid out.

    Attributes:
        shape: Height, width, channels.
        channels_first: The channels come before height and width.
    """

    shape: tuple[int, int, int]
    channels_first: bool


def image_of(space: Space) -> Image | None:
    """How to look at observations of `space` as images; None where there is no way.

    Frames without channels, (height, width), have one. Of three axes, the shorter of first and last
    are the channels; the last, where they are equal.
    """
    if not isinstance(space, gym_spaces.Box):
        return None
    if len(space.shape) == 2:
        return Image((*space.shape, 1), channels_first=False)
    if len(space.shape) != 3:
        return None
    first, middle, last = space.shape
    if first < last:
        return Image((middle, last, first), channels_first=True)
    return Image((first, middle, last), channels_first=False)


def usual_convolutions(space: Space) -> Convolutions:
    """Those for images of bytes, by their size; none for other observations."""
    image = image_of(space)
    if image is None or space.dtype != np.uint8:
        return ()
    side = min(image.shape[:2])
    if side >= NATURE_SIDE_MIN:
        return NATURE
    return SMALL if side >= SMALL_SIDE_MIN else ()
