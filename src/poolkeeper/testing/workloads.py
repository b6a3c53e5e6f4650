"""Work for a database whose every effect can be checked afterwards.

::

    history = History(seed=7)
    workloads = [UniqueInserts(), Bank(), ListAppend()]
    for workload in workloads:
        await workload.create(connection)
    async with Clients(pool, workloads, history, writes=[by_run_transaction], seed=7) as clients:
        await clients.acknowledged(1_000)
    report = check(history, await final_read(connection, workloads))

SQL is asyncpg's (``$1``); the pool is ``asyncpg.Pool``, poolkeeper's on asyncpg, or one like them.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from poolkeeper.testing.checker import FinalRead

if TYPE_CHECKING:
    from poolkeeper.testing.clients import Client

Body: TypeAlias = Callable[[Any], Awaitable[Any]]
"""One write: a coroutine function that gets a connection and may run several times. It runs a
single statement, so that it is all or nothing without a transaction, too."""

Write: TypeAlias = Callable[[Any, Body], Awaitable[Any]]
"""How a pool is used to write: gets the pool and the body. Returning means acknowledged."""

Read: TypeAlias = Callable[..., Awaitable[Any]]
"""How a pool is used to read: gets the pool, the query and its arguments; returns rows."""


async def in_transaction(pool: Any, body: Body) -> Any:
    """Write in an ordinary transaction; a COMMIT whose answer is lost is unknown."""
    async with pool.acquire() as connection, connection.transaction():
        return await body(connection)


async def by_run_transaction(pool: Any, body: Body) -> Any:
    """Write by ``pool.run_transaction``."""
    return await pool.run_transaction(body)


async def autocommit(pool: Any, body: Body) -> Any:
    """Write by ``pool.execute``; a statement whose answer is lost is unknown."""
    return await body(pool)


async def plain_fetch(pool: Any, query: str, *args: Any) -> Any:
    """Read by ``pool.fetch``."""
    return await pool.fetch(query, *args)


async def idempotent_fetch(pool: Any, query: str, *args: Any) -> Any:
    """Read by ``pool.fetch(…, idempotent=True)``, which tries again by itself."""
    return await pool.fetch(query, *args, idempotent=True)


class Workload(ABC):
    """One kind of work: its tables, its write, its read, and what is there at the end."""

    tables: tuple[str, ...]
    """Names of its tables, which are made in the first schema of the search path."""

    @abstractmethod
    async def create(self, connection: Any) -> None:
        """Make the tables; rows of an earlier run would be evidence of nothing, so none may exist.

        Raises:
            asyncpg.DuplicateTableError: They do.
        """

    @abstractmethod
    async def write(self, client: Client) -> bool:
        """Write once; whether it was acknowledged."""

    @abstractmethod
    async def read(self, client: Client) -> bool:
        """Read once; whether there was an answer."""

    @abstractmethod
    async def final(self, connection: Any) -> FinalRead:
        """What its tables hold, as the fields of a final read."""


class UniqueInserts(Workload):
    """Rows with an id of their own in a table without a key, so that one too many shows.

    Args:
        window: How many of the latest ids one read looks for.
    """

    tables = ("workload_inserts",)

    def __init__(self, *, window: int = 100) -> None:
        self.window = window
        self._next = 0

    async def create(self, connection: Any) -> None:
        """See ``Workload.create``."""
        await connection.execute(
            "CREATE TABLE workload_inserts (id bigint NOT NULL); "
            "CREATE INDEX ON workload_inserts (id)"
        )

    async def write(self, client: Client) -> bool:
        """Insert the next id."""
        number, self._next = self._next, self._next + 1

        async def insert(connection: Any) -> None:
            await connection.execute("INSERT INTO workload_inserts (id) VALUES ($1)", number)

        return await client.write("insert", number, insert)

    async def read(self, client: Client) -> bool:
        """Look for the latest ids."""
        wanted = {"low": max(0, self._next - self.window), "high": self._next}

        async def look() -> Any:
            rows = await client.fetch(
                "SELECT id FROM workload_inserts WHERE id >= $1 AND id < $2",
                wanted["low"],
                wanted["high"],
            )
            return wanted | {"ids": [row["id"] for row in rows]}

        return await client.read("read-inserts", wanted, look)

    async def final(self, connection: Any) -> FinalRead:
        """See ``Workload.final``."""
        rows = await connection.fetch("SELECT id FROM workload_inserts")
        return FinalRead(inserts=[row["id"] for row in rows])


class Bank(Workload):
    """Money that moves between accounts and is never made; every transfer is logged.

    Args:
        accounts: How many accounts there are.
        opening: What each has at first.
    """

    tables = ("workload_accounts", "workload_transfers")

    def __init__(self, *, accounts: int = 10, opening: int = 1_000) -> None:
        self.opening = {str(number): opening for number in range(accounts)}
        self._ids = itertools.count()

    async def create(self, connection: Any) -> None:
        """See ``Workload.create``."""
        await connection.execute(
            "CREATE TABLE workload_accounts (account text PRIMARY KEY, balance bigint NOT NULL); "
            "CREATE TABLE workload_transfers (id bigint NOT NULL, source text NOT NULL, "
            "target text NOT NULL, amount bigint NOT NULL)"
        )
        await connection.executemany(
            "INSERT INTO workload_accounts (account, balance) VALUES ($1, $2)",
            list(self.opening.items()),
        )

    async def write(self, client: Client) -> bool:
        """Move a random amount between two random accounts."""
        source, target = client.rng.sample(sorted(self.opening), 2)
        transfer = {
            "id": next(self._ids),
            "source": source,
            "target": target,
            "amount": client.rng.randint(1, 10),
        }

        async def move(connection: Any) -> None:
            await self.move(connection, transfer)

        return await client.write("transfer", transfer, move)

    async def move(self, connection: Any, transfer: dict[str, Any]) -> None:
        """Carry out and log a transfer in one statement."""
        # locked in one order, or transfers in opposite directions would deadlock
        await connection.execute(
            """
            WITH locked AS MATERIALIZED (
                SELECT account FROM workload_accounts
                WHERE account IN ($2::text, $3::text) ORDER BY account FOR UPDATE
            ), moved AS (
                UPDATE workload_accounts AS a
                SET balance = balance + CASE a.account WHEN $2::text THEN -$4::bigint ELSE $4 END
                FROM locked WHERE locked.account = a.account
            )
            INSERT INTO workload_transfers (id, source, target, amount) VALUES ($1, $2, $3, $4)
            """,
            *transfer.values(),
        )

    async def read(self, client: Client) -> bool:
        """Look at all accounts in one snapshot."""

        async def look() -> Any:
            return _by_key(await client.fetch("SELECT account, balance FROM workload_accounts"))

        return await client.read("read-bank", None, look)

    async def final(self, connection: Any) -> FinalRead:
        """See ``Workload.final``."""
        accounts = await connection.fetch("SELECT account, balance FROM workload_accounts")
        log = await connection.fetch("SELECT id, source, target, amount FROM workload_transfers")
        return FinalRead(
            opening=self.opening,
            balances=_by_key(accounts),
            transfers=[dict(transfer) for transfer in log],
        )


class ListAppend(Workload):
    """Arrays that grow at their end: their order shows in which order writes took effect.

    Args:
        length: How many elements are meant for one list before the next is begun.
        width: How many lists grow at the same time.
    """

    tables = ("workload_lists",)

    def __init__(self, *, length: int = 50, width: int = 4) -> None:
        self.length = length
        self.width = width
        self._next = 0

    def _key(self, number: int) -> str:
        return f"{number // (self.length * self.width)}-{number % self.width}"

    async def create(self, connection: Any) -> None:
        """See ``Workload.create``."""
        await connection.execute(
            "CREATE TABLE workload_lists (key text PRIMARY KEY, elements bigint[] NOT NULL)"
        )

    async def write(self, client: Client) -> bool:
        """Append the next number to its list."""
        number, self._next = self._next, self._next + 1
        key = self._key(number)

        async def append(connection: Any) -> None:
            await connection.execute(
                "INSERT INTO workload_lists AS l (key, elements) VALUES ($1, ARRAY[$2::bigint]) "
                "ON CONFLICT (key) DO UPDATE SET elements = l.elements || EXCLUDED.elements",
                key,
                number,
            )

        return await client.write("append", [key, number], append)

    async def read(self, client: Client) -> bool:
        """Look at one of the lists that grow."""
        key = self._key(max(0, self._next - 1 - client.rng.randrange(2 * self.width)))

        async def look() -> Any:
            rows = await client.fetch("SELECT elements FROM workload_lists WHERE key = $1", key)
            return [key, list(rows[0]["elements"]) if rows else []]

        return await client.read("read-list", key, look)

    async def final(self, connection: Any) -> FinalRead:
        """See ``Workload.final``."""
        rows = await connection.fetch("SELECT key, elements FROM workload_lists")
        return FinalRead(lists=_by_key(rows))


class Counters(Workload):
    """Numbers that only grow.

    An increment has no id: what is lost or doubled shows in the sum, as long as not both happen.

    Args:
        keys: How many counters there are.
    """

    tables = ("workload_counters",)

    def __init__(self, *, keys: int = 4) -> None:
        self.keys = [str(number) for number in range(keys)]

    async def create(self, connection: Any) -> None:
        """See ``Workload.create``."""
        await connection.execute(
            "CREATE TABLE workload_counters (key text PRIMARY KEY, value bigint NOT NULL)"
        )
        await connection.executemany(
            "INSERT INTO workload_counters (key, value) VALUES ($1, 0)",
            [(key,) for key in self.keys],
        )

    async def write(self, client: Client) -> bool:
        """Add a little to one counter."""
        increment = {"key": client.rng.choice(self.keys), "by": client.rng.randint(1, 3)}

        async def add(connection: Any) -> None:
            await connection.execute(
                "UPDATE workload_counters SET value = value + $2 WHERE key = $1",
                *increment.values(),
            )

        return await client.write("increment", increment, add)

    async def read(self, client: Client) -> bool:
        """Look at one counter."""
        key = client.rng.choice(self.keys)

        async def look() -> Any:
            rows = await client.fetch("SELECT value FROM workload_counters WHERE key = $1", key)
            return [key, rows[0]["value"]]

        return await client.read("read-counter", key, look)

    async def final(self, connection: Any) -> FinalRead:
        """See ``Workload.final``."""
        rows = await connection.fetch("SELECT key, value FROM workload_counters")
        return FinalRead(counters=_by_key(rows))


async def final_read(
    connection: Any, workloads: list[Workload], *, sessions_left: int | None = None
) -> FinalRead:
    """What all tables hold in one snapshot, after every write that is still under way.

    Args:
        connection: An asyncpg connection to the primary, outside a transaction. Its
            ``lock_timeout`` bounds the wait for writes under way.
        workloads: Those that were run.
        sessions_left: Passed on, see ``FinalRead``.
    """
    fields: dict[str, Any] = {"sessions_left": sessions_left}
    tables = ", ".join(itertools.chain.from_iterable(workload.tables for workload in workloads))
    async with connection.transaction(isolation="repeatable_read"):
        # before the snapshot is taken: a session that was cut off may be about to commit
        await connection.execute(f"LOCK TABLE {tables} IN SHARE MODE")
        for workload in workloads:
            part = await workload.final(connection)
            fields |= {
                name: value
                for name in ("inserts", "opening", "balances", "transfers", "lists", "counters")
                if (value := getattr(part, name))
            }
    return FinalRead(**fields)


def _by_key(rows: Any) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, list) else value for key, value in rows}
