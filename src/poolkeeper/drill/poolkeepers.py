"""Poolkeeper as a contender, on both drivers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from poolkeeper import ConnectionPoolManager, Outcome, PoolConfig, outcome_of
from poolkeeper.drill.contender import Contender, Fate
from poolkeeper.drill.terms import APPLICATION, SCHEMA
from poolkeeper.observability.events import ConnectionRecycled, DatabaseConnectionLost

if TYPE_CHECKING:
    from collections.abc import Callable

    from poolkeeper.observability.events import Event

NOTICED = {
    "connection_lost": "connection lost",
    "stalled": "connection silent",
    "validation_failed": "validation failed",
    "failover": "failover",
    "read_only": "read only",
}
"""Reasons of ``connection_recycled`` that mean a fault was noticed on one connection."""


class PoolkeeperAsyncpg(Contender):
    """Reads with ``idempotent=True``, writes with ``run_transaction``.

    Options the terms do not name come from the environment, ``POOL_…``.
    """

    name = "poolkeeper, asyncpg"
    driver = "asyncpg"
    bounded = True

    _read = f"SELECT name FROM {SCHEMA}.things WHERE id = $1"
    _write = f"INSERT INTO {SCHEMA}.writes (id) VALUES ($1)"

    async def open(self) -> None:
        """Opens the pool."""
        scheme, _, rest = self.address.url.partition("://")
        url = f"{scheme.partition('+')[0]}+{self.driver}://{rest}"
        terms = self.terms
        config = PoolConfig(
            database_url=url,
            max_size=terms.connections,
            timeout=terms.acquire_timeout,
            command_timeout=terms.command_timeout,
            connect_timeout=terms.connect_timeout,
        )
        if "min_size" not in config.model_fields_set:
            config = config.with_changes(min_size=terms.connections)
        self.pool = ConnectionPoolManager(
            config,
            password=self.address.password,
            server_settings={"application_name": APPLICATION},
        )
        await self.pool.initialize()

    async def close(self) -> None:
        """Closes the pool."""
        await self.pool.close(timeout=1.0)

    async def read(self, key: int) -> str:
        """See ``Contender``."""
        name: str = await self.pool.fetchval(self._read, key, idempotent=True)
        return name

    async def write(self, number: int, sent: Callable[[], None]) -> None:
        """See ``Contender``. What was sent is in the error."""
        del sent
        await self.pool.run_transaction(self._insert, number, timeout=self.terms.bound)

    async def _insert(self, connection: Any, number: int) -> None:
        await connection.execute(self._write, number)

    async def sleep(self, seconds: float) -> None:
        """See ``Contender``."""
        await self.pool.execute(f"SELECT pg_sleep({seconds})")

    def fate(self, error: BaseException, *, sent: bool) -> Fate:
        """As ``outcome_of`` says."""
        del sent
        return Fate.UNKNOWN if outcome_of(error) is Outcome.UNKNOWN else Fate.NOT_WRITTEN

    def report_to(self, report: Callable[[str], None]) -> None:
        """Tells of an outage, and of single connections that were given up."""

        def listen(event: Event) -> None:
            if isinstance(event, DatabaseConnectionLost):
                report("database lost")
            elif isinstance(event, ConnectionRecycled) and event.reason in NOTICED:
                report(NOTICED[event.reason])

        self.pool.add_event_listener(listen)

    async def is_unhealthy(self) -> bool | None:
        """As the health check says."""
        return (await self.pool.health_check()).status == "unhealthy"


class PoolkeeperPsycopg(PoolkeeperAsyncpg):
    """The same on psycopg 3."""

    name = "poolkeeper, psycopg"
    driver = "psycopg"

    _read = f"SELECT name FROM {SCHEMA}.things WHERE id = %s"
    _write = f"INSERT INTO {SCHEMA}.writes (id) VALUES (%s)"

    async def read(self, key: int) -> str:
        """See ``Contender``."""
        cursor = await self.pool.execute(self._read, (key,), idempotent=True)
        (name,) = await cursor.fetchone()
        return str(name)

    async def _insert(self, connection: Any, number: int) -> None:
        await connection.execute(self._write, (number,))
