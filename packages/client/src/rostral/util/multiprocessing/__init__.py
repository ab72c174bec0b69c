"""`multiprocessing.Pool` over a cluster."""

from multiprocessing import TimeoutError

from rostral.util.multiprocessing.pool import Pool
from rostral.util.multiprocessing.results import AsyncResult

__all__ = ["AsyncResult", "Pool", "TimeoutError"]
