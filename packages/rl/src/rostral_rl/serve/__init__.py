"""Answers observations with actions, in batches. No torch; Uvicorn for HTTP alone."""

from __future__ import annotations

from rostral_rl.serve.front import serve

__all__ = ["serve"]
