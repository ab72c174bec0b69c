"""Tokens of a file: what each allows, and what becomes of it while a server runs."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rostral_gcs import AsyncGcsClient, GcsConfig, GcsServer, NodeRow, Tokens, write_token
from rostral_gcs.auth import load_token
from rostral_gcs.errors import (
    NotFoundError,
    PermissionDeniedError,
    TokenFileError,
    UnauthenticatedError,
)
from rostral_gcs.ids import NodeID
from rostral_gcs.tokens import Scope, add_token, read_grants, revoke_token, rotate_token

ROW = NodeRow(node_id=NodeID(os.urandom(16)), address="h", hostname="h", resources_total={})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    write_token(path)
    return path


@pytest.fixture
def served(tmp_path: Path, file: Path) -> GcsConfig:
    return GcsConfig(data_dir=tmp_path / "data", token=Tokens(file))


def looked_at(tokens: Tokens) -> Tokens:
    """As if a second had passed since it looked at its file."""
    tokens.reread()
    return tokens


def test_each_token_is_good_for_its_scope_and_those_below(served: GcsConfig, file: Path) -> None:
    grants = {scope: add_token(file, scope=scope, name=scope.name) for scope in Scope}

    async def try_all() -> None:
        server = GcsServer(served)
        await server.start()
        looked_at(served.token)  # type: ignore[arg-type]
        try:
            for scope, grant in grants.items():
                async with AsyncGcsClient(server.address, grant.token) as client:
                    assert await client.list_nodes() is not None
                    writes = [
                        (Scope.DRIVER, client.kv_put(b"k", b"v")),
                        (Scope.NODE, client.kv_put(b"k", b"v", namespace="rostral.schedulers")),
                        (Scope.NODE, client.register_node(replace(ROW, node_id=_node(scope)))),
                    ]
                    for needed, write in writes:
                        if scope >= needed:
                            await write
                            continue
                        with pytest.raises(PermissionDeniedError, match=needed.name.lower()):
                            await write
        finally:
            await server.stop()


def _node(scope: Scope) -> NodeID:
    return NodeID(bytes([scope]) * 16)


def test_rotation_drops_no_client_and_ends_the_old_token_after_its_window(
    served: GcsConfig, file: Path
) -> None:
    tokens = served.token
    assert isinstance(tokens, Tokens)
    old = load_token(file)

    async def rotate() -> None:
        server = GcsServer(served)
        await server.start()
        try:
            async with AsyncGcsClient(server.address, Tokens(file)) as staying:
                made = rotate_token(file, window_s=3600.0)
                looked_at(tokens)
                for token in (old, made.token):
                    async with AsyncGcsClient(server.address, token) as client:
                        await client.list_nodes()
                await staying.kv_put(b"k", b"v")
                assert revoke_token(file, "rotated") == 1
                looked_at(tokens)
                with pytest.raises(UnauthenticatedError):
                    await AsyncGcsClient(server.address, old).connect()
                # It has not looked at its file for less than a second, and does so now.
                await staying.kv_put(b"k", b"w")
        finally:
            await server.stop()

    asyncio.run(rotate())


def test_a_token_ends_with_its_time(file: Path) -> None:
    tokens, old = Tokens(file), load_token(file)
    rotate_token(file, window_s=0.05)
    looked_at(tokens)
    deadline = time.monotonic() + 5
    while tokens.find(old) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert tokens.find(load_token(file)) is not None


def test_a_file_that_is_spoilt_while_it_is_used_changes_nothing(file: Path) -> None:
    tokens, token = Tokens(file), load_token(file)
    file.chmod(0o644)
    looked_at(tokens)
    assert tokens.current() == token
    file.chmod(0o600)
    file.write_text("nonsense\n")
    looked_at(tokens)
    assert tokens.find(token) is not None


def test_a_revoked_token_is_none_and_the_first_cannot_be_revoked(file: Path) -> None:
    grant = add_token(file, scope=Scope.READ, name="alice")
    tokens = Tokens(file)
    found = tokens.find(grant.token)
    assert found is not None
    assert found.scope is Scope.READ
    with pytest.raises(TokenFileError, match="alice already"):
        add_token(file, scope=Scope.READ, name="alice")
    assert revoke_token(file, "alice") == 1
    assert looked_at(tokens).find(grant.token) is None
    for name in ("alice", ""):
        with pytest.raises(NotFoundError):
            revoke_token(file, name)
    assert os.stat(file).st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "line",
    [
        "short",
        "t" * 40 + " scope=king",
        "t" * 40 + " until=soon",
        "t" * 40 + " colour=red",
        "t" * 40 + " name=a/b",
        "t" * 40 + " stray",
    ],
)
def test_a_line_that_makes_no_sense_is_refused_with_its_number(file: Path, line: str) -> None:
    file.write_text(f"{load_token(file)}\n{line}\n")
    with pytest.raises(TokenFileError, match="line 2"):
        read_grants(file)


def test_the_first_token_never_ends(file: Path) -> None:
    file.write_text(f"{load_token(file)} until=99999999999\n")
    with pytest.raises(TokenFileError, match="first"):
        Tokens(file)


def test_no_form_of_a_token_shows_it(file: Path) -> None:
    token = load_token(file)
    shown = f"{Tokens(file)!r} {Tokens.of(token)!r} {read_grants(file)!r}"
    assert token not in shown


def test_a_token_made_a_moment_ago_is_known_at_once(file: Path) -> None:
    tokens = Tokens(file)
    grant = add_token(file, scope=Scope.READ, name="bob")
    assert tokens.find(grant.token) is not None
