"""Ctrl-C ends what tests start, however they were started themselves."""

from __future__ import annotations

import signal

# A shell has what it runs in the background ignore it, and all that is started from there.
signal.signal(signal.SIGINT, signal.default_int_handler)
