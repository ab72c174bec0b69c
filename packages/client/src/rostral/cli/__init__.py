"""The `rostral` command."""

from rostral.cli.main import main

__all__ = ["main"]
