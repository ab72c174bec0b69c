"""A soak of the GCS: as many finished tasks as wanted, with the server's memory flat.

Run: ``tox -e soak-lineage -- --records 50000000``. Tasks are recorded in batches of 1,000 as fast
as the server takes them; what is over is flushed to the archive meanwhile. Then every
hundred-thousandth is read back. Ends with one line of JSON, and with status 1 if a task was not
found or the server's memory grew by more than 8 bytes a task over the second half of the run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rostral_gcs import AsyncGcsClient, TaskRow, TaskState, write_token
from rostral_gcs.errors import GcsOverloadedError
from rostral_gcs.ids import FunctionID, JobID, TaskID

BATCH = 1000
SAMPLE = 100_000
SAMPLES_OF_MEMORY = 20
GROWTH_BYTES_MAX = 8.0
JOB = JobID.from_random()
FUNCTION = FunctionID.from_random()


def task_id(at: int) -> TaskID:
    """Ids as random as derived ones are, and known again at the end."""
    return TaskID(struct.pack("<QQ", at * 0x9E3779B97F4A7C15 & (1 << 64) - 1, at))


def task(at: int, spec_size: int) -> TaskRow:
    """An empty task that has been run."""
    return TaskRow(
        task_id=task_id(at),
        job_id=JOB,
        function_id=FUNCTION,
        name="empty",
        state=TaskState.FINISHED,
        submit_time_s=1e9 + at,
        end_time_s=1e9 + at,
        spec=at.to_bytes(8, "little").ljust(spec_size, b"\0"),
    )


def resident_bytes(pid: int) -> int:
    """The memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096


def slope(points: list[tuple[int, int]]) -> float:
    """Bytes a task over the points, by least squares."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


async def record(client: AsyncGcsClient, rows: list[TaskRow]) -> None:
    """Records them, however long the flush is behind: a busy machine's disk may take its time."""
    while True:
        try:
            await client.record_tasks(rows)
            return
        except GcsOverloadedError:
            continue  # The client has paused and tried for ten seconds.


async def soak(
    client: AsyncGcsClient, memory: Callable[[], int], records: int, spec_size: int
) -> dict[str, object]:
    """Writes, then reads back. Returns what there is to say."""
    points: list[tuple[int, int]] = []
    peak = 0
    began_s = time.monotonic()
    for at in range(0, records, BATCH):
        await record(client, [task(one, spec_size) for one in range(at, at + BATCH)])
        if at % (max(BATCH, records // 1000 // BATCH * BATCH)) == 0:
            peak = max(peak, memory())
            points.append((at, memory()))
    wrote_s = time.monotonic() - began_s
    wanted = list(range(0, records, min(SAMPLE, max(1, records // 50))))
    began_s = time.monotonic()
    missing = 0
    for at in range(0, len(wanted), 100):
        rows = [task(one, spec_size) for one in wanted[at : at + 100]]
        found = await client.get_tasks([row.task_id for row in rows])
        missing += sum(found.get(row.task_id) != row for row in rows)
    step = max(1, len(points) // SAMPLES_OF_MEMORY)
    return {
        "records": records,
        "records_per_s": round(records / wrote_s),
        "memory_peak_mb": round(peak / 1e6),
        "memory_mb": [round(size / 1e6) for _, size in points[::step]],
        "growth_bytes_per_task": round(slope(points[len(points) // 2 :]), 3),
        "read_back": len(wanted),
        "missing": missing,
        "read_back_ms": round((time.monotonic() - began_s) * 1e3 / len(wanted), 2),
    }


def serve(folder: Path, memory_max: int, form: str) -> subprocess.Popen[str]:
    """A server of its own, whose memory is its own."""
    code = (
        "import asyncio, sys; from pathlib import Path; from rostral_gcs import *\n"
        "async def main():\n"
        "    server = GcsServer(GcsConfig(data_dir=Path(sys.argv[1]), "
        "token=load_token(sys.argv[2]), "
        "lineage_memory_max=int(sys.argv[3]), archive_form=sys.argv[4]))\n"
        "    await server.start(); print(server.address, flush=True)\n"
        "    await asyncio.to_thread(sys.stdin.read); await server.stop()\n"
        "asyncio.run(main())"
    )
    arguments = [str(folder / "data"), str(folder / "token"), str(memory_max), form]
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


async def run(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Starts the server, soaks it, stops it."""
    token = write_token(folder / "token")
    with serve(folder, arguments.memory_mb * 1_000_000, arguments.form) as server:
        assert server.stdout is not None
        address = (await asyncio.to_thread(server.stdout.readline)).strip()
        async with AsyncGcsClient(address, token) as client:
            outcome = await soak(
                client, lambda: resident_bytes(server.pid), arguments.records, arguments.spec_bytes
            )
        assert server.stdin is not None
        server.stdin.close()
    data = sum(path.stat().st_size for path in (folder / "data").rglob("*") if path.is_file())
    return {**outcome, "disk_mb": round(data / 1e6)}


def main() -> int:
    """Soaks and says how it went."""
    parser = argparse.ArgumentParser(description="Lineage without end, memory flat.")
    parser.add_argument("--records", type=int, default=5_000_000)
    parser.add_argument("--memory-mb", type=int, default=128, help="lineage_memory_max")
    parser.add_argument("--spec-bytes", type=int, default=138, help="256 in all with the record")
    parser.add_argument("--form", choices=("auto", "sqlite", "parquet"), default="auto")
    parser.add_argument("--folder", type=Path, help="where the data lies meanwhile")
    arguments = parser.parse_args()
    arguments.records = max(BATCH, arguments.records // BATCH * BATCH)
    with tempfile.TemporaryDirectory(prefix="rostral-", dir=arguments.folder) as name:
        outcome = asyncio.run(run(arguments, Path(name)))
    growth = outcome["growth_bytes_per_task"]
    assert isinstance(growth, float)
    clean = not outcome["missing"] and growth <= GROWTH_BYTES_MAX
    sys.stdout.write(json.dumps({"soak": "lineage", "clean": clean, **outcome}) + "\n")
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
