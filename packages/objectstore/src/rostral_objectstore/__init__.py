"""Rostral's object store: zero-copy put and get between unrelated processes of one machine."""

from rostral_objectstore.client import ObjectHandle, StoreClient, WritableObject
from rostral_objectstore.config import StoreConfig
from rostral_objectstore.daemon import StoreDaemon

__all__ = ["ObjectHandle", "StoreClient", "StoreConfig", "StoreDaemon", "WritableObject"]
