"""Tells the C library to keep the memory that receiving frees, since it is wanted again at once.

gRPC takes and frees a buffer of a chunk's size for each chunk. By default glibc gives so much back
to the kernel and asks for it again, page by page: measured, 130,000 page faults for each gigabyte,
which took as long as receiving it.
"""

from __future__ import annotations

import ctypes

# From malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
# The largest that glibc takes; above it a block is always mapped for itself.
_MMAP_THRESHOLD_MAX = 32 << 20


def keep_freed_memory(size_bytes: int) -> None:
    """This process keeps up to so many bytes of freed heap memory. Another libc takes no notice."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    mallopt(_M_MMAP_THRESHOLD, min(size_bytes, _MMAP_THRESHOLD_MAX))
    mallopt(_M_TRIM_THRESHOLD, size_bytes)
