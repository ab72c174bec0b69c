"""A plug-in that tox finds beside tox.ini: `tox -e demo` ends with the demo's own last line.

That line is one JSON object which other programs read; tox would print its summary behind it.
"""

from __future__ import annotations

from typing import Any

from tox.plugin import impl


@impl
def tox_add_core_config(core_conf: Any, state: Any) -> None:
    """Leaves tox's own lines out, warnings and errors aside, when the demo is all that runs."""
    del core_conf
    options = state.conf.options
    chosen = getattr(options, "env", None)
    if chosen is not None and list(chosen) == ["demo"]:
        # Verbosity is the difference of the two.
        options.quiet = max(options.quiet, options.verbose)
