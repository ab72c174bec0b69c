"""Streams between two schedulers under mutual TLS: who is let in, and who is told why not."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from rostral_gcs.auth import write_token
from rostral_gcs.certs import init_ca, issue, rotate
from rostral_gcs.credentials import TlsFiles
from rostral_gcs.errors import UnauthenticatedError
from rostral_gcs.tokens import Tokens, revoke_token, rotate_token
from rostral_scheduler.between import peer_link
from rostral_scheduler.between.messages import EndJob

from .peers import OriginEnd, listening, until


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    """An authority, and the certificates of two nodes."""
    folder = tmp_path / "pki"
    init_ca(folder)
    for name in ("host", "node"):
        issue(folder, name, hosts=["127.0.0.1"])
    return folder


def files(folder: Path, name: str | None, *, ca: Path | None = None) -> TlsFiles:
    return TlsFiles(
        tls_certificate_file=None if name is None else str(folder / f"{name}.crt"),
        tls_key_file=None if name is None else str(folder / f"{name}.key"),
        tls_ca_file=str(ca or folder / "ca.crt"),
    )


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


async def is_let_in(address: str, tls: TlsFiles, token: str | Tokens) -> bool:
    """Whether a node with these files gets a stream; else it is told so, and nobody is dead."""
    origin = OriginEnd(address, token=token, tls=tls)
    try:
        await until(lambda: origin.times_connected or origin.refusals, "an answer")
        assert origin.losses == []
        assert all(isinstance(error, UnauthenticatedError) for error in origin.refusals)
        return bool(origin.times_connected)
    finally:
        await origin.link.close()


def test_messages_go_both_ways_under_tls(pki: Path) -> None:
    async def work() -> None:
        async with listening(tls=files(pki, "host")) as (server, host):
            origin = OriginEnd(server.address, tls=files(pki, "node"))
            await until(lambda: origin.times_connected, "the stream is open")
            origin.link.send(EndJob(b"a" * 16))
            await until(lambda: host.heard == [EndJob(b"a" * 16)], "the host hears")
            (outbox,) = host.outboxes.values()
            outbox.send(EndJob(b"b" * 16))
            await until(lambda: origin.heard == [EndJob(b"b" * 16)], "the origin hears")
            await origin.link.close()

    run(work())


def test_every_wrong_certificate_is_refused(
    pki: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else a server that speaks no TLS is asked again for a second.
    monkeypatch.setattr(peer_link, "_WORDLESS_MAX", 2)
    other = tmp_path / "other"
    init_ca(other)
    for name in ("host", "node"):
        issue(other, name, hosts=["127.0.0.1"])
    issue(pki, "late", hosts=["127.0.0.1"], days=1e-9)
    issue(pki, "elsewhere", hosts=["192.0.2.7"])
    issue(pki, "alice", hosts=[], server=False)
    origins = {
        "none": files(pki, None),
        "of another authority": files(other, "node", ca=pki / "ca.crt"),
        "its own": files(other, "ca", ca=pki / "ca.crt"),
        "expired": files(pki, "late"),
        "no TLS at all": TlsFiles(),
    }
    hosts = {
        "of another authority": files(other, "host", ca=pki / "ca.crt"),
        "of another host": files(pki, "elsewhere"),
        "of a client": files(pki, "alice"),
        "expired": files(pki, "late"),
        "no TLS at all": TlsFiles(),
    }

    async def work() -> None:
        token = "t" * 40
        async with listening(tls=files(pki, "host")) as (server, host):
            for what, tls in origins.items():
                assert not await is_let_in(server.address, tls, token), what
            assert host.outboxes == {}
            assert await is_let_in(server.address, files(pki, "node"), token)
        for what, tls in hosts.items():
            async with listening(tls=tls) as (server, host):
                assert not await is_let_in(server.address, files(pki, "node"), token), what
                assert host.outboxes == {}

    run(work())


def test_new_certificates_and_tokens_need_no_restart(pki: Path, tmp_path: Path) -> None:
    theirs, ours = tmp_path / "host.token", tmp_path / "node.token"
    tmp_path.chmod(0o700)
    write_token(theirs)
    ours.touch(0o600)
    ours.write_text(theirs.read_text())

    async def work() -> None:
        tokens = Tokens(theirs)
        async with listening(tls=files(pki, "host"), token=tokens) as (server, _):
            rotate_token(theirs, window_s=600)
            for name in ("host", "node"):
                rotate(pki, name)
            # The former token is good for as long as the window, and the new one from now on.
            for path in (ours, theirs):
                assert await is_let_in(server.address, files(pki, "node"), Tokens(path))
            revoke_token(theirs, "rotated")
            tokens.reread()
            assert not await is_let_in(server.address, files(pki, "node"), Tokens(ours))
            assert await is_let_in(server.address, files(pki, "node"), Tokens(theirs))

    run(work())
