"""The one place that imports Arrow Flight, which comes with the `transfer` extra.

Whoever lacks them learns at the import of the transfer package which extra to install.
"""

from rostral_objectstore.errors import MissingExtraError

try:
    import pyarrow as pa
    from pyarrow import flight
except ImportError as error:
    raise MissingExtraError(
        f"objects travel between nodes by Arrow Flight, which is not installed: {error}",
        hint="pip install 'rostral-objectstore[transfer]'",
    ) from error

__all__ = ["flight", "pa"]
