"""Where programs written against Ray reach below its surface: names only, all made elsewhere."""

from rostral._private import internal_api

__all__ = ["internal_api"]
