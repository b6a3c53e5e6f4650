"""The life of a server process: listen, open the pool, serve, drain, leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import uvicorn

from poolkeeper.exceptions import PoolConfigurationError
from poolkeeper.manager import ConnectionPoolManager
from poolkeeper.server.app import build_app
from poolkeeper.server.controls import Controls
from poolkeeper.server.door import Door
from poolkeeper.server.heartbeat import Heartbeat
from poolkeeper.server.http_protocol import protocol_for
from poolkeeper.server.lifecycle import Lifecycle
from poolkeeper.server.siblings import Siblings
from poolkeeper.server.signals import on_signals
from poolkeeper.server.system import give_memory_back, make_room_for
from poolkeeper.server.systemd import Notifier
from poolkeeper.server.tls import CertificateError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine, Iterator, Mapping
    from typing import Any

    from starlette.applications import Starlette

    from poolkeeper.config import PoolConfig
    from poolkeeper.server.access import Access
    from poolkeeper.server.settings import ServerSettings, Token
    from poolkeeper.server.siblings import Birth
    from poolkeeper.server.tls import Certificate

_log = logging.getLogger("poolkeeper.server")

# What responses may still need after the pool is closed: all work is done by then.
_LAST_BYTES = 2.0
# From the closed listener to the closed connections: a request on its way arrives by then.
_LAST_REQUESTS = 0.2
_LONGEST_BEAT = 0.5
# Far above any Retry-After: a connection must not be closed while its client waits to try again.
_KEEP_ALIVE = 75


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a server process has around it.

    Attributes:
        on_ready: Called once requests can be served.
        notifier: Tells systemd or a supervisor how things are.
        certificate: To speak TLS with; None for plain HTTP.
        read_tokens: Reads the tokens again at a SIGHUP; None where they cannot change.
        birth: What the supervisor gave; None for a process without one.
        meanwhile: Work that goes on beside the serving, from before the pool is opened until the
            drain begins; then it is cancelled.
    """

    on_ready: Callable[[], None]
    notifier: Notifier = field(default_factory=lambda: Notifier(None))
    certificate: Certificate | None = None
    read_tokens: Callable[[], tuple[Token, ...]] | None = None
    birth: Birth | None = None
    meanwhile: Callable[[], Coroutine[Any, Any, None]] | None = None


class _Server(uvicorn.Server):
    """uvicorn without its signal handling, which would end the process by the signal again."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listener first: whoever was let in may be about to ask, and gets an answer."""
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        await asyncio.sleep(_LAST_REQUESTS)
        await super().shutdown(sockets)


async def serve(
    sockets: list[socket.socket],
    config: PoolConfig,
    settings: ServerSettings,
    *,
    connect_kwargs: dict[str, Any],
    around: Surroundings,
) -> None:
    """Serve until a signal asks to stop, then drain and return.

    The probes answer from the beginning, so that an orchestrator sees a starting server and not a
    closed port.

    Args:
        sockets: Bound and listening; closed at the end.
        config: Of the pool, with the database URL.
        settings: Of the server.
        connect_kwargs: For the driver, for every connection.
        around: What else there is.

    Raises:
        PoolInitializationError: The database cannot be used; nothing is left open.
    """
    make_room_for(settings.max_connections + config.max_size)
    give_memory_back()
    notifier = around.notifier
    pool = ConnectionPoolManager(config, **connect_kwargs)
    lifecycle = Lifecycle(heartbeat=_heartbeat(notifier))
    controls = Controls(pool, lifecycle)
    door = Door.of(settings)
    lifecycle.refused = door.refused
    app = build_app(pool, settings, lifecycle)
    operations = app.state.parts.operations
    server = _Server(_uvicorn_config(app, door, around.certificate))
    lifecycle.connections = lambda: len(server.server_state.connections)
    reload = _Reload(around, app.state.parts.access)
    with on_signals(lifecycle.stop, _operators_signals(controls, reload)):
        siblings = None
        if around.birth is not None:
            siblings = await Siblings.join(around.birth, app.state.parts, controls)
            lifecycle.siblings = siblings
            lifecycle.heartbeat.add_listener(siblings.beat)
            siblings.when_alone(lifecycle.stop.set)
        serving = asyncio.create_task(server.serve(sockets=sockets))
        beside = asyncio.create_task(around.meanwhile()) if around.meanwhile else None
        lifecycle.heartbeat.start()
        drain = Drain(pool, lifecycle, settings)
        try:
            await _unless_stopped(pool.initialize(), lifecycle.stop)
            if not lifecycle.stop.is_set():
                lifecycle.started = True
                operations.begin()
                around.on_ready()
                if siblings is not None:
                    siblings.ready()
                notifier.ready("serving")
                lifecycle.heartbeat.add_listener(_reporter(notifier, pool, lifecycle))
                await _first_of(lifecycle.stop.wait(), serving)
                notifier.stopping(longest_drain(settings))
                drain.begin()
                operations.stop()
                await _end(beside)
                await drain.delay()
        finally:
            lifecycle.draining = True
            await _end(beside)
            await operations.end(settings.drain_timeout)
            await drain.finish()
            # Whoever reads slowly may use what is left of the time.
            server.config.timeout_graceful_shutdown = max(_LAST_BYTES, drain.left())  # type: ignore[assignment]
            server.should_exit = True
            await serving
            lifecycle.heartbeat.stop()
            if siblings is not None:
                await siblings.leave()
    _log.info("server_stopped", extra={"elapsed_seconds": round(drain.elapsed(), 3)})


