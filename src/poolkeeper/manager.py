"""The public face: a pool with its keepers, statistics, health and events."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from poolkeeper.config import PoolConfig
from poolkeeper.core.availability import Availability, Evidence, judge
from poolkeeper.core.backoff import Backoff
from poolkeeper.core.lifecycle import Phase
from poolkeeper.core.sizing import Limits
from poolkeeper.drivers import make_driver
from poolkeeper.endpoints import default_name, endpoints_of
from poolkeeper.exceptions import (
    PoolClosedError,
    PoolConfigurationError,
    PoolInitializationError,
    PoolUsageError,
)
from poolkeeper.keepers import (
    HostsKeeper,
    Keeper,
    LeakKeeper,
    LivenessKeeper,
    ReconnectKeeper,
    RetirementKeeper,
    StallKeeper,
)
from poolkeeper.lease import AcquireContext
from poolkeeper.observability.events import EventBus, PoolClosed, PoolInitialized
from poolkeeper.observability.health import HealthReport, build_health_report
from poolkeeper.observability.logs import StructlogSink
from poolkeeper.observability.statistics import PoolCounters, PoolStatistics
from poolkeeper.opening import first_session
from poolkeeper.pool import Pool
from poolkeeper.queries import Queries
from poolkeeper.refusals import closed_error
from poolkeeper.session_policy import ResetPolicy
from poolkeeper.transactions.methods import TransactionMethods, Transactions
from poolkeeper.urls import for_asyncpg, mask_url, redact, split_url

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from types import TracebackType

    from poolkeeper.observability.events import Event
    from poolkeeper.observability.statistics import DurationRecorder
    from poolkeeper.operations import Operations
    from poolkeeper.snapshot import PoolSnapshot


class ConnectionPoolManager(Queries, TransactionMethods):
    """A PostgreSQL connection pool that comes back by itself.

    Has the interface of ``asyncpg.Pool`` and is opened the same way::

        async with ConnectionPoolManager(PoolConfig(database_url="postgresql://…")) as pool:
            async with pool.acquire() as connection:
                await connection.fetch("SELECT 1")

    A pool belongs to the event loop that opened it; calls from another loop, thread or process
    raise ``PoolUsageError``.

    Args:
        config: The options. None reads them from the environment, see ``PoolConfig``.
        init: Coroutine awaited with each new driver connection, before anybody gets it, within
            ``connect_timeout``. What it changes by SET is undone by a reset: use
            ``server_settings`` for that.
        setup: Coroutine awaited with each borrowed connection, within the acquire timeout.
        reset: Coroutine awaited with the driver connection after each use, instead of the reset
            the option ``reset`` describes. An open transaction is rolled back first.
        connect: Replacement for ``asyncpg.connect``.
        connection_class: Subclass of ``asyncpg.Connection`` to use.
        record_class: Subclass of ``asyncpg.Record`` to use.
        connect_kwargs: Passed to the driver's ``connect``: ``ssl``, ``server_settings``,
            ``password`` (a text or a callable), ``host`` and so on.
    """

    def __init__(
        self,
        config: PoolConfig | None = None,
        *,
        init: Callable[[Any], Awaitable[None]] | None = None,
        setup: Callable[[Any], Awaitable[None]] | None = None,
        reset: Callable[[Any], Awaitable[None]] | None = None,
        connect: Callable[..., Awaitable[Any]] | None = None,
        connection_class: type | None = None,
        record_class: type | None = None,
        **connect_kwargs: Any,
    ) -> None:
        self._config = config = PoolConfig() if config is None else config
        self._bus = EventBus()
        self._counters = PoolCounters()
        self._rng = random.Random()  # noqa: S311 - jitter, no secrets
        self._keepers: list[Keeper] = []
        self._opening: asyncio.Future[None] | None = None
        self._dialling: asyncio.Task[tuple[Any, float]] | None = None
        self._closed_reported = False
        self._hooks: dict[str, Any] = {
            "init": init,
            "connect": connect,
            "connection_class": connection_class,
            "record_class": record_class,
        }
        self._connect_args = (config.database_url, connect_kwargs)
        policy = ResetPolicy(config.reset if reset is None else reset)
        self._pool = self._make_pool(policy, setup)
        self._transactions = Transactions(
            self._pool,
            lambda: self._config,
            counters=self._counters,
            emit=self._bus.emit,
            rng=self._rng,
            employ=self._employ,
        )
        self._retries = self._transactions.retries
        self._operations: Operations | None = None
        self._log = StructlogSink(secrets=self._secrets())
        self._bus.add(self._log)

    def _make_pool(
        self, policy: ResetPolicy, setup: Callable[[Any], Awaitable[None]] | None
    ) -> Pool:
        config = self._config
        url, connect_kwargs = self._connect_args
        if config.command_timeout is not None:
            connect_kwargs = {"command_timeout": config.command_timeout, **connect_kwargs}
        pool = Pool(
            name=config.pool_name or default_name(url, connect_kwargs),
            database=mask_url(url) if url else default_name(url, connect_kwargs),
            limits=Limits(
                min_size=config.min_size,
                max_size=config.max_size,
                max_waiting=config.max_waiting,
                validation_bypass=config.validation_bypass,
                max_lifetime=config.max_lifetime,
                lifetime_jitter=config.lifetime_jitter,
                max_idle=config.max_inactive_connection_lifetime or None,
                max_uses=config.max_queries,
                reconnect_initial_delay=config.reconnect_initial_delay,
                reconnect_max_delay=config.reconnect_max_delay,
                outage_patience=config.outage_patience,
            ),
            policy=policy,
            counters=self._counters,
            emit=self._bus.emit,
            redact=lambda text: redact(text, *self._secrets()),
            rng=self._rng,
            timeout=config.timeout,
            connect_timeout=config.connect_timeout,
            validation_timeout=config.validation_timeout,
            reset_timeout=config.reset_timeout,
            setup=setup,
        )
        pool.driver = make_driver(
            url, owner=pool, notes=policy.notes, hooks=self._hooks, connect_kwargs=connect_kwargs
        )
        return pool

    def _secrets(self) -> list[str]:
        url, connect_kwargs = self._connect_args
        password = connect_kwargs.get("password")
        return [secret for secret in (url, password) if isinstance(secret, str) and secret]

    # Life cycle -------------------------------------------------------------------------------

    async def initialize(self) -> None:
        """Open the pool: at least one connection stands when this returns.

        Calling it again does nothing. With ``min_size=0`` nothing is dialled and nothing can fail.
        Cancelling it closes what was opened.

        Raises:
            PoolInitializationError: The database could not be reached in
                ``initialization_attempts`` attempts, or refused this client. Nothing is left.
            PoolClosedError: The pool has been closed.
        """
        phase = self._pool.state.phase
        if phase is Phase.OPEN:
            return
        if phase is not Phase.NEW:
            raise PoolClosedError(
                "Cannot initialize: pool is closed. Suggestion: create a new pool."
            )
        if self._opening is not None:
            await asyncio.shield(self._opening)
            # Whoever opened it may have failed, or may have been cancelled.
            await self.initialize()
            return
        self._opening = asyncio.get_running_loop().create_future()
        try:
            await self._open()
        finally:
            opening, self._opening = self._opening, None
            opening.set_result(None)

    async def _open(self) -> None:
        config, pool = self._config, self._pool
        url, connect_kwargs = self._connect_args
        if url is None and not connect_kwargs and self._hooks["connect"] is None:
            config.require_database_url()
        pool.bind()
        started = pool.now()
        session = None
        if config.min_size:
            dialling = self._dialling = asyncio.ensure_future(
                first_session(
                    pool.driver,
                    database=pool.database,
                    attempts=config.initialization_attempts,
                    describe=pool.reporter.describe,
                    connect_timeout=config.connect_timeout,
                    patience=config.timeout,
                    backoff=Backoff(
                        config.reconnect_initial_delay, config.reconnect_max_delay, self._rng
                    ),
                )
            )
            try:
                session, started = await dialling
            except PoolInitializationError:
                pool.unbind()
                raise
            except asyncio.CancelledError:
                dialling.add_done_callback(_abort_unclaimed)
                task = asyncio.current_task()
                if pool.state.phase is Phase.NEW or (task is not None and task.cancelling()):
                    raise
                raise self._closed_meanwhile() from None
            finally:
                self._dialling = None
            if pool.state.phase is not Phase.NEW:
                session.abort()
                raise self._closed_meanwhile()
        self._start_keepers()
        try:
            await pool.open(session, started)
        except asyncio.CancelledError:
            self.terminate()
            raise
        if pool.state.phase is not Phase.OPEN:
            raise self._closed_meanwhile()
        self._bus.emit(
            PoolInitialized(
                pool=pool.name,
                min_size=config.min_size,
                max_size=config.max_size,
                connections=self.get_size(),
                elapsed_seconds=pool.uptime(),
                database_url=pool.database,
                server_version=pool.server_version,
            )
        )

    @staticmethod
    def _closed_meanwhile() -> PoolClosedError:
        return PoolClosedError(
            "The pool was closed while it was being opened. Suggestion: let initialize() return "
            "before close() is called."
        )

    def _start_keepers(self) -> None:
        config, pool = self._config, self._pool
        self._keepers = [
            LivenessKeeper(pool, config.probe_interval, config.probe_timeout),
            RetirementKeeper(pool, config.max_lifetime, config.max_inactive_connection_lifetime),
        ]
        if config.stall_after:
            self._keepers.append(StallKeeper(pool, config.stall_after))
        if config.leak_detection_timeout:
            self._keepers.append(LeakKeeper(pool, config.leak_detection_timeout, self._bus.emit))
        hosts = HostsKeeper(pool, config.probe_interval, config.probe_timeout, self._bus.emit)
        self._keepers.append(hosts)
        self._bus.add(hosts.notice)
        pool.on_refusal = hosts.refused
        for keeper in self._keepers:
            keeper.start()
        reconnect = ReconnectKeeper(pool, lambda: endpoints_of(*self._connect_args))
        self._keepers.append(reconnect)
        self._bus.add(reconnect.notice)

    def _employ(self, keeper: Keeper) -> None:
        """Start a duty that the pool has taken on while open."""
        if self._pool.state.phase is Phase.OPEN:
            keeper.start()
            self._keepers.append(keeper)

    async def close(self, timeout: float | None = None) -> None:
        """Finish: waiters get ``PoolClosedError`` at once, borrowers may end their work.

        After ``timeout`` seconds (None: the option ``close_timeout``) the connections still in
        use are cut off. When this returns no connection, task or timer of the pool is left.
        Closing twice is allowed; closing a pool that was never opened only marks it closed.
        Cancelling it cuts the remaining connections off.
        """
        self._pool.require_home()
        started = self._pool.now()
        goodbyes = self._pool.errands.goodbyes
        if self._operations is not None:
            await self._operations.close()
        dialling = self._dialling
        if dialling is not None:
            dialling.cancel()
        try:
            await self._pool.drain(self._config.close_timeout if timeout is None else timeout)
        finally:
            for keeper in self._keepers:
                await keeper.stop()
            if dialling is not None:
                await asyncio.wait({dialling})
        self._report_closed(started, self._pool.errands.goodbyes - goodbyes)

    def terminate(self) -> None:
        """Cut every connection off at once, without waiting for anybody.

        Statements of borrowers fail with the driver's error, waiting requests with
        ``PoolClosedError``. A statement the server is running may run on there for a while.
        """
        self._pool.require_home()
        started = self._pool.now()
        goodbyes = self._pool.errands.goodbyes
        if self._dialling is not None:
            self._dialling.cancel()
        if self._operations is not None:
            self._operations.terminate()
        self._pool.terminate()
        for keeper in self._keepers:
            keeper.cancel()
        self._report_closed(started, self._pool.errands.goodbyes - goodbyes)

    def _report_closed(self, started: float, goodbyes: int) -> None:
        if self._closed_reported or self._pool.opened_at is None:
            return
        self._closed_reported = True
        self._bus.emit(
            PoolClosed(
                pool=self._pool.name,
                elapsed_seconds=self._pool.now() - started,
                connections_closed=goodbyes,
                connections_terminated=self._pool.terminated,
            )
        )

    async def __aenter__(self) -> Self:
        """Open the pool, see ``initialize``."""
        await self.initialize()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the pool, see ``close``."""
        await self.close()

    def __await__(self) -> Generator[Any, None, Self]:
        """Open the pool, as ``await asyncpg.create_pool(…)`` does."""
        return self.__aenter__().__await__()

    def pause(self) -> None:
        """Stop granting connections; those in use may finish, new requests queue.

        Requests keep their deadlines; during an outage they also end when ``outage_patience``
        does. With ``expire_connections`` and ``resume`` around it, a
        planned restart of the database costs its clients a pause and no error.
        """
        self._pool.pause()

    def resume(self) -> None:
        """Grant connections again, to those who wait first."""
        self._pool.resume()

    def resize(self, *, min_size: int | None = None, max_size: int | None = None) -> None:
        """Change the limits of the running pool.

        Surplus idle connections are closed now, surplus busy ones when they come back. Without
        ``min_size`` the floor is lowered to a smaller ``max_size``.

        Raises:
            PoolConfigurationError: The values are out of range or contradict each other.
        """
        config = self._config
        new_max = config.max_size if max_size is None else max_size
        new_min = min(config.min_size, new_max) if min_size is None else min_size
        self._pool.require_home()
        self._config = config.with_changes(min_size=new_min, max_size=new_max)
        self._pool.resize(new_min, new_max)

    async def expire_connections(self) -> None:
        """Replace every connection: idle ones now, those in use when they come back.

        Returns at once; the replacements are opened in the background as they are needed.
        """
        self._pool.expire()

    def set_connect_args(self, dsn: str | None = None, **connect_kwargs: Any) -> None:
        """Use other connection arguments from the next connection on.

        Replaces all of them, those given to the constructor included. Follow it by
        ``expire_connections()`` to replace the present connections, too. With psycopg the URL
        stays as it was if none is given.

        Raises:
            PoolConfigurationError: The URL cannot be used, or names another driver.
        """
        driver = self._pool.driver
        if dsn is None and driver.name == "psycopg":
            dsn = self._connect_args[0]
        url = None
        if dsn is not None:
            name, url = split_url(dsn)
            if name != driver.name:
                raise PoolConfigurationError(
                    f"The URL {mask_url(dsn)!r} names the driver {name}, but this pool uses "
                    f"{driver.name}. Suggestion: open another pool for another driver.",
                    option="dsn",
                    value=mask_url(dsn),
                )
        self._connect_args = (dsn, connect_kwargs)
        self._log.hide(*self._secrets())
        self._pool.database = mask_url(dsn) if dsn else default_name(dsn, connect_kwargs)
        if self._config.command_timeout is not None:
            connect_kwargs = {"command_timeout": self._config.command_timeout, **connect_kwargs}
        driver.set_connect_args(url, **connect_kwargs)

    # Borrowing --------------------------------------------------------------------------------

    def acquire(self, *, timeout: float | None = None) -> AcquireContext:
        """Borrow a connection: ``async with pool.acquire() as connection:`` or ``await``.

        Requests are served in order. Cancelling a waiting request leaves no trace.

        Args:
            timeout: Seconds to wait at most; None means the option ``timeout``.

        Raises:
            PoolTimeoutError: No connection became free in time (also a ``TimeoutError``).
            PoolDeadlockError: Every connection is held by a task that waits for another one.
            ConnectionValidationError: A connection was broken and could not be replaced in time.
            PoolExhaustedError: ``max_waiting`` requests wait already.
            DatabaseUnavailableError: The database has been away for longer than
                ``outage_patience``, or refuses this client.
            PoolClosedError: The pool is not open.
            PoolUsageError: Called from another event loop, thread or process.
        """
        return AcquireContext(self._pool, timeout)

    async def release(self, connection: Any, *, timeout: float | None = None) -> None:
        """Give a connection back; releasing it again does nothing.

        Never waits: cleaning happens afterwards, in the background, within ``reset_timeout``.
        ``timeout`` is accepted for compatibility and not needed.

        Raises:
            PoolUsageError: The connection is not from this pool.
        """
        del timeout
        slot = getattr(connection, "_slot", None)
        if slot is None or getattr(connection, "_pool", None) is not self._pool:
            raise PoolUsageError(
                f"{connection!r} was not acquired from this pool. Suggestion: release a "
                "connection to the pool that acquire() was called on."
            )
        self._pool.release(connection)

    # Operations -------------------------------------------------------------------------------

    @property
    def operations(self) -> Operations:
        """Long work that resumes: ``load``, ``backfill``, ``export`` and steps of your own.

        They use connections of their own beside ``max_size``: two while an operation runs, and up
        to two for whoever asks; always by asyncpg.

        Raises:
            PoolClosedError: The pool is closed, or was never opened.
        """
        if self._operations is None:
            from poolkeeper.operations import Operations  # noqa: PLC0415 - many have none

            self._operations = Operations(
                self._connections_for_operations,
                database=lambda: self._pool.database,
                emit=self._bus.emit,
            )
        return self._operations

    async def _connections_for_operations(
        self, application_name: str, connections: int
    ) -> ConnectionPoolManager:
        if self._pool.state.phase is not Phase.OPEN:
            raise closed_error(self._pool.state.phase.value)
        url, connect_kwargs = for_asyncpg(*self._connect_args)
        settings = {
            **connect_kwargs.pop("server_settings", {}),
            "application_name": application_name,
        }
        connect_kwargs.pop("command_timeout", None)
        hooks = {
            name: hook
            for name, hook in self._hooks.items()
            if hook is not None and self._pool.driver.name == "asyncpg"
        }
        pool = ConnectionPoolManager(
            self._config.with_changes(
                database_url=url,
                pool_name=f"{self.name}-operations"[:63],
                min_size=0,
                max_size=connections,
                max_waiting=None,
                command_timeout=None,
                # A chunk may take long, and its connection is kept for the next one.
                leak_detection_timeout=0,
                reset="always",
            ),
            **hooks,
            **connect_kwargs,
            server_settings=settings,
        )
        await pool.initialize()
        return pool

    # Reports ----------------------------------------------------------------------------------

    @property
    def config(self) -> PoolConfig:
        """The options in force; its ``repr`` masks the password."""
        return self._config

    @property
    def name(self) -> str:
        """Name of the pool in events, statistics and metrics."""
        return self._pool.name

    def get_size(self) -> int:
        """Connections that are open."""
        snapshot = self._pool.snapshot()
        return snapshot.total - snapshot.connecting - snapshot.closing

    def get_idle_size(self) -> int:
        """Open connections nobody uses."""
        return self._pool.snapshot().idle

    def get_min_size(self) -> int:
        """The floor kept in the background."""
        return self._pool.state.limits.min_size

    def get_max_size(self) -> int:
        """The ceiling; connections being opened or closed count."""
        return self._pool.state.limits.max_size

    def get_init_size(self) -> int:
        """Connections opened by ``initialize``: the floor."""
        return self._pool.state.limits.min_size

    def is_closing(self) -> bool:
        """Whether the pool is closing or closed."""
        return self._pool.state.phase in {Phase.DRAINING, Phase.CLOSED}

    def get_statistics(self) -> PoolStatistics:
        """What the pool is doing and has done, at one instant; no query, no lock, < 1 ms.

        May be called from any thread.
        """
        pool = self._pool
        snapshot = pool.snapshot()
        availability, _reasons = judge(self._evidence(snapshot))
        return PoolStatistics.collect(
            snapshot,
            self._counters,
            pool=pool.name,
            uptime_seconds=pool.uptime(),
            availability=availability,
            current_outage_seconds=pool.outage_seconds() or 0.0,
        )

    async def health_check(self) -> HealthReport:
        """Say how the pool is, from evidence already there.

        Takes no connection, asks no database and never waits, whatever state the pool is in.
        """
        pool = self._pool
        phase = pool.state.phase
        snapshot = pool.snapshot()
        availability, reasons = judge(self._evidence(snapshot))
        if phase is not Phase.OPEN:
            availability, reasons = Availability.DOWN, [f"the pool is {phase.value}"]
        return build_health_report(
            availability,
            snapshot,
            connecting=self._opening is not None,
            now=datetime.now(UTC),
            uptime_seconds=pool.uptime(),
            reasons=reasons,
            latency_seconds=pool.probe_latency,
            last_error=self._counters.last_error,
            outage_seconds=pool.outage_seconds(),
            next_attempt_seconds=pool.next_attempt_seconds(),
        )

    def _evidence(self, snapshot: PoolSnapshot) -> Evidence:
        pool = self._pool
        state = pool.state
        failed_at = state.outage.last_failure_at
        return Evidence(
            down_since=state.outage.down_since,
            connected=state.usable(),
            min_size=state.limits.min_size,
            used_fraction=snapshot.utilization,
            last_failure_age=None if failed_at is None else pool.now() - failed_at,
            probe_latency=pool.probe_latency,
        )

    def add_event_listener(self, listener: Callable[[Event], object]) -> None:
        """Call ``listener`` with every event from now on, from the pool's event loop.

        It must not block; what it raises is logged and harms nobody.

        Raises:
            PoolConfigurationError: The listener is a coroutine function.
        """
        self._bus.add(listener)

    def remove_event_listener(self, listener: Callable[[Event], object]) -> None:
        """Stop calling ``listener``."""
        self._bus.remove(listener)

    def set_duration_recorder(self, recorder: DurationRecorder | None) -> None:
        """Tell ``recorder`` every wait, use and connect duration; OpenTelemetry uses this."""
        self._pool.recorder = recorder

    def __repr__(self) -> str:
        return (
            f"<ConnectionPoolManager {self._pool.name!r} {self._pool.state.phase.value}: "
            f"{self._pool.snapshot().describe()}>"
        )


def _abort_unclaimed(dialling: asyncio.Task[tuple[Any, float]]) -> None:
    """The dial may have succeeded in the very moment its caller was cancelled."""
    if not dialling.cancelled() and dialling.exception() is None:
        dialling.result()[0].abort()
