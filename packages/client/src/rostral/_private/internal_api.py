"""`free`, where Ray's users find it."""

from rostral.experimental.freeing import free

__all__ = ["free"]
