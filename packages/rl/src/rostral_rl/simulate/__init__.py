"""Environments stepped many at a time, here or by actors; usable with someone else's learner."""

from rostral_rl.simulate.adapter import VectorAdapter, VectorSource
from rostral_rl.simulate.fragment import Fragment
from rostral_rl.simulate.make import make_vector
from rostral_rl.simulate.sampler import Sampler
from rostral_rl.simulate.slabs import Slab
from rostral_rl.simulate.vector import GymVector, VectorEnv

__all__ = [
    "Fragment",
    "GymVector",
    "Sampler",
    "Slab",
    "VectorAdapter",
    "VectorEnv",
    "VectorSource",
    "make_vector",
]
