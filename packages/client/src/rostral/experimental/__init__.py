"""What may change: for programs that look below the surface."""

from rostral.experimental import tqdm_ray
from rostral.experimental.freeing import free
from rostral.experimental.locations import (
    ObjectLocation,
    get_local_object_locations,
    get_object_locations,
)

__all__ = [
    "ObjectLocation",
    "free",
    "get_local_object_locations",
    "get_object_locations",
    "tqdm_ray",
]
