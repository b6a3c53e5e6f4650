"""``create_pool``: the one line an application changes."""

from __future__ import annotations

import re
from typing import Any

from poolkeeper.config import PoolConfig
from poolkeeper.exceptions import PoolConfigurationError
from poolkeeper.manager import ConnectionPoolManager


def create_pool(
    dsn: str | None = None,
    *,
    min_size: int | None = None,
    max_size: int | None = None,
    max_queries: int | None = None,
    max_inactive_connection_lifetime: float | None = None,
    timeout: float | None = None,
    acquire_timeout: float | None = None,
    **options: Any,
) -> ConnectionPoolManager:
    """Make a pool the way ``asyncpg.create_pool`` does; await it or enter it to open it.

    What is not given comes from the environment, see ``PoolConfig``.

    Args:
        dsn: URL of the database; None reads ``POOL_DATABASE_URL`` or ``DATABASE_URL``.
        min_size: Floor; by default 2, or ``max_size`` if that is less.
        max_size: Ceiling; by default 10.
        max_queries: Uses of a connection before it is replaced; by default 50,000.
        max_inactive_connection_lifetime: Seconds an idle connection above the floor is kept; by
            default 300.
        timeout: Seconds to open one connection, as in asyncpg.
        acquire_timeout: Seconds ``acquire`` waits; asyncpg waits for ever, this pool 30 s.
        options: Any option of ``PoolConfig``, any hook of ``ConnectionPoolManager``, and whatever
            else the driver's ``connect`` takes.

    Raises:
        PoolConfigurationError: An option cannot be used.
    """
    chosen: dict[str, Any] = {
        "database_url": dsn,
        "min_size": min_size,
        "max_size": max_size,
        "max_queries": max_queries,
        "max_inactive_connection_lifetime": max_inactive_connection_lifetime,
        "connect_timeout": timeout,
        "timeout": acquire_timeout,
    }
    config_options = {name: value for name, value in chosen.items() if value is not None}
    options.pop("loop", None)
    # asyncpg distinguishes the connections opened at start from the floor; here they are one.
    init_size = options.pop("init_size", None)
    if init_size is not None and min_size is None:
        config_options["min_size"] = init_size
    reset = options.pop("reset", None)
    if isinstance(reset, str):
        config_options["reset"] = reset
        reset = None
    for name in PoolConfig.model_fields:
        if name in options:
            config_options[name] = options.pop(name)
    try:
        config = PoolConfig(**config_options)
    except PoolConfigurationError as error:
        raise _in_the_words_of_the_caller(error) from None
    return ConnectionPoolManager(config, reset=reset, **options)


NAMES = {"connect_timeout": "timeout", "timeout": "acquire_timeout", "database_url": "dsn"}
"""What options of ``PoolConfig`` are called here, where asyncpg uses another name."""


def _in_the_words_of_the_caller(error: PoolConfigurationError) -> PoolConfigurationError:
    text = re.sub(
        r"(?<![\w.])(connect_timeout|timeout|database_url)(?=[= ])",
        lambda name: NAMES[name[0]],
        str(error),
    )
    option = error.option if error.option is None else NAMES.get(error.option, error.option)
    return PoolConfigurationError(text, option=option, value=error.value)
