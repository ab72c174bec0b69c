"""Who belongs to a cluster, and how a process proves it: the cluster's token, and TLS.

One set serves both roles of a process. As a server it shows the certificate and, with a CA, wants
one from each client; as a client it trusts the CA alone and shows the same certificate. Imports no
grpc: what makes channels of these is ``channels.py``, and sockets ``tls.py``.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rostral_gcs.auth import is_private, load_token
from rostral_gcs.errors import ConfigError, InsecureBindError, TokenFileError

__all__ = [
    "Credentials",
    "Secrets",
    "TlsFiles",
    "TlsSecrets",
    "check_bind",
    "is_loopback",
    "split_address",
    "tls_files",
]

_FILE_BYTES_MAX = 1 << 20
_ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})")


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[v6]:port`. Raises ConfigError."""
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match["port"]) > 65535:
        raise ConfigError(f"{address!r} is not an address", hint="write HOST:PORT or [IPv6]:PORT")
    return match["host"].strip("[]"), int(match["port"])


def is_loopback(host: str) -> bool:
    """Whether what is sent there stays on this machine. Names other than localhost may not."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True, slots=True)
class TlsSecrets:
    """What the files of `TlsFiles` held. Never shows itself."""

    certificate: bytes | None = field(repr=False)
    key: bytes | None = field(repr=False)
    ca: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Secrets(TlsSecrets):
    """What the files of `Credentials` held. Never shows itself."""

    token: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """The files of one process's TLS; none of them: plain TCP, allowed on loopback only."""

    tls_certificate_file: str | None = None
    """PEM, this process's chain."""

    tls_key_file: str | None = None
    """PEM, the certificate's key, mode 0600 and ours."""

    tls_ca_file: str | None = None
    """PEM, who signs the cluster's certificates. A server with it wants one from every client."""

    def problems(self) -> list[str]:
        """What is wrong with the names alone."""
        if (self.tls_certificate_file is None) != (self.tls_key_file is None):
            return ["tls_certificate_file and tls_key_file: give both or none"]
        return []

    def is_mutual(self) -> bool:
        """Whether both sides show a certificate."""
        return None not in (self.tls_certificate_file, self.tls_key_file, self.tls_ca_file)

    def stamp(self) -> tuple[tuple[int, int], ...]:
        """Another value once one of the files was put in another's place, or written to."""
        found = []
        for path in (self.tls_certificate_file, self.tls_key_file, self.tls_ca_file):
            try:
                status = os.stat(str(path))
                found.append((status.st_ino, status.st_mtime_ns))
            except OSError:
                found.append((0, 0))
        return tuple(found)

    def load_tls(self) -> TlsSecrets:
        """Reads the files. Raises TokenFileError, ConfigError."""
        return TlsSecrets(
            _read(self.tls_certificate_file),
            _read(self.tls_key_file, secret=True),
            _read(self.tls_ca_file),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials(TlsFiles):
    """The files that a node's identity lies in."""

    token_file: str
    """The cluster's token, shown with every call. Mode 0600 and ours; `rostral-gcs token FILE`
    makes it."""

    def load(self) -> Secrets:
        """Reads the files. Raises TokenFileError, ConfigError."""
        tls = self.load_tls()
        return Secrets(tls.certificate, tls.key, tls.ca, load_token(self.token_file))


_HOW: Final = (
    "give tls_certificate_file, tls_key_file and tls_ca_file (rostral certs init makes them), bind "
    "to 127.0.0.1, or pass --insecure if the network is trusted"
)


def check_bind(host: str, tls: TlsFiles, *, insecure: bool) -> None:
    """Refuses to listen where others could read and write what goes by.

    Raises:
        InsecureBindError: Beyond loopback without TLS, and not asked for outright.
    """
    if is_loopback(host) or tls.is_mutual() or insecure:
        return
    raise InsecureBindError(f"refusing to listen on {host} without TLS", hint=_HOW)


def tls_files(
    certificate_file: Path | None, key_file: Path | None, ca_file: Path | None
) -> TlsFiles:
    """The files, as settings have them."""
    names = (None if file is None else str(file) for file in (certificate_file, key_file, ca_file))
    certificate, key, ca = names
    return TlsFiles(tls_certificate_file=certificate, tls_key_file=key, tls_ca_file=ca)


def _read(path: str | None, *, secret: bool = False) -> bytes | None:
    if path is None:
        return None
    try:
        with Path(path).open("rb") as file:
            if secret and not is_private(path, os.fstat(file.fileno())):
                raise TokenFileError(
                    f"key file {path} is another user's, or open to group or others",
                    hint=f"chmod 600 {path}, and make a new key if others may have read it",
                )
            data = file.read(_FILE_BYTES_MAX)
    except TokenFileError:
        raise
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if b"-----BEGIN " not in data:
        raise ConfigError(f"{path} is not in PEM form", hint="convert it with openssl")
    return data
