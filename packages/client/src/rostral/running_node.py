"""The parts of a node on one event loop: store, local scheduler and, on a head, the GCS.

Owns the order of their start and end, and what makes the node stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rostral import spilling
from rostral.launcher import NodeSettings, start_node
from rostral.node_address import own_address
from rostral.session import NodeRecord, cache_dir, remove_record, remove_session_dir, write_record
from rostral_gcs.credentials import TlsFiles
from rostral_gcs.errors import RostralError
from rostral_gcs.services.collector import run_collector
from rostral_gcs.tokens import Tokens
from rostral_objectstore.config import StoreConfig, default_memory_bytes
from rostral_objectstore.daemon import StoreDaemon
from rostral_objectstore.takeover import process_start_time
from rostral_scheduler import LocalScheduler, LocalSchedulerConfig
from rostral_scheduler.zygote_start import StartedZygote

if TYPE_CHECKING:
    from rostral_gcs.client import AsyncGcsClient

logger = logging.getLogger("rostral.node")


@contextlib.asynccontextmanager
async def running_node(
    settings: NodeSettings, zygote: StartedZygote, stopping: asyncio.Event
) -> AsyncIterator[tuple[NodeRecord, LocalScheduler]]:
    """Runs a node within the `async with` block.

    Raises what a part of it fails with; then nothing is left, the zygote neither.
    """
    session = Path(settings.session_dir)
    node_id = os.urandom(16)
    tls = TlsFiles(
        tls_certificate_file=settings.tls_certificate_file,
        tls_key_file=settings.tls_key_file,
        tls_ca_file=settings.tls_ca_file,
    )
    host = own_address(settings, tls)
    async with contextlib.AsyncExitStack() as stack:
        # Until the scheduler has it; ending it twice does no harm.
        stack.callback(zygote.abandon)
        # First, so that it makes its pages while all else is imported.
        store = _store(settings, session, node_id, host, tls)
        await store.start()
        stack.push_async_callback(store.stop)
        address, token_file, client = await _join_cluster(settings, session, tls, stack)

        scheduler = LocalScheduler(
            LocalSchedulerConfig(
                store_socket=store.config.socket_path,
                socket_path=str(session / "scheduler.sock"),
                session_dir=session,
                num_cpus=(
                    settings.num_cpus
                    if settings.num_cpus is not None
                    else float(len(os.sched_getaffinity(0)))
                ),
                num_gpus=int(settings.num_gpus),
                memory_bytes=settings.task_memory_bytes,
                resources=settings.resources,
                labels=settings.labels,
                memory_limit_bytes=settings.worker_memory_bytes,
                address=host,
                peer_token=Tokens(token_file),
                tls_certificate_file=_path(settings.tls_certificate_file),
                tls_key_file=_path(settings.tls_key_file),
                tls_ca_file=_path(settings.tls_ca_file),
                venv_dir=None if (cache := cache_dir()) is None else cache / "venvs",
            ),
            gcs=client,
            zygote=zygote,
        )
        await scheduler.start()
        stack.push_async_callback(scheduler.stop)
        watch = asyncio.create_task(_pass_on(scheduler.stopping, stopping))
        stack.callback(watch.cancel)

        record = NodeRecord(
            node_id=node_id.hex(),
            pid=os.getpid(),
            start_time=process_start_time(os.getpid()),
            head=settings.head,
            address=address,
            session_dir=settings.session_dir,
            store_socket=store.config.socket_path,
            scheduler_socket=scheduler.config.socket_path,
            token_file=token_file,
            detached=settings.detached,
        )
        write_record(record)
        stack.callback(remove_record, record.node_id)
        collector = asyncio.create_task(run_collector())
        stack.callback(collector.cancel)
        yield record, scheduler


def _store(
    settings: NodeSettings, session: Path, node_id: bytes, host: str, tls: TlsFiles
) -> StoreDaemon:
    spill_directories, spill_limit_bytes = spilling.choose(session, settings.spill_directory)
    memory_bytes = settings.memory_bytes
    return StoreDaemon(
        StoreConfig(
            socket_path=str(session / "store.sock"),
            node_id=node_id,
            memory_bytes=default_memory_bytes() if memory_bytes is None else memory_bytes,
            spill_directories=spill_directories,
            spill_limit_bytes=spill_limit_bytes,
            transfer_token_file=_token_file(settings, session),
            transfer_host=host,
            transfer_tls=tls,
        )
    )


def _token_file(settings: NodeSettings, session: Path) -> str:
    """Where the cluster's token is, or will be once the head serves."""
    return str(session / "token") if settings.head else str(settings.token_file)