def _uvicorn_config(app: Starlette, door: Door, certificate: Certificate | None) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        http=protocol_for(door),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE,
    )
    # uvicorn would read the files once; ours can be read again.
    config.load()
    config.ssl = certificate.context if certificate else None
    return config


def longest_drain(settings: ServerSettings) -> float:
    """Seconds from the first signal to the exit, at most."""
    return settings.drain_delay + settings.drain_timeout + 2 * _LAST_BYTES


class Drain:
    """The end of serving, phase by phase: not ready, turned away, finished."""

    def __init__(
        self, pool: ConnectionPoolManager, lifecycle: Lifecycle, settings: ServerSettings
    ) -> None:
        self._pool = pool
        self._lifecycle = lifecycle
        self._settings = settings
        self._began = time.monotonic()
        self._deadline: float | None = None

    def begin(self) -> None:
        """Not ready from now on, but still serving."""
        self._began = time.monotonic()
        self._lifecycle.draining = True
        limits = {
            "delay_seconds": self._settings.drain_delay,
            "timeout_seconds": self._settings.drain_timeout,
        }
        counts = self._counts()
        facts: dict[str, Any] = {**limits, **counts}
        if counts["running"]:
            facts["explanation"] = (
                f"waiting for {counts['running']} running statements, at most "
                f"{self._settings.drain_timeout:g} s; Ctrl-C again ends at once"
            )
        _log.info("server_draining", extra=facts)

    async def delay(self) -> None:
        """Serve on until load balancers have noticed."""
        if self._settings.drain_delay > 0:
            await asyncio.sleep(self._settings.drain_delay)

    async def finish(self) -> None:
        """Turn waiters away at once and let running statements finish, or end them in time."""
        self._deadline = time.monotonic() + self._settings.drain_timeout
        if self._lifecycle.started:
            _log.info("server_closing_pool", extra=self._counts())
        await self._pool.close(timeout=self._settings.drain_timeout)

    def left(self) -> float:
        """Seconds of the drain timeout that are not used up."""
        return 0.0 if self._deadline is None else self._deadline - time.monotonic()

    def elapsed(self) -> float:
        """Seconds since the drain began."""
        return time.monotonic() - self._began

    def _counts(self) -> dict[str, int]:
        statistics = self._pool.get_statistics()
        return {
            "running": statistics.active_connections,
            "waiting": statistics.waiting_requests,
            "client_connections": self._lifecycle.connections(),
        }


def _heartbeat(notifier: Notifier) -> Heartbeat:
    """Beats as often as the watchdog wants to hear."""
    seconds = notifier.watchdog_seconds
    heartbeat = Heartbeat(_LONGEST_BEAT if seconds is None else min(_LONGEST_BEAT, seconds / 2))
    heartbeat.add_listener(notifier.alive)
    return heartbeat


def _operators_signals(
    controls: Controls, reload: _Reload
) -> Mapping[signal.Signals, Callable[[], object]]:
    """PgBouncer's signals: SIGUSR1 pauses, SIGUSR2 resumes; SIGHUP reads files again."""
    if not hasattr(signal, "SIGUSR1"):  # Windows
        return {}
    found: dict[signal.Signals, Callable[[], object]] = {
        signal.SIGUSR1: controls.hold,
        signal.SIGUSR2: controls.resume,
    }
    # At a terminal without files to read it means what it always does: the terminal is gone.
    if reload.has_files or not (sys.stdin and sys.stdin.isatty()):
        found[signal.SIGHUP] = reload
    return found


class _Reload:
    """Reads the certificate and the tokens again; what cannot be used leaves the old in use."""

    def __init__(self, around: Surroundings, access: Access) -> None:
        self._around = around
        self._access = access
        self.has_files = around.certificate is not None or around.read_tokens is not None

    def __call__(self) -> None:
        around = self._around
        try:
            if around.certificate is not None:
                around.certificate.reload()
            if around.read_tokens is not None:
                self._access.replace_tokens(around.read_tokens())
        except (CertificateError, PoolConfigurationError) as error:
            _log.error("server_reload_failed", extra={"error": str(error)})
        else:
            _log.info("server_reloaded")


def _reporter(
    notifier: Notifier, pool: ConnectionPoolManager, lifecycle: Lifecycle
) -> Callable[[], None]:
    """Says how the service is, whenever that has changed."""
    said = "serving"

    def report() -> None:
        nonlocal said
        if not notifier or lifecycle.draining:
            return
        statistics = pool.get_statistics()
        status = lifecycle.state
        if statistics.availability.value == "down":
            status += ", without a database"
        if status != said:
            said = status
            notifier.status(status)

    return report


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
