"""The only modules that import a database driver."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from poolkeeper.exceptions import PoolConfigurationError
from poolkeeper.urls import split_url

if TYPE_CHECKING:
    from collections.abc import Mapping

    from poolkeeper.drivers.base import Driver, Notes, Owner


def make_driver(
    url: str | None,
    *,
    owner: Owner,
    notes: Notes,
    hooks: Mapping[str, Any],
    connect_kwargs: Mapping[str, Any],
) -> Driver:
    """Make the driver the URL names; without a URL it is asyncpg.

    Raises:
        PoolConfigurationError: The driver is not installed, or has no such hook.
    """
    name, dsn = ("asyncpg", None) if url is None else split_url(url)
    if name == "asyncpg":
        from poolkeeper.drivers.asyncpg import AsyncpgDriver  # noqa: PLC0415 - only the driver asked for

        return AsyncpgDriver(dsn, owner=owner, notes=notes, **hooks, **connect_kwargs)
    unknown = [hook for hook in ("connect", "connection_class", "record_class") if hooks.get(hook)]
    if unknown:
        raise PoolConfigurationError(
            f"{unknown[0]} is a hook of asyncpg and does not exist for psycopg. Suggestion: "
            "remove it, or use a postgresql:// URL.",
            option=unknown[0],
        )
    try:
        from poolkeeper.drivers.psycopg import PsycopgDriver  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise PoolConfigurationError(
            "The URL asks for psycopg, which is not installed. Suggestion: "
            "pip install 'poolkeeper[psycopg]'.",
            option="database_url",
        ) from error
    assert dsn is not None
    return PsycopgDriver(dsn, owner=owner, notes=notes, init=hooks.get("init"), **connect_kwargs)