async def _join_cluster(
    settings: NodeSettings, session: Path, tls: TlsFiles, stack: contextlib.AsyncExitStack
) -> tuple[str, str, AsyncGcsClient]:
    """Address and token file of the cluster's GCS, which a head serves itself, and a client."""
    # Not at the top: gRPC takes longer to import than all else.
    from rostral_gcs.auth import write_token
    from rostral_gcs.client import AsyncGcsClient
    from rostral_gcs.client_options import ClientOptions

    if settings.head:
        from rostral_gcs.config import GcsConfig
        from rostral_gcs.service import GcsServer

        token_file = _token_file(settings, session)
        write_token(token_file)
        gcs = GcsServer(
            GcsConfig(
                data_dir=session / "gcs",
                token=Tokens(token_file),
                bind=settings.bind,
                port=settings.port,
                insecure=settings.insecure,
                tls_certificate_file=_path(settings.tls_certificate_file),
                tls_key_file=_path(settings.tls_key_file),
                tls_ca_file=_path(settings.tls_ca_file),
            )
        )
        await gcs.start()
        stack.push_async_callback(gcs.stop)
        address = gcs.address
    else:
        token_file, address = _token_file(settings, session), str(settings.gcs_address)
    client = AsyncGcsClient(address, Tokens(token_file), options=ClientOptions(tls=tls))
    await client.connect()
    stack.push_async_callback(client.close)
    return address, token_file, client


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name)


async def _pass_on(wanted: asyncio.Event, stopping: asyncio.Event) -> None:
    """The scheduler was asked, by a client or the GCS, to stop the node."""
    await wanted.wait()
    stopping.set()


async def run(settings: NodeSettings, zygote: StartedZygote, ready_fd: int) -> int:
    """Serves until told to stop. Returns the exit status."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    if not settings.detached:
        loop.add_reader(0, _lifeline, loop, stopping)
    try:
        async with running_node(settings, zygote, stopping) as (record, scheduler):
            _answer(ready_fd, {"record": asdict(record)})
            await stopping.wait()
    except RostralError as error:
        logger.error("node failed error=%s", error)
        _answer(
            ready_fd,
            {"name": type(error).__name__, "message": error.message, "hint": error.hint},
        )
        # The session's directory stays: the launcher wants to see its log.
        return 1
    remove_session_dir(settings.session_dir)
    if scheduler.is_fenced and settings.detached and not settings.head:
        return await _rejoin(settings)
    return 0


async def _rejoin(settings: NodeSettings) -> int:
    """A node that was cut off for long is dead to the cluster: it comes back as a new one.

    Nothing of the old one is kept: its tasks run elsewhere by now, and others hold no references to
    its objects any more.
    """
    try:
        node = await asyncio.to_thread(start_node, replace(settings, session_dir=""))
    except RostralError as error:
        logger.error("the node cannot join again error=%s", error)
        return 1
    logger.info("the node has joined again node=%s", node.record.node_id)
    return 0


def _lifeline(loop: asyncio.AbstractEventLoop, stopping: asyncio.Event) -> None:
    if not os.read(0, 4096):
        loop.remove_reader(0)
        stopping.set()


def _answer(fd: int, answer: dict[str, object]) -> None:
    with contextlib.suppress(OSError):
        os.write(fd, json.dumps(answer).encode())
        os.close(fd)
