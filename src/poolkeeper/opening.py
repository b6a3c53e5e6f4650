"""The first connection: a few attempts, and one readable error if none succeeds."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from poolkeeper.core.availability import Failure
from poolkeeper.dialling import dial
from poolkeeper.exceptions import PoolInitializationError
from poolkeeper.sqlstate import (
    INVALID_AUTHORIZATION,
    INVALID_CATALOG_NAME,
    INVALID_PASSWORD,
    sqlstate_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from poolkeeper.core.backoff import Backoff
    from poolkeeper.drivers.base import Driver

ADVICE = {
    INVALID_PASSWORD: "check the password; `poolkeeper check URL` shows each step of the login",
    INVALID_AUTHORIZATION: "check the user name and pg_hba.conf, or create the role with "
    "CREATE ROLE … LOGIN",
    INVALID_CATALOG_NAME: "check the database name, or create it with CREATE DATABASE",
}

ADVICE_BY_FAILURE = {
    Failure.BACKPRESSURE: "lower POOL_MAX_SIZE of the pools on this server or raise its "
    "max_connections",
    Failure.STARTING: "wait until the server has finished starting, or raise POOL_TIMEOUT",
    Failure.MISCONFIGURED: "check the arguments of the connection and the server's configuration",
    Failure.UNAVAILABLE: "check host and port and that PostgreSQL is running; "
    "`poolkeeper check URL` tests each step",
}


async def first_session(
    driver: Driver,
    *,
    database: str,
    attempts: int,
    connect_timeout: float,
    patience: float,
    backoff: Backoff,
    describe: Callable[[BaseException], str],
) -> tuple[Any, float]:
    """Dial until a connection stands; return it and when its dialling began.

    A server that is starting up is asked again for up to ``patience`` seconds without using up
    attempts. A refusal of this client (password, role, database) is final at once: asking again
    changes nothing and may lock the account. ``describe`` puts an error into one line without
    secrets.

    Raises:
        PoolInitializationError: No attempt succeeded; nothing is left open.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    failed = 0
    while True:
        started = loop.time()
        try:
            session = await dial(driver, connect_timeout)
        except Exception as error:
            failure = driver.failure(error)
            if failure is not Failure.STARTING or loop.time() - began > patience:
                failed += 1
                if failure is Failure.MISCONFIGURED or failed >= attempts:
                    raise _error(
                        error, describe(error), failure, database, failed, loop.time() - began
                    ) from error
        else:
            return session, started
        await asyncio.sleep(backoff.next_delay())


def _error(
    error: BaseException,
    reason: str,
    failure: Failure,
    database: str,
    attempts: int,
    elapsed: float,
) -> PoolInitializationError:
    advice = ADVICE.get(sqlstate_of(error) or "", ADVICE_BY_FAILURE[failure])
    times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
    return PoolInitializationError(
        f"Cannot open a connection to {database} ({times}, {elapsed:.1f} s): "
        f"{reason}. Suggestion: {advice}.",
        url=database,
        attempts=attempts,
        elapsed=elapsed,
    )
