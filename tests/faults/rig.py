"""What the fault tests share: both event loops, both drivers, and calls that must come back."""

import asyncio
import functools
import inspect
from contextlib import asynccontextmanager
from inspect import Parameter
from time import monotonic

import asyncpg
import psycopg
import pytest
import uvloop

from poolkeeper import ConnectionPoolManager, PoolConfig
from poolkeeper.exceptions import ConnectionPoolError
from poolkeeper.observability.events import DatabaseConnectionLost, DatabaseReconnected

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
DRIVERS = ("asyncpg", "psycopg")
FAILURES = (
    ConnectionPoolError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    psycopg.Error,
    OSError,
)
EVERY_CALL_SECONDS = 5.0
"""The promise: against a silent peer every call is back by then."""
SLACK_SECONDS = 3.0
"""For a machine that is busy with something else."""
PATIENCE = 60.0


def on_both_loops(test):
    """Run a coroutine function as a test, on asyncio's own loop and on uvloop."""

    @pytest.mark.parametrize("loop", LOOPS)
    @functools.wraps(test)
    def run(loop, **fixtures):
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(asyncio.wait_for(test(**fixtures), PATIENCE))

    signature = inspect.signature(test)
    loop = Parameter("loop", Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = signature.replace(parameters=[loop, *signature.parameters.values()])
    return run


with_both_drivers = pytest.mark.parametrize("driver", DRIVERS)


@asynccontextmanager
async def pool_on(url, driver="asyncpg", *, application="faults", **options):
    """An open pool whose sessions can be told from others on the server."""
    options = {"min_size": 1, "max_size": 4, "timeout": 20.0, "close_timeout": 2.0} | options
    url = url.replace("postgresql://", f"postgresql+{driver}://", 1)
    pool = ConnectionPoolManager(
        PoolConfig(database_url=url, **options),
        server_settings={"application_name": application},
    )
    pool.seen = []
    pool.add_event_listener(pool.seen.append)
    async with pool:
        yield pool


def outages(pool):
    """The outages a pool reported: when each began and ended."""
    return [e for e in pool.seen if isinstance(e, DatabaseConnectionLost | DatabaseReconnected)]


async def outcome(work, bound=EVERY_CALL_SECONDS):
    """The error of a call that must come back within ``bound``, or None if it succeeded."""
    started = monotonic()
    task = asyncio.ensure_future(work)
    await asyncio.wait({task}, timeout=bound + SLACK_SECONDS)
    assert task.done(), f"still waiting after {monotonic() - started:.1f} s"
    error = task.exception()
    assert error is None or isinstance(error, FAILURES), repr(error)
    return error


async def until(condition):
    """Wait until ``condition()`` is true; the whole test has a limit."""
    while not condition():
        await asyncio.sleep(0.01)
