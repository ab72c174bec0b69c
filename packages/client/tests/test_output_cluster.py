"""What workers print, in the terminal of the driver."""

from __future__ import annotations

import pytest

from .command_line import run_program

pytestmark = pytest.mark.slow

PROGRAM = """
import sys, time, rostral
rostral.init(num_cpus=1, object_store_memory=64 << 20{options})

@rostral.remote
def speak(text):
    print(text)
    print("aside", file=sys.stderr)

@rostral.remote
class Speaker:
    def speak(self, text):
        print(text)

rostral.get(speak.remote("from a task"))
rostral.get(speak.options(name="nightly").remote("by another name"))
rostral.get(Speaker.remote().speak.remote("from an actor"))
deadline = time.monotonic() + float(sys.argv[1])
while time.monotonic() < deadline:
    time.sleep(0.05)
"""


def test_a_workers_lines_appear_behind_the_name_of_the_task(leaves_nothing: str) -> None:
    del leaves_nothing
    lines = run_program(PROGRAM.format(options=""), "1").splitlines()
    texts = {line.partition(") ")[2]: line.partition(" pid=")[0] for line in lines}
    assert texts == {
        "from a task": "(speak",
        "by another name": "(nightly",
        "from an actor": "(Speaker",
    }


def test_the_driver_can_do_without(leaves_nothing: str) -> None:
    del leaves_nothing
    assert run_program(PROGRAM.format(options=", log_to_driver=False"), "0.3") == ""
