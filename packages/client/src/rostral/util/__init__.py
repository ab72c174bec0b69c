"""What is built on tasks and actors, under the names that Ray's users know."""

from rostral.actor import list_named_actors
from rostral.progress import tqdm
from rostral.serializers import deregister_serializer, register_serializer
from rostral.util.actor_pool import ActorPool
from rostral.util.completion import as_completed, map_unordered
from rostral.util.inspection import inspect_serializability

# Through the module of the same name: imported later, it would take the place of its function.
from rostral.util.placement_group import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

__all__ = [
    "ActorPool",
    "as_completed",
    "deregister_serializer",
    "get_current_placement_group",
    "get_placement_group",
    "inspect_serializability",
    "list_named_actors",
    "map_unordered",
    "placement_group",
    "placement_group_table",
    "register_serializer",
    "remove_placement_group",
    "tqdm",
]
