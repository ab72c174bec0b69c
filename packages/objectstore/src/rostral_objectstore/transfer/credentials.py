"""Who may fetch, and how a node proves it: by what all services of a cluster go by."""

from __future__ import annotations

from rostral_gcs.credentials import Credentials, Secrets, is_loopback, split_address

__all__ = ["Credentials", "Secrets", "is_loopback", "split_address"]
