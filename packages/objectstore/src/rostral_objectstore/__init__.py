"""Rostral's object store: zero-copy put and get between unrelated processes of one machine."""

from rostral_gcs.ids import ObjectID
from rostral_objectstore.client import StoreClient
from rostral_objectstore.config import StoreConfig
from rostral_objectstore.daemon import StoreDaemon
from rostral_objectstore.events import ObjectEvent, Subscription
from rostral_objectstore.handle import ObjectHandle
from rostral_objectstore.observed import ObjectInfo, StoreStats
from rostral_objectstore.writable import WritableArray, WritableObject

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
