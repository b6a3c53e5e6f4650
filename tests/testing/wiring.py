"""What the tests of the fault proxy share: both loops, clients, and a look past the proxy."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import socket
import sys
from collections.abc import AsyncIterator
from inspect import Parameter
from pathlib import Path

import asyncpg
import pytest
import uvloop

from poolkeeper.testing.contracts import eventually

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
PATIENCE = 60.0
LOST = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)


def _open_sockets() -> set[str]:
    """The inodes of this process's sockets."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            target = str(descriptor.readlink())
            if target.startswith("socket:"):
                found.add(target)
    return found


async def _scenario(test, fixtures):
    """Run a test, which must leave neither a task nor a socket behind."""
    await asyncio.sleep(0)
    sockets = _open_sockets() if sys.platform == "linux" else set()
    await asyncio.wait_for(test(**fixtures), PATIENCE)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    if sys.platform == "linux":
        # drivers close theirs in a later turn of the loop
        await eventually(lambda: not _open_sockets() - sockets)


def on_both_loops(test):
    """Run a coroutine function as a test, on asyncio's own loop and on uvloop."""

    @pytest.mark.parametrize("loop", LOOPS)
    @functools.wraps(test)
    def run(loop, **fixtures):
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(_scenario(test, fixtures))

    signature = inspect.signature(test)
    loop = Parameter("loop", Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = signature.replace(parameters=[loop, *signature.parameters.values()])
    return run


@contextlib.asynccontextmanager
async def connected(url, **options) -> AsyncIterator[asyncpg.Connection]:
    """A connection that is dropped at the end, whatever became of it."""
    connection = await asyncpg.connect(url, **options)
    try:
        yield connection
    finally:
        connection.terminate()


@contextlib.asynccontextmanager
async def raw(proxy) -> AsyncIterator[socket.socket]:
    """A socket that says what it is told."""
    with socket.socket() as client:
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, (proxy.host, proxy.port))
        yield client


async def heard(client: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(client, 1 << 16)


def start(work) -> asyncio.Task:
    return asyncio.ensure_future(work)


class Table:
    """A table of numbers, seen past the proxy."""

    def __init__(self, postgres) -> None:
        self.server, self.name = postgres.server, postgres.name
        self.sql("create table t (n int)")

    def sql(self, statement: str) -> str:
        return self.server.psql(statement, database=self.name)

    def rows(self) -> list[int]:
        return [int(line) for line in self.sql("select n from t order by n").split()]

    def sessions(self, where: str = "true") -> int:
        return int(
            self.sql(
                "select count(*) from pg_stat_activity where datname = current_database() "
                f"and backend_type = 'client backend' and pid <> pg_backend_pid() and {where}"
            )
        )
