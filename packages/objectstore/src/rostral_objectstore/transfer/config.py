"""Settings of transfers, with their units, defaults and reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rostral_gcs.errors import ConfigError
from rostral_objectstore.transfer.credentials import Credentials, is_loopback, split_address
from rostral_objectstore.transfer.messages import CHUNK_BYTES


def _raise_if(problems: Sequence[str], hint: str | None = None) -> None:
    if problems:
        raise ConfigError(
            "the configuration of transfers is wrong: " + "; ".join(problems),
            hint=hint,
            problems=problems,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferServerConfig:
    """Settings of the side that gives objects away."""

    credentials: Credentials

    address: str = "127.0.0.1:0"
    """HOST:PORT to listen at; port 0 takes a free one. Anything but loopback needs TLS."""

    bytes_port: int = 0
    """Where the bytes of large objects go out, on the same host; 0 takes a free port. Give one
    where a firewall must know it."""

    bandwidth_bytes_s: int | None = None
    """All streams together send no more bytes in a second. None: no limit, which suits a network
    that carries nothing else."""

    burst_bytes: int = 8 * CHUNK_BYTES
    """What may be sent at once after a pause, under a limit: enough that small objects do not feel
    it."""

    streams_max: int = 64
    """Ranges sent at the same time; more are told to come back. Each has a thread of 100 KiB or so
    and keeps up to three chunks in buffers: 64 stay under 256 MiB."""

    connections_max: int = 256
    """Connections for bytes, used or not; more are closed at once. Each has a thread."""

    handshake_timeout_s: float = 5.0
    """Whoever connects must have shown the key by then."""

    idle_timeout_s: float = 300.0
    """A connection that nothing is asked over for so long is closed."""

    stall_timeout_s: float = 30.0
    """A receiver that takes nothing for so long is cut off, since its stream keeps the object and a
    place. Longer than any receiver waits: it gives up first."""

    def validate(self) -> None:
        """Raises ConfigError with everything that is wrong at once."""
        problems = self.credentials.problems()
        hint = None
        try:
            host, _ = split_address(self.address)
        except ConfigError as error:
            problems.append(error.message)
        else:
            if not is_loopback(host) and self.credentials.tls_certificate_file is None:
                problems.append(f"address is {self.address}, which other machines can reach")
                hint = "give a TLS certificate, its key and the CA's, or bind to 127.0.0.1"
        if self.bandwidth_bytes_s is not None and self.bandwidth_bytes_s < CHUNK_BYTES:
            problems.append(
                f"bandwidth_bytes_s is {self.bandwidth_bytes_s}: the least that works is a chunk "
                f"a second, {CHUNK_BYTES}"
            )
        if self.burst_bytes < CHUNK_BYTES:
            problems.append(f"burst_bytes is {self.burst_bytes}: at least a chunk, {CHUNK_BYTES}")
        if not 0 <= self.bytes_port <= 65535:
            problems.append(f"bytes_port is {self.bytes_port}: 0 to 65535")
        for name in ("streams_max", "connections_max"):
            if getattr(self, name) < 1:
                problems.append(f"{name} is {getattr(self, name)}: at least 1")
        for name in ("stall_timeout_s", "handshake_timeout_s", "idle_timeout_s"):
            if not getattr(self, name) > 0:
                problems.append(f"{name} is {getattr(self, name)}: more than 0")
        _raise_if(problems, hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchConfig:
    """Settings of the side that gets objects."""

    credentials: Credentials

    timeout_s: float = 600.0
    """How long a fetch may take as a whole, if its caller does not say: what Ray's users are used
    to."""

    stall_timeout_s: float = 5.0
    """A holder that sends no whole chunk for so long is left for the next one. Below 0.2 MiB/s a
    holder is as good as dead."""

    call_timeout_s: float = 60.0
    """One call by Flight, which a longer stretch goes on after with a new one. Also how long a
    thread may hang in a call to a holder that is frozen."""

    holders_at_once: int = 2
    """Holders that one fetch reads from at the same time, the others are for when one fails. Two
    share the load; with more, each has less to gain than it costs to connect."""

    streams_per_holder: int = 2
    """One stream's receiver copies while the other's socket is read: measured on two cores, two
    are faster than one, and four are not faster than two."""

    stretch_bytes_max: int = 256 * CHUNK_BYTES
    """What one call asks for: long enough that the opening of calls does not show (measured for
    1 GB on loopback: 0.89 of plain TCP, 0.80 with a quarter of this), short enough that another
    stream can take a good part over."""

    fetches_max: int = 64
    """Transfers at the same time; more wait for one to end. Bounds threads and half-made
    objects."""

    holders_max: int = 64
    """Holders of one fetch. A longer list is a mistake."""

    idle_connections_max: int = 64
    """Connections kept for the next fetch; each costs a socket and some threads of gRPC's."""

    freed_bytes_kept: int = 64 * CHUNK_BYTES
    """Freed memory that the process keeps for the next chunk instead of giving it back to the
    kernel: without it a warm 1 GB takes about twice as long. Concerns malloc in the whole process;
    0 leaves it as it is."""

    busy_pause_s: float = 0.02
    """A holder that is busy is asked again after this, then after twice as long, and so on."""

    busy_pause_s_max: float = 1.0
    """The longest such pause."""

    def validate(self) -> None:
        """Raises ConfigError with everything that is wrong at once."""
        problems = self.credentials.problems()
        for name in ("holders_at_once", "streams_per_holder", "fetches_max", "holders_max"):
            if getattr(self, name) < 1:
                problems.append(f"{name} is {getattr(self, name)}: at least 1")
        for name in ("timeout_s", "stall_timeout_s", "call_timeout_s", "busy_pause_s"):
            if not getattr(self, name) > 0:
                problems.append(f"{name} is {getattr(self, name)}: more than 0")
        if self.busy_pause_s_max < self.busy_pause_s:
            problems.append("busy_pause_s_max is less than busy_pause_s")
        for name in ("idle_connections_max", "freed_bytes_kept"):
            if getattr(self, name) < 0:
                problems.append(f"{name} is {getattr(self, name)}: at least 0")
        if self.stretch_bytes_max < CHUNK_BYTES:
            problems.append(
                f"stretch_bytes_max is {self.stretch_bytes_max}: at least a chunk, {CHUNK_BYTES}"
            )
        _raise_if(problems)

    def check_holders(self, holders: Sequence[str]) -> tuple[str, ...]:
        """The holders, each once. Raises ConfigError for what must not be connected to."""
        problems = []
        if not holders:
            problems.append("no holder is given")
        if len(holders) > self.holders_max:
            problems.append(f"{len(holders)} holders are given: at most {self.holders_max}")
        for holder in holders[: self.holders_max]:
            try:
                host, _ = split_address(holder)
            except ConfigError as error:
                problems.append(error.message)
            else:
                # The token goes with the first bytes: it must not leave this machine in the clear.
                if self.credentials.tls_ca_file is None and not is_loopback(host):
                    problems.append(f"holder {holder} is another machine, and tls_ca_file not set")
        _raise_if(problems)
        return tuple(dict.fromkeys(holders))
