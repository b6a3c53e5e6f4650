"""The life of a server process: listen, open the pool, serve, drain, leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

import uvicorn

from poolkeeper.manager import ConnectionPoolManager
from poolkeeper.server.app import build_app
from poolkeeper.server.lifecycle import Lifecycle
from poolkeeper.server.signals import stop_requests

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine, Iterator
    from typing import Any

    from poolkeeper.config import PoolConfig
    from poolkeeper.server.settings import ServerSettings

_log = logging.getLogger("poolkeeper.server")

# What responses may still need after the pool is closed: all work is done by then.
_LAST_BYTES = 2


class _Server(uvicorn.Server):
    """uvicorn without its signal handling, which would end the process by the signal again."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(
    sockets: list[socket.socket],
    config: PoolConfig,
    settings: ServerSettings,
    *,
    connect_kwargs: dict[str, Any],
    on_ready: Callable[[], None],
    meanwhile: Callable[[], Coroutine[Any, Any, None]] | None = None,
) -> None:
    """Serve until a signal asks to stop, then drain and return.

    The probes answer from the beginning, so that an orchestrator sees a starting server and not a
    closed port.

    Args:
        sockets: Bound and listening; closed at the end.
        config: Of the pool, with the database URL.
        settings: Of the server.
        connect_kwargs: For the driver, for every connection.
        on_ready: Called once requests can be served.
        meanwhile: Work that goes on beside the serving, from before the pool is opened until the
            drain begins; then it is cancelled.

    Raises:
        PoolInitializationError: The database cannot be used; nothing is left open.
    """
    with stop_requests() as stop:
        pool = ConnectionPoolManager(config, **connect_kwargs)
        lifecycle = Lifecycle()
        server = _Server(
            uvicorn.Config(
                build_app(pool, settings, lifecycle),
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=_LAST_BYTES,
            )
        )
        serving = asyncio.create_task(server.serve(sockets=sockets))
        beside = asyncio.create_task(meanwhile()) if meanwhile else None
        try:
            await _unless_stopped(pool.initialize(), stop)
            if not stop.is_set():
                lifecycle.started = True
                on_ready()
                await _first_of(stop.wait(), serving)
                lifecycle.draining = True
                await _end(beside)
                _log.info("server_draining", extra={"timeout_seconds": settings.drain_timeout})
                await asyncio.sleep(settings.drain_delay)
        finally:
            lifecycle.draining = True
            await _end(beside)
            # Waiters are turned away at once, running statements finish or are ended.
            await pool.close(timeout=settings.drain_timeout)
            server.should_exit = True
            await serving
    _log.info("server_stopped")


async def _end(task: asyncio.Task[None] | None) -> None:
    if task is not None and not task.done():
        task.cancel()
        await asyncio.wait({task})


async def _unless_stopped(work: Coroutine[Any, Any, Any], stop: asyncio.Event) -> None:
    """Await ``work``, but give it up when a signal comes."""
    task = asyncio.ensure_future(work)
    await _first_of(stop.wait(), task)
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
        return
    task.result()


async def _first_of(waiting: Coroutine[Any, Any, Any], task: asyncio.Task[Any]) -> None:
    waiter = asyncio.ensure_future(waiting)
    try:
        await asyncio.wait({waiter, task}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiter.cancel()
