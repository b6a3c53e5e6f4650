"""Single statements of a pool: borrow a connection, run, give back; again where that is safe."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Any

from poolkeeper.drivers.base import is_lost
from poolkeeper.exceptions import PoolUsageError
from poolkeeper.transactions.retries import may_repeat

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from poolkeeper.config import PoolConfig
    from poolkeeper.pool import Pool
    from poolkeeper.transactions.retries import Retries


class Queries:
    """The methods of ``asyncpg.Connection`` a pool has as well.

    A call whose statement provably never reached the server, because the connection had died
    unnoticed, is made again by itself. With ``idempotent=True`` it is also made again when its
    connection was lost in the middle, after which nobody knows whether the statement took effect:
    up to ``max_retries`` times, with a pause in between, within the deadline and the pool's retry
    budget. The deadline is ``timeout``, which then bounds the whole call, waiting included; without
    it the options ``timeout`` and ``command_timeout`` together. A refusal of the pool
    (``PoolTimeoutError``, ``DatabaseUnavailableError`` …) ends the call: the pool has waited.
    """

    _config: PoolConfig
    _pool: Pool
    _retries: Retries

    async def _borrow(self, method: str, *args: Any, **kwargs: Any) -> Any:
        pool = self._pool
        if method != "execute" and pool.driver.name == "psycopg":
            raise _not_in_psycopg(method)
        lease = pool.acquire_nowait(depth=4)
        if lease is None:
            lease = await pool.wait(None, depth=4)
        try:
            return await _begin(pool, lease, method, args, kwargs)
        except Exception as error:
            lost = is_lost(lease)
            if not may_repeat(error, lost=lost, idempotent=False) or _consumed(method, args):
                raise
            failure = error
        finally:
            pool.release(lease)
        longest_wait = self._config.timeout
        call = _Call(pool, method, args, kwargs, longest_wait, failure=failure)
        deadline = monotonic() + longest_wait
        return await self._retries.again(call, idempotent=False, deadline=deadline, failed=True)

    async def _insist(
        self, method: str, *args: Any, timeout: float | None = None, **kwargs: Any
    ) -> Any:
        """Do the same for a call that may be repeated whatever became of it."""
        pool, config = self._pool, self._config
        if method != "execute" and pool.driver.name == "psycopg":
            raise _not_in_psycopg(method)
        if _consumed(method, args):
            args = (args[0], list(args[1]))
        call = _Call(pool, method, args, kwargs, config.timeout, bounded=timeout is not None)
        limit = config.timeout + (config.command_timeout or 0.0) if timeout is None else timeout
        return await self._retries.again(call, idempotent=True, deadline=monotonic() + limit)

    async def execute(
        self, query: str, *args: Any, timeout: float | None = None, idempotent: bool = False
    ) -> Any:
        """Borrow a connection and run ``Connection.execute`` on it.

        ``timeout`` (seconds) bounds the statement, not the wait for a connection; with
        ``idempotent``, which lets a statement run again when its connection was lost, both
        together. Raises what ``acquire`` raises, before anything is sent, and the driver's
        errors; ``outcome_of`` says which of them leave the outcome open. Cancelling it
        cancels the statement and gives the connection back. The same holds for the methods
        below, which psycopg does not have: with it they raise ``PoolUsageError``.
        """
        if idempotent:
            return await self._insist("execute", query, *args, timeout=timeout)
        if timeout is None:
            return await self._borrow("execute", query, *args)
        return await self._borrow("execute", query, *args, timeout=timeout)

    async def executemany(
        self,
        command: str,
        args: Iterable[Any],
        *,
        timeout: float | None = None,
        idempotent: bool = False,
    ) -> None:
        """Borrow a connection and run ``Connection.executemany`` on it, see ``execute``."""
        run = self._insist if idempotent else self._borrow
        await run("executemany", command, args, timeout=timeout)

    async def fetch(
        self,
        query: str,
        *args: Any,
        timeout: float | None = None,
        record_class: type | None = None,
        idempotent: bool = False,
    ) -> list[Any]:
        """Borrow a connection and run ``Connection.fetch`` on it, see ``execute``."""
        run = self._insist if idempotent else self._borrow
        rows: list[Any] = await run(
            "fetch", query, *args, timeout=timeout, record_class=record_class
        )
        return rows

    async def fetchval(
        self,
        query: str,
        *args: Any,
        column: int = 0,
        timeout: float | None = None,
        idempotent: bool = False,
    ) -> Any:
        """Borrow a connection and run ``Connection.fetchval`` on it, see ``execute``."""
        run = self._insist if idempotent else self._borrow
        return await run("fetchval", query, *args, column=column, timeout=timeout)

    async def fetchrow(
        self,
        query: str,
        *args: Any,
        timeout: float | None = None,
        record_class: type | None = None,
        idempotent: bool = False,
    ) -> Any:
        """Borrow a connection and run ``Connection.fetchrow`` on it, see ``execute``."""
        run = self._insist if idempotent else self._borrow
        return await run("fetchrow", query, *args, timeout=timeout, record_class=record_class)

    async def fetchmany(
        self,
        query: str,
        args: Iterable[Any],
        *,
        timeout: float | None = None,
        record_class: type | None = None,
        idempotent: bool = False,
    ) -> list[Any]:
        """Borrow a connection and run ``Connection.fetchmany`` on it, see ``execute``."""
        run = self._insist if idempotent else self._borrow
        rows: list[Any] = await run(
            "fetchmany", query, args, timeout=timeout, record_class=record_class
        )
        return rows

    async def copy_from_table(self, table_name: str, **options: Any) -> str:
        """Borrow a connection and run ``Connection.copy_from_table`` on it.

        Raises and is cancelled as ``execute``; never made again by itself; asyncpg only.
        """
        status: str = await self._borrow("copy_from_table", table_name, **options)
        return status

    async def copy_from_query(self, query: str, *args: Any, **options: Any) -> str:
        """Borrow a connection and run ``Connection.copy_from_query`` on it.

        Raises and is cancelled as ``execute``; never made again by itself; asyncpg only.
        """
        status: str = await self._borrow("copy_from_query", query, *args, **options)
        return status

    async def copy_to_table(self, table_name: str, **options: Any) -> str:
        """Borrow a connection and run ``Connection.copy_to_table`` on it.

        Raises and is cancelled as ``execute``; never made again by itself; asyncpg only.
        """
        status: str = await self._borrow("copy_to_table", table_name, **options)
        return status

    async def copy_records_to_table(self, table_name: str, **options: Any) -> str:
        """Borrow a connection and run ``Connection.copy_records_to_table`` on it.

        Raises and is cancelled as ``execute``; never made again by itself; asyncpg only.
        """
        status: str = await self._borrow("copy_records_to_table", table_name, **options)
        return status


class _Call:
    """One of those methods with its arguments, to be made several times; see ``Repeatable``."""

    def __init__(
        self,
        pool: Pool,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        longest_wait: float,
        *,
        failure: Exception | None = None,
        bounded: bool = False,
    ) -> None:
        self._pool = pool
        self._method = method
        self._args = args
        self._kwargs = kwargs
        self._longest_wait = longest_wait
        self._bounded = bounded
        self.failure = failure
        self.lost = False

    async def make(self, left: float) -> Any:
        """Make the call once."""
        pool = self._pool
        self.lost = False
        started = monotonic()
        lease = pool.acquire_nowait(depth=6)
        if lease is None:
            lease = await pool.wait(min(left, self._longest_wait), depth=6)
        try:
            return await self._run(lease, left - (monotonic() - started))
        except Exception as error:
            self.failure = error
            self.lost = is_lost(lease)
            raise
        finally:
            pool.release(lease)

    async def _run(self, lease: Any, left: float) -> Any:
        kwargs = self._kwargs
        if self._bounded:
            kwargs = {**kwargs, "timeout": max(0.001, left)}
        return await _begin(self._pool, lease, self._method, self._args, kwargs)


def _begin(
    pool: Pool, lease: Any, method: str, args: Sequence[Any], kwargs: dict[str, Any]
) -> Awaitable[Any]:
    """Call a method of a connection; also with a time limit that its driver does not know."""
    work = getattr(lease, method)
    if "timeout" in kwargs and pool.driver.name == "psycopg":
        return _limited(work, args, **kwargs)
    made: Awaitable[Any] = work(*args, **kwargs)
    return made


async def _limited(
    work: Callable[..., Awaitable[Any]], args: Sequence[Any], *, timeout: float, **kwargs: Any
) -> Any:
    async with asyncio.timeout(timeout):
        return await work(*args, **kwargs)


def _consumed(method: str, args: Sequence[Any]) -> bool:
    """Whether the first attempt may have used up an argument that can be read only once."""
    if method.startswith("copy_"):
        return True
    return method in {"executemany", "fetchmany"} and iter(args[1]) is args[1]


def _not_in_psycopg(method: str) -> PoolUsageError:
    return PoolUsageError(
        f"psycopg has no {method}(). Suggestion: use `async with pool.acquire() as connection:` "
        "and psycopg's own methods, or a postgresql:// URL for asyncpg."
    )
