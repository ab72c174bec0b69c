"""Runs as a script: a nursery that forks peers, processes that do what a test tells them.

A test talks to a peer by Python text, so that what two processes do to each other reads in the
order in which it happens. Forking one here costs milliseconds; importing NumPy in each would not.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from multiprocessing.connection import Client
from typing import Any

NAMES = """
import hashlib, itertools, os, pickle, random, signal, threading, time
import numpy as np
from rostral_gcs.ids import ObjectID
from rostral_objectstore import ObjectHandle, StoreClient
from rostral_objectstore._native import cancelling, repair
from rostral_objectstore._native.queue import Queue
from rostral_objectstore._native.stream import StreamWriter
from rostral_objectstore._native.table import Handle
from rostral_objectstore._native.task import TaskContext
from rostral_objectstore.errors import *
from process_memory import anonymous_bytes, in_segment
"""


def serve(address: str, names: dict[str, Any]) -> None:
    """Executes what comes in until the test closes the connection."""
    with Client(address, family="AF_UNIX") as connection:
        while True:
            try:
                kind, text, values = connection.recv()
            except EOFError:
                return
            names.update(values)
            answer: object = None
            try:
                if kind == "ask":
                    answer = eval(text, names)
                else:
                    exec(text, names)
            except BaseException as error:
                connection.send((type(error).__name__, f"{error}\n{traceback.format_exc()}"))
            else:
                connection.send((None, answer))


def main() -> None:
    address = sys.argv[1]
    names: dict[str, Any] = {}
    exec(NAMES, names)
    # Nobody waits for a peer: the kernel shall forget it.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while sys.stdin.readline():
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                serve(address, names)
                status = 0
            finally:
                os._exit(status)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
