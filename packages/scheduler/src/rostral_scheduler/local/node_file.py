"""The file by which drivers of the same user find a node that runs as services.

Owns what is in it. It holds no secret: whoever is not let in at the sockets may read where they
are, and so be told whose node it is.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from rostral_gcs.errors import ConfigError
from rostral_objectstore.takeover import process_start_time
from rostral_scheduler.config import LocalSchedulerConfig

__all__ = ["write_node_file"]


def write_node_file(path: Path, config: LocalSchedulerConfig, node_id: bytes) -> None:
    """Announces the node; the file appears whole or not at all.

    Raises:
        ConfigError: It cannot be written.
    """
    content = {
        "node_id": node_id.hex(),
        "pid": os.getpid(),
        "start_time": process_start_time(os.getpid()),
        "address": config.gcs_address or "",
        "session_dir": str(config.session_dir),
        "store_socket": config.store_socket,
        "scheduler_socket": config.socket_path,
    }
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_text(json.dumps(content), encoding="ascii")
        scratch.chmod(0o644)
        scratch.rename(path)
    except OSError as error:
        raise ConfigError(
            f"node_file {path} cannot be written: {error.strerror}",
            hint="choose a directory you may write to",
        ) from error
