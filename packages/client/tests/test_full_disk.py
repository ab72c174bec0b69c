"""Memory and disk that are full: what a driver sees of it, and that nothing is harmed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
import numpy as np
import rostral
from rostral.exceptions import ObjectStoreFullError, OutOfDiskError

BYTES = 4 << 20
rostral.init(num_cpus=1, object_store_memory=128 << 20, object_spilling_directory=sys.argv[1])
refs = []
try:
    while len(refs) < 100:
        refs.append(rostral.put(np.full(BYTES, len(refs), np.uint8)))
except OutOfDiskError as error:
    assert isinstance(error, ObjectStoreFullError)
    assert error.path.startswith(sys.argv[1]), error.path
    assert error.need_bytes > error.free_bytes >= 0, error
    assert sys.argv[1] in str(error), error
assert 30 <= len(refs) < 100, len(refs)


def check():
    for number, ref in enumerate(refs):
        value = rostral.get(ref)
        assert value.nbytes == BYTES and (value == number).all(), number


# To bring one back from disk, another must have room to go there.
kept = len(refs) - 10
del refs[kept:]
check()
refs += [rostral.put(np.full(BYTES, kept + number, np.uint8)) for number in range(5)]
check()
rostral.shutdown()
print("kept", kept)
"""
ON_A_SMALL_DISK = 'mount -t tmpfs -o size=48m,mode=700 small "$1" && exec "$2" -c "$3" "$1"'


@pytest.mark.slow
def test_a_put_with_no_room_in_memory_nor_on_disk_says_so_and_harms_nothing(
    leaves_nothing: str, tmp_path: Path
) -> None:
    del leaves_nothing
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("a small disk of one's own takes the right to mount one")
    disk = tmp_path / "disk"
    disk.mkdir(mode=0o700)
    ran = subprocess.run(
        ["unshare", "-m", "sh", "-c", ON_A_SMALL_DISK, "sh", str(disk), sys.executable, PROGRAM],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("kept")
