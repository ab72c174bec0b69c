"""Rostral's object store: zero-copy put and get between unrelated processes of one machine."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from rostral_gcs.ids import ObjectID
from rostral_objectstore.client import StoreClient
from rostral_objectstore.config import StoreConfig
from rostral_objectstore.events import ObjectEvent, Subscription
from rostral_objectstore.handle import ObjectHandle
from rostral_objectstore.observed import ObjectInfo, StoreStats
from rostral_objectstore.writable import WritableArray, WritableObject

if TYPE_CHECKING:
    from rostral_objectstore.daemon import StoreDaemon

__all__ = [
    "ObjectEvent",
    "ObjectHandle",
    "ObjectID",
    "ObjectInfo",
    "StoreClient",
    "StoreConfig",
    "StoreDaemon",
    "StoreStats",
    "Subscription",
    "WritableArray",
    "WritableObject",
]


def __getattr__(name: str) -> object:
    # Only who runs a daemon imports it: clients are many, and start faster without.
    if name != "StoreDaemon":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module("rostral_objectstore.daemon").StoreDaemon


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
