"""Names that one thing at a time may have: how they are claimed, found and given back.

This file owns the protocol, by single-row compare-and-set alone. Whoever wants a name writes its
own row first and the claim after it, so that a claim always points at a row; a claim whose owner is
no longer alive is free for the taking.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from rostral_gcs.errors import AlreadyExistsError, ConflictError
from rostral_gcs.row_client import RowClient

__all__ = ["claim_name", "find_owner", "release_name"]


async def claim_name(
    rows: RowClient,
    table: str,
    key: bytes,
    owner: bytes,
    *,
    is_alive: Callable[[bytes], Awaitable[bool]],
    what: str,
) -> None:
    """Claims a name.

    Args:
        rows: The store.
        table: Where the claims lie.
        key: The name.
        owner: The id of who claims it.
        is_alive: Whether the owner of another claim still holds it.
        what: The name as people say it, for the error.

    Raises:
        AlreadyExistsError: Somebody alive has it; ``owner`` tells who.
    """
    expected_version = 0
    while True:
        try:
            await rows.write_one(table, key, owner, expected_version)
            return
        except ConflictError as error:
            claims = await rows.read(table, [key])
            if not claims:
                expected_version = 0
                continue
            if claims[0].value == owner:
                return  # Our own: the answer to an earlier try was lost.
            if await is_alive(claims[0].value):
                holder = claims[0].value.hex()
                raise AlreadyExistsError(
                    f"{what} belongs to {holder}", hint="choose another name", owner=holder
                ) from error
            expected_version = claims[0].version


async def find_owner(rows: RowClient, table: str, key: bytes) -> bytes | None:
    """Who claimed the name, alive or not."""
    claims = await rows.read(table, [key])
    return claims[0].value if claims else None


async def release_name(rows: RowClient, table: str, key: bytes, owner: bytes) -> None:
    """Gives a name back, unless another has taken it."""
    for claim in await rows.read(table, [key]):
        if claim.value == owner:
            try:
                await rows.write_one(table, key, None, claim.version)
            except ConflictError:
                return  # Taken over meanwhile: theirs now.
