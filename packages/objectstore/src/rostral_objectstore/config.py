"""Settings of the store daemon, with their units, defaults and reasons.

Parsed from the command line in cli.py only.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rostral_gcs.credentials import TlsFiles
from rostral_gcs.errors import ConfigError
from rostral_gcs.services.users import uid_of
from rostral_objectstore.spill_directory import problems_of

if TYPE_CHECKING:
    # Brings Arrow Flight along, which is an extra.
    from rostral_objectstore.transfer import TransferConfig

MEMORY_SHARE = 0.3
MEMORY_BYTES_MAX = 200 << 30
MEMORY_BYTES_MIN = 16 << 20
PAGES_AHEAD_BYTES = 256 << 20
SPILL_FREE_SHARE_MIN = 0.05
FULL_TIMEOUT_S_MAX = 86_400.0


def machine_memory_bytes() -> int:
    """Physical memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def default_memory_bytes() -> int:
    """Three tenths of the machine's memory, at most 200 GiB: what Ray's users are used to."""
    return max(MEMORY_BYTES_MIN, min(int(machine_memory_bytes() * MEMORY_SHARE), MEMORY_BYTES_MAX))


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """Settings of one store daemon."""

    socket_path: str
    """Unix socket for clients; its directory must exist. One user's: the socket gets mode 0600."""

    memory_bytes: int = field(default_factory=default_memory_bytes)
    """Room for objects. Pages are taken from the machine as they are used."""

    pages_ahead_bytes: int = PAGES_AHEAD_BYTES
    """Pages taken from the machine ahead of their use; of a small store, a quarter of it at most.
    256 MiB: two arrays of the size that benchmarks and batches have, made in a twentieth of a
    second; they count as used memory of the machine, and of no process. 0: none."""

    huge_pages: bool = True
    """Make the store of huge pages where the system gives them to who asks (shmem_enabled is
    `advise` or more in /sys/kernel/mm/transparent_hugepage): first use is then 5 times as fast,
    but a store of few small objects takes up to 2 MiB more at each of its ends."""

    worker_user: str | None = None
    """Another user of this machine whose processes of our group are clients too: the one that the
    local scheduler's workers run as. None: our own user alone."""

    node_id: bytes = field(default_factory=lambda: os.urandom(16))
    """16 bytes; random unless the node has an id already."""

    cpu_count: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """Cores that waiting processes may spin on, together."""

    transfer: TransferConfig | None = None
    """How objects travel to and from other nodes. None: they do not, unless there is a
    ``transfer_token_file``."""

    transfer_token_file: str | None = None
    """The cluster's token. With it the store takes part in transfers once it is asked to, on a free
    port of ``transfer_host``: until then nothing is imported and nothing listens."""

    transfer_host: str = "127.0.0.1"
    """Where it listens then; anything but loopback needs ``transfer_tls``."""

    transfer_tls: TlsFiles = field(default_factory=TlsFiles)
    """The files of its TLS then."""

    repair_timeout_s: float = 2.0
    """How long a dead process's holds are kept for a scheduler to take its tasks over: longer than
    any repair seen; a scheduler that hangs must not stop the clean-up."""

    spill_directories: tuple[str, ...] = ()
    """Where objects go when memory is short: directories of our own that nobody else can write to.
    Several disks share the work. None: a full store is full."""

    spill_limit_bytes: int | None = None
    """How much all spill files together may take. None: what the disks have."""

    spill_free_share_min: float = SPILL_FREE_SHARE_MIN
    """No disk is filled beyond this: the rest of the machine wants to live too."""

    spill_threshold: float = 0.8
    """From this share of the store on, the oldest objects are written to disk ahead of need, so
    that a put that finds no room need not wait for a disk."""

    full_timeout_s: float = 10.0
    """How long a put that finds no room waits for some before it is an error; 0: not at all."""

    device_memory_bytes: int | None = None
    """Room for arrays on each GPU, taken from it when the first array comes. None: three tenths of
    its memory. Never more than nine tenths of what is free then."""

    device_idle_s: float = 60.0
    """A GPU that nobody has arrays on, nor a client, for so long gets its memory back."""

    def validate(self) -> None:
        """Raises ConfigError with everything that is wrong at once."""
        errors = []
        if self.memory_bytes < MEMORY_BYTES_MIN:
            errors.append(
                f"memory_bytes is {self.memory_bytes}: the least that works is "
                f"{MEMORY_BYTES_MIN} (16 MiB)"
            )
        if self.memory_bytes > machine_memory_bytes():
            errors.append(
                f"memory_bytes is {self.memory_bytes}, but the machine has "
                f"{machine_memory_bytes()} bytes of memory"
            )
        if not Path(self.socket_path).parent.is_dir():
            errors.append(
                f"socket_path: the directory {Path(self.socket_path).parent} does not exist"
            )
        if self.pages_ahead_bytes < 0:
            errors.append(f"pages_ahead_bytes is {self.pages_ahead_bytes}: at least 0")
        if len(self.node_id) != 16:
            errors.append(f"node_id has {len(self.node_id)} bytes, not 16")
        if self.cpu_count < 1:
            errors.append(f"cpu_count is {self.cpu_count}: at least 1")
        try:
            uid_of(self.worker_user)
        except ConfigError as error:
            errors += error.problems
        if self.device_memory_bytes is not None and self.device_memory_bytes < 1:
            errors.append(f"device_memory_bytes is {self.device_memory_bytes}: at least 1")
        if not self.device_idle_s >= 0:
            errors.append(f"device_idle_s is {self.device_idle_s}: not negative")
        errors += self._spill_problems()
        if errors:
            raise ConfigError(
                "the store's configuration is wrong: " + "; ".join(errors), problems=errors
            )

    def _spill_problems(self) -> list[str]:
        problems = [
            problem
            for path in self.spill_directories
            for problem in problems_of(path, free_share_min=self.spill_free_share_min)
        ]
        if len(set(self.spill_directories)) < len(self.spill_directories):
            problems.append("spill_directories: one of them is named twice")
        if self.spill_limit_bytes is not None and self.spill_limit_bytes < 0:
            problems.append(f"spill_limit_bytes is {self.spill_limit_bytes}: not negative")
        for name in ("spill_free_share_min", "spill_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                problems.append(f"{name} is {getattr(self, name)}: a share, from 0 to 1")
        if not 0 <= self.full_timeout_s <= FULL_TIMEOUT_S_MAX:
            problems.append(
                f"full_timeout_s is {self.full_timeout_s}: from 0 to {FULL_TIMEOUT_S_MAX:.0f} s"
            )
        return problems
