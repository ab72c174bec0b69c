"""What a session changes of its driver's process, and that it is put back."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys

import pytest

from rostral.process_settings import FILES_WANTED

from .command_line import program, run_program
from .waiting import files_of, processes_of, until

pytestmark = pytest.mark.slow


def test_a_terminated_driver_cleans_up_and_says_what_ended_it(runtime_dir: str) -> None:
    driver = program(
        """
import atexit, time, rostral
rostral.init(num_cpus=1, object_store_memory=64 << 20)

@rostral.remote
def hang():
    time.sleep(60)

atexit.register(print, "atexit", flush=True)
ref = hang.remote()
try:
    print("waiting", flush=True)
    rostral.get(ref)
finally:
    print("finally", flush=True)
"""
    )
    with driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "waiting\n"
        driver.send_signal(signal.SIGTERM)
        out, error = driver.communicate(timeout=20)
    assert (out, error) == ("finally\natexit\n", "")
    assert driver.returncode == 128 + signal.SIGTERM
    until(lambda: not processes_of(runtime_dir), "the end of the node")
    assert files_of(runtime_dir) == []


def test_sigterm_is_handled_until_shutdown_unless_the_program_does_so() -> None:
    printed = run_program(
        """
import signal, rostral
def show():
    found = signal.getsignal(signal.SIGTERM)
    print(getattr(found, "__name__", found is signal.SIG_DFL))

def mine(number, frame): ...

def session():
    rostral.init(num_cpus=1, object_store_memory=64 << 20)
    show()

session()
rostral.shutdown()
show()
session()
signal.signal(signal.SIGTERM, mine)
rostral.shutdown()
show()
session()
rostral.shutdown()
show()
"""
    )
    assert printed.split() == ["leave", "True", "leave", "mine", "mine", "mine"]


def test_a_forked_childs_end_is_its_own() -> None:
    """Also when the signal comes before the child has come to itself, as it does now and then."""
    printed = run_program(
        """
import os, signal, time, rostral
rostral.init(num_cpus=1, object_store_memory=64 << 20)
for _ in range(50):
    pid = os.fork()
    if pid == 0:
        try:
            time.sleep(20)
        finally:
            os._exit(1)
    os.kill(pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
print(rostral.get(rostral.put(1)), signal.getsignal(signal.SIGTERM).__name__)
print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""
    )
    assert printed.split("\n")[:2] == ["1 leave", "set()"]


def test_more_files_may_be_open_until_shutdown_also_in_workers() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if most == resource.RLIM_INFINITY else min(most, FILES_WANTED)
    printed = run_program(
        """
import resource, rostral
def limit():
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]

resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
rostral.init(num_cpus=1, object_store_memory=64 << 20)
print(limit(), rostral.get(rostral.remote(limit).remote()))
rostral.shutdown()
print(limit())
rostral.init(num_cpus=1, object_store_memory=64 << 20)
resource.setrlimit(resource.RLIMIT_NOFILE, (512, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
rostral.shutdown()
print(limit())
"""
    )
    assert printed.split() == [str(wanted), str(wanted), "256", "512"]


def test_an_inline_session_leaves_the_process_as_it_is() -> None:
    code = (
        "import resource, rostral, signal\n"
        "state = lambda: (signal.getsignal(15), resource.getrlimit(resource.RLIMIT_NOFILE))\n"
        "before = state()\n"
        "with rostral.init(mode='inline'):\n"
        "    assert state() == before\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert done.returncode == 0
