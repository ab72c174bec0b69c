"""Scheduling strategies, where programs written for Ray look for them."""

from rostral.scheduling_strategies import PlacementGroupSchedulingStrategy

__all__ = ["PlacementGroupSchedulingStrategy"]
