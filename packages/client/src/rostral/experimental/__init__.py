"""What may change: for programs that look below the surface."""

from rostral.experimental.locations import (
    ObjectLocation,
    get_local_object_locations,
    get_object_locations,
)

__all__ = ["ObjectLocation", "get_local_object_locations", "get_object_locations"]
