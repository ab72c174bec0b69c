"""The node process: its zygote first, then all else (running_node.py).

Run as `python -m rostral.node SETTINGS READY_FD`: settings as JSON; a JSON answer goes to the
descriptor once the node serves, or once it is clear that it cannot. The node stops on SIGTERM and
SIGINT and, unless it is detached, when its standard input ends, which is when the process that
started it does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys

from rostral.launcher import NodeSettings
from rostral.process_settings import raise_file_limit
from rostral_scheduler.zygote_start import PRELOADED, WORKER_MODULE, start_zygote


def main() -> None:
    """Entry of `python -m rostral.node`."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    settings = NodeSettings(**json.loads(sys.argv[1]))
    raise_file_limit()  # for the workers too, which inherit it
    zygote = start_zygote(entry=WORKER_MODULE, preload=PRELOADED, environment={})
    # What follows takes half of the node's start, and the zygote's takes the other half meanwhile.
    from rostral.running_node import run

    sys.exit(asyncio.run(run(settings, zygote, int(sys.argv[2]))))


if __name__ == "__main__":
    main()
