"""Objects between nodes, by Arrow Flight. Needs the `transfer` extra."""

from rostral_objectstore.transfer.broadcast import broadcast
from rostral_objectstore.transfer.config import FetchConfig, TransferServerConfig
from rostral_objectstore.transfer.credentials import Credentials
from rostral_objectstore.transfer.fetcher import Fetcher
from rostral_objectstore.transfer.server import TransferServer
from rostral_objectstore.transfer.service import TransferConfig, TransferService
from rostral_objectstore.transfer.tree import plan_tree

__all__ = [
    "Credentials",
    "FetchConfig",
    "Fetcher",
    "TransferConfig",
    "TransferServer",
    "TransferServerConfig",
    "TransferService",
    "broadcast",
    "plan_tree",
]
