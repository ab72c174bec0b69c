"""Runs as a script: one device daemon, started by the store daemon (device_daemons.py).

Its one argument is its settings as JSON. On its standard output it says one line of JSON when it is
ready, or why it is not; then nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys

from rostral_gcs.errors import RostralError
from rostral_objectstore.control import encode_error
from rostral_objectstore.gpu.daemon import DeviceDaemon, DeviceDaemonConfig


def _say(line: object) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


async def _serve(config: DeviceDaemonConfig) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    daemon = DeviceDaemon(config)
    await daemon.serve(lambda: _say({"ready": True}), stopped)


def main() -> None:
    """Serves until it is told to stop, or is not needed any more."""
    logging.basicConfig(level=logging.WARNING)
    try:
        asyncio.run(_serve(DeviceDaemonConfig(**json.loads(sys.argv[1]))))
    except RostralError as error:
        _say({"ready": False, "error": encode_error(error)})
        sys.exit(1)


if __name__ == "__main__":
    main()
