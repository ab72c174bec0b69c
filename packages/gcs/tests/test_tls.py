"""Mutual TLS of the GCS: who belongs is served, and every wrong certificate is refused."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509

from rostral_gcs import AsyncGcsClient, ClientOptions, GcsConfig, GcsServer, TlsFiles
from rostral_gcs.auth import generate_token
from rostral_gcs.certs import Issued, finish_ca_rotation, init_ca, issue, rotate, rotate_ca
from rostral_gcs.credentials import check_bind
from rostral_gcs.errors import (
    AlreadyExistsError,
    ConfigError,
    GcsUnavailableError,
    InsecureBindError,
    InvalidArgumentError,
    NotFoundError,
    TokenFileError,
)
from rostral_gcs.gcs_settings import SETTINGS

TOKEN = generate_token()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "pki"
    init_ca(path)
    issue(path, "server", hosts=["127.0.0.1", "localhost"])
    issue(path, "node", hosts=["10.0.0.2"])
    return path


def files(folder: Path, name: str | None, *, ca: Path | None = None) -> TlsFiles:
    """What a process with that certificate is configured with."""
    return TlsFiles(
        tls_certificate_file=None if name is None else str(folder / f"{name}.crt"),
        tls_key_file=None if name is None else str(folder / f"{name}.key"),
        tls_ca_file=str(ca or folder / "ca.crt"),
    )


@contextlib.asynccontextmanager
async def serving(folder: Path, tmp_path: Path) -> AsyncIterator[GcsServer]:
    server = GcsServer(
        GcsConfig(
            data_dir=tmp_path / "data",
            token=TOKEN,
            tls_certificate_file=folder / "server.crt",
            tls_key_file=folder / "server.key",
            tls_ca_file=folder / "ca.crt",
        )
    )
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def greet(address: str, tls: TlsFiles) -> None:
    """Connects and reads. Raises GcsUnavailableError when there is no channel to be had."""
    options = ClientOptions(tls=tls, connect_timeout_s=2.0, call_timeout_s=2.0)
    async with AsyncGcsClient(address, TOKEN, options=options) as client:
        await client.list_nodes()


def another_authority(tmp_path: Path) -> Path:
    path = tmp_path / "other"
    init_ca(path)
    issue(path, "node", hosts=["10.0.0.2"])
    issue(path, "server", hosts=["127.0.0.1"])
    return path


def test_who_shows_a_certificate_of_the_cluster_is_served(folder: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(folder, tmp_path) as server:
            await greet(server.address, files(folder, "node"))

    asyncio.run(run())


def test_every_wrong_certificate_of_a_client_is_refused(folder: Path, tmp_path: Path) -> None:
    other = another_authority(tmp_path)
    expired_soon = issue(folder, "late", hosts=["10.0.0.3"], days=1e-9)
    certificate = x509.load_pem_x509_certificate(expired_soon.certificate_file.read_bytes())
    assert certificate.not_valid_after_utc <= dt.datetime.now(dt.UTC)
    wrong = {
        "none": files(folder, None),
        "of another authority": files(other, "node", ca=folder / "ca.crt"),
        "signed by itself": TlsFiles(
            tls_certificate_file=str(other / "ca.crt"),
            tls_key_file=str(other / "ca.key"),
            tls_ca_file=str(folder / "ca.crt"),
        ),
        "expired": files(folder, "late"),
        "no TLS at all": TlsFiles(),
    }

    async def run() -> None:
        async with serving(folder, tmp_path) as server:
            for what, tls in wrong.items():
                with pytest.raises(GcsUnavailableError):
                    await greet(server.address, tls)
                    pytest.fail(f"a client was served whose certificate is {what}")
            await greet(server.address, files(folder, "node"))

    asyncio.run(run())


def test_every_wrong_certificate_of_a_server_is_refused(folder: Path, tmp_path: Path) -> None:
    other = another_authority(tmp_path)
    issue(folder, "alice", hosts=[], server=False)
    places = {"of another authority": (other, "server")}
    for name, host in (("elsewhere", "192.0.2.7"), ("named", "head.example")):
        issue(folder, name, hosts=[host])
        places[f"for {host}"] = (folder, name)
    places["of a client"] = (folder, "alice")

    async def run() -> None:
        for number, (what, (place, name)) in enumerate(places.items()):
            config = GcsConfig(
                data_dir=tmp_path / f"data{number}",
                token=TOKEN,
                tls_certificate_file=place / f"{name}.crt",
                tls_key_file=place / f"{name}.key",
                tls_ca_file=folder / "ca.crt",
            )
            server = GcsServer(config)
            await server.start()
            try:
                with pytest.raises(GcsUnavailableError):
                    await greet(server.address, files(folder, "node"))
                    pytest.fail(f"a server was talked to whose certificate is {what}")
            finally:
                await server.stop()

    asyncio.run(run())


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_an_old_version_of_tls_is_refused(folder: Path, tmp_path: Path) -> None:
    def old(port: int) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.load_verify_locations(folder / "ca.crt")
        context.load_cert_chain(folder / "node.crt", folder / "node.key")
        with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
            context.wrap_socket(plain, server_hostname="127.0.0.1").close()

    async def run() -> None:
        async with serving(folder, tmp_path) as server:
            port = int(server.address.rpartition(":")[2])
            with pytest.raises((ssl.SSLError, OSError)):
                await asyncio.to_thread(old, port)

    asyncio.run(run())


def test_a_running_server_takes_up_new_certificates(folder: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(folder, tmp_path) as server:
            rotate_ca(folder)
            rotate(folder, "server")
            # The old certificate of the node is of the old authority, which is still trusted.
            await greet(server.address, files(folder, "node"))
            old = TlsFiles(
                tls_certificate_file=str(folder / "node.crt"),
                tls_key_file=str(folder / "node.key"),
                tls_ca_file=str(folder / "ca.crt"),
            ).load_tls()
            rotate(folder, "node")
            finish_ca_rotation(folder)
            await greet(server.address, files(folder, "node"))
            assert old.certificate is not None
            assert old.key is not None
            (folder / "old.crt").write_bytes(old.certificate)
            (folder / "old.key").touch(mode=0o600)
            (folder / "old.key").write_bytes(old.key)
            with pytest.raises(GcsUnavailableError):
                await greet(server.address, files(folder, "old"))

    asyncio.run(run())


def test_keys_are_ours_alone_and_refused_when_they_are_not(folder: Path) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700
    for key in folder.glob("*.key"):
        assert key.stat().st_mode & 0o777 == 0o600
    (folder / "node.key").chmod(0o640)
    with pytest.raises(TokenFileError, match=r"node\.key"):
        files(folder, "node").load_tls()


@pytest.mark.skipif(os.geteuid() != 0, reason="a service manager's files are root's")
def test_a_key_may_be_a_credential_that_the_service_manager_keeps(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, credential in (("node.crt", "certificate"), ("node.key", "key"), ("ca.crt", "ca")):
        (tmp_path / f"tls-{credential}").write_bytes((folder / name).read_bytes())
    key = tmp_path / "tls-key"
    key.chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    config = SETTINGS.read(environ={}).config.config
    assert config.tls.is_mutual()
    assert config.tls.load_tls().key == (folder / "node.key").read_bytes()
    key.chmod(0o444)
    with pytest.raises(TokenFileError, match="tls-key"):
        config.tls.load_tls()


def test_what_cannot_be_issued_says_why(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AlreadyExistsError):
        init_ca(folder)
    with pytest.raises(AlreadyExistsError, match="rotate"):
        issue(folder, "node", hosts=["h"])
    with pytest.raises(NotFoundError, match="init"):
        issue(tmp_path, "node", hosts=["h"])
    for name, hosts in (("../x", ["h"]), ("ca", ["h"]), ("x", []), ("x", ["a b"])):
        with pytest.raises(InvalidArgumentError):
            issue(folder, name, hosts=hosts)
    with pytest.raises(NotFoundError):
        rotate(folder, "nobody")


def test_only_mutual_tls_opens_a_wider_bind(folder: Path) -> None:
    check_bind("0.0.0.0", files(folder, "server"), insecure=False)
    check_bind("0.0.0.0", TlsFiles(), insecure=True)
    one_sided = TlsFiles(
        tls_certificate_file=str(folder / "server.crt"), tls_key_file=str(folder / "server.key")
    )
    for tls in (TlsFiles(), one_sided):
        with pytest.raises(InsecureBindError, match="TLS"):
            check_bind("0.0.0.0", tls, insecure=False)


def test_a_certificate_without_its_key_is_a_wrong_configuration(
    folder: Path, tmp_path: Path
) -> None:
    config = GcsConfig(data_dir=tmp_path, token=TOKEN, tls_certificate_file=folder / "server.crt")
    with pytest.raises(ConfigError, match="tls_key_file"):
        config.validate()


def test_no_form_of_what_is_issued_shows_a_key(folder: Path) -> None:
    made: Issued = issue(folder, "shown", hosts=["h"])
    key = (folder / "shown.key").read_text().splitlines()[1]
    assert key not in f"{made!r} {files(folder, 'shown').load_tls()!r}"
