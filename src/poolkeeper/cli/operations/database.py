"""Which database, and how its failures read."""

from __future__ import annotations

import importlib
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from poolkeeper.cli.errors import RUNTIME_FAILURE, USAGE_FAILURE, CommandError
from poolkeeper.cli.operations.words import clean, in_options, printable
from poolkeeper.config import PoolConfig
from poolkeeper.exceptions import ConnectionPoolError, PoolConfigurationError
from poolkeeper.manager import ConnectionPoolManager
from poolkeeper.operations import OperationError
from poolkeeper.outcomes import is_driver_error
from poolkeeper.sqlstate import sqlstate_of
from poolkeeper.urls import mask_url, redact, split_url

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator


@dataclass(frozen=True)
class Database:
    """A database and who named it.

    Attributes:
        config: Of the pool.
        url: With its password.
        source: Where the URL is from, in words.
    """

    config: PoolConfig
    url: str
    source: str

    @property
    def shown(self) -> str:
        """For messages, without a password."""
        return f"{mask_url(self.url)} (from {self.source})"

    def pool(self) -> ConnectionPoolManager:
        """A pool that has not dialled and will not: operations have connections of their own."""
        return ConnectionPoolManager(self.config)

    @contextmanager
    def readable_errors(self) -> Iterator[None]:
        """Turn what may go wrong in the block into a message.

        Raises:
            CommandError: In place of errors of the pool, of operations and of drivers.
        """
        try:
            yield
        except PoolConfigurationError as error:
            raise CommandError(str(error), exit_code=USAGE_FAILURE) from error
        except OperationError as error:
            said = printable(in_options(str(error)))
            raise CommandError(said, exit_code=RUNTIME_FAILURE) from error
        except ConnectionPoolError as error:
            raise CommandError(
                printable(f"{error} The database URL is from {self.source}."),
                exit_code=RUNTIME_FAILURE,
            ) from error
        except Exception as error:
            if not is_driver_error(error):
                raise
            code = sqlstate_of(error)
            said = redact(clean(str(error)), self.url).rstrip(".") or type(error).__name__
            raise CommandError(
                f"The database {self.shown} answered: {said}"
                + (f" (SQLSTATE {code})" if code else "")
                + ". Suggestion: `poolkeeper check` tests each step of using it.",
                exit_code=RUNTIME_FAILURE,
            ) from error


def database(option: str | None) -> Database:
    """Find out which database is meant.

    Raises:
        CommandError: None is, or the URL cannot be used.
    """
    given: dict[str, Any] = {"min_size": 0}
    if option is not None:
        given["database_url"] = option
    try:
        config = PoolConfig(**given)
        if not config.database_url:
            raise CommandError(
                "No database URL. Suggestion: set DATABASE_URL, or, if it needs no password, "
                "--database-url postgresql://user@host/database.",
                exit_code=USAGE_FAILURE,
            )
        split_url(config.database_url)
    except PoolConfigurationError as error:
        raise CommandError(str(error), exit_code=USAGE_FAILURE) from error
    return Database(config, config.database_url, _source(option))


def _source(option: str | None) -> str:
    if option is not None:
        return "--database-url"
    set_ = [name for name in ("DATABASE_URL", "POOL_DATABASE_URL") if os.environ.get(name)]
    return set_[0] if set_ else ".env"


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Uvloop where it exists; it does not on Windows."""
    try:
        factory: Callable[[], asyncio.AbstractEventLoop]
        factory = importlib.import_module("uvloop").new_event_loop
    except ImportError:
        return None
    return factory
