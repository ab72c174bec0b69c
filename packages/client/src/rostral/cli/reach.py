"""How the commands reach what they tell of: nodes of this machine, or a cluster's GCS."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from rostral.exceptions import ClusterUnavailableError
from rostral.session import NodeRecord
from rostral_gcs.credentials import TlsFiles
from rostral_objectstore.control import ControlClient

if TYPE_CHECKING:
    from rostral_gcs.sync_client import GcsClient

F = TypeVar("F", bound=Callable[..., Any])


def timeout_option(command: F) -> F:
    """The option `--timeout`."""
    return click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(min=0.1),
        default=10.0,
        show_default=True,
        help="Seconds that an answer may take.",
    )(command)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Which cluster is meant, and by what we belong to it.

    Attributes:
        address: ``host:port`` of its GCS; None: that of this user's newest node here.
        token_file: None: that node's.
        tls: The files of our TLS.
        timeout_s: How long an answer may take.
    """

    address: str | None
    token_file: Path | None
    tls: TlsFiles
    timeout_s: float


_FILE = click.Path(dir_okay=False)
_CLUSTER = (
    click.option(
        "--address",
        metavar="HOST:PORT",
        envvar="ROSTRAL_ADDRESS",
        help="The cluster's GCS. [default: that of this user's newest node on this machine]",
    ),
    click.option(
        "--token-file",
        type=_FILE,
        envvar="ROSTRAL_TOKEN_FILE",
        help="The cluster's token; not needed for a cluster of this user on this machine.",
    ),
    click.option("--tls-certificate", type=_FILE, envvar="ROSTRAL_TLS_CERTIFICATE", help="Ours."),
    click.option("--tls-key", type=_FILE, envvar="ROSTRAL_TLS_KEY", help="Its key, mode 0600."),
    click.option("--tls-ca", type=_FILE, envvar="ROSTRAL_TLS_CA", help="Whom to trust."),
)


def cluster_options(command: F) -> Any:
    """The options that say which cluster is meant; the command gets them as ``cluster``."""

    @functools.wraps(command)
    def wrapped(
        *,
        address: str | None,
        token_file: str | None,
        tls_certificate: str | None,
        tls_key: str | None,
        tls_ca: str | None,
        timeout_s: float,
        **others: Any,
    ) -> Any:
        tls = TlsFiles(
            tls_certificate_file=tls_certificate, tls_key_file=tls_key, tls_ca_file=tls_ca
        )
        token = None if token_file is None else Path(token_file)
        cluster = Cluster(address=address, token_file=token, tls=tls, timeout_s=timeout_s)
        return command(cluster=cluster, **others)

    for option in reversed(_CLUSTER):
        wrapped = option(wrapped)
    return timeout_option(wrapped)


def records(*, address: str | None = None) -> list[NodeRecord]:
    """This user's running nodes on this machine. Raises ClusterUnavailableError for none."""
    from rostral.session import live_records

    found = [record for record in live_records() if address in (None, record.address)]
    if not found and address is not None:
        raise ClusterUnavailableError(
            f"no node of the cluster at {address} runs on this machine as this user",
            hint="give the cluster's token with --token-file",
        )
    if not found:
        raise ClusterUnavailableError(
            "no node of this user runs on this machine", hint="start one with: rostral start --head"
        )
    return found


@contextlib.contextmanager
def gcs_of(cluster: Cluster) -> Iterator[GcsClient]:
    """A client of the cluster's GCS.

    Raises:
        ClusterUnavailableError: No address is given, and no node of this user runs here.
        GcsError: What connecting fails with.
    """
    from rostral_gcs.auth import load_token
    from rostral_gcs.client_options import ClientOptions
    from rostral_gcs.sync_client import GcsClient

    address, token_file = cluster.address, cluster.token_file
    if address is None or token_file is None:
        record = records(address=address)[-1]
        address, token_file = record.address, token_file or Path(record.token_file)
    options = ClientOptions(
        connect_timeout_s=cluster.timeout_s, call_timeout_s=cluster.timeout_s, tls=cluster.tls
    )
    with GcsClient(address, load_token(token_file), options=options) as client:
        yield client


def ask(path: str, method: str, body: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
    """One question to a node's daemon. Raises what it answers with, or StoreUnavailableError."""
    client = ControlClient(path, timeout_s=timeout_s)
    try:
        return client.call(method, body)
    finally:
        client.close()
