"""The work of ``poolkeeper serve``: what is opened, in which order, and how failures read."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import logging
import os
from typing import TYPE_CHECKING, Any

from psycopg.conninfo import conninfo_to_dict

from poolkeeper.cli.announce import announce
from poolkeeper.cli.embedded_watch import keep_running
from poolkeeper.cli.errors import RUNTIME_FAILURE, USAGE_FAILURE, CommandError
from poolkeeper.config import PoolConfig
from poolkeeper.embedded import EmbeddedPostgres, EmbeddedPostgresError
from poolkeeper.exceptions import ConnectionPoolError, PoolConfigurationError
from poolkeeper.observability.logs import configure_logging
from poolkeeper.server.listener import ListenError, bind, is_loopback
from poolkeeper.server.run import serve
from poolkeeper.urls import split_url

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

    from poolkeeper.server.settings import ServerSettings


_log = logging.getLogger("poolkeeper.server")


def run(
    *,
    host: str,
    port: int,
    database_url: str | None,
    data_dir: Path,
    max_size: int | None,
    settings: ServerSettings,
    statement_timeout: float,
    insecure_no_auth: bool,
    as_json: bool,
) -> None:
    """Serve until a signal comes: the socket first, then the database, then the pool.

    Raises:
        CommandError: Something cannot be had; what was opened before is closed again.
    """
    with _readable_errors(), contextlib.ExitStack() as resources:
        config = _pool_config(database_url, max_size)
        secrets = [token.secret for token in settings.tokens]
        redactor = configure_logging(json=as_json, secrets=secrets)
        # It reports its own start and end; ours say more.
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        sockets = bind(host, port)
        for sock in sockets:
            resources.enter_context(sock)
        if not settings.tokens and not insecure_no_auth and not is_loopback(sockets):
            raise _open_door(host)
        embedded = None
        if config.database_url is None:
            embedded = resources.enter_context(_embedded(data_dir))
            config = config.with_changes(database_url=embedded.dsn(driver="psycopg"))
        url = _for_psycopg(config.require_database_url())
        redactor.add(url)
        _run(
            sockets,
            # What a request leaves in its session must never reach the next one.
            config.with_changes(database_url=url, reset="always"),
            settings,
            statement_timeout=statement_timeout,
            embedded=embedded,
            as_json=as_json,
        )


def _run(
    sockets: list[socket.socket],
    config: PoolConfig,
    settings: ServerSettings,
    *,
    statement_timeout: float,
    embedded: EmbeddedPostgres | None,
    as_json: bool,
) -> None:
    def on_ready() -> None:
        announce(
            sockets,
            config,
            data_dir=embedded.data_dir if embedded else None,
            token_needed=bool(settings.tokens),
            as_json=as_json,
        )

    serving = serve(
        sockets,
        config,
        settings,
        connect_kwargs=_connect_kwargs(config.require_database_url(), statement_timeout),
        on_ready=on_ready,
        meanwhile=functools.partial(keep_running, embedded) if embedded else None,
    )
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serving)


def _pool_config(database_url: str | None, max_size: int | None) -> PoolConfig:
    given: dict[str, Any] = {}
    if database_url is not None:
        given["database_url"] = database_url
    if max_size is not None:
        given["max_size"] = max_size
    return PoolConfig(**given)


def _for_psycopg(url: str) -> str:
    """The same database through psycopg, which speaks text in and out as the protocol wants."""
    _driver, plain = split_url(url)
    return f"postgresql+psycopg://{plain.partition('://')[2]}"


def _connect_kwargs(url: str, statement_timeout: float) -> dict[str, Any]:
    """Session settings as the startup packet sets them: a reset goes back to these."""
    _driver, plain = split_url(url)
    given = conninfo_to_dict(plain)
    settings: dict[str, Any] = {"client_encoding": "UTF8"}
    if "application_name" not in given:
        settings["application_name"] = "poolkeeper"
    if statement_timeout > 0:
        # The user's own options come last and win.
        own = given.get("options") or os.environ.get("PGOPTIONS", "")
        limit = f"-c statement_timeout={max(1, round(statement_timeout * 1000))}"
        settings["options"] = f"{limit} {own}".strip()
    return settings


def _open_door(host: str) -> CommandError:
    return CommandError(
        f"Cannot start server: on {host} everybody who can reach this machine could run SQL. "
        "Suggestion: set POOLKEEPER_TOKEN to a secret that clients send as "
        "Authorization: Bearer …, or listen on 127.0.0.1; --insecure-no-auth if you mean it.",
        exit_code=USAGE_FAILURE,
    )


@contextlib.contextmanager
def _embedded(data_dir: Path) -> Iterator[EmbeddedPostgres]:
    _log.info("embedded_postgres_starting", extra={"data_dir": str(data_dir)})
    postgres = EmbeddedPostgres(data_dir)
    try:
        postgres.start()
    except EmbeddedPostgresError as error:
        if isinstance(error.__cause__, OSError):
            raise CommandError(
                f"{str(error).rstrip('.')}, or choose another directory with --data-dir or "
                "POOLKEEPER_DATA_DIR."
            ) from error
        raise
    try:
        yield postgres
    finally:
        postgres.stop()


@contextlib.contextmanager
def _readable_errors() -> Iterator[None]:
    try:
        yield
    except PoolConfigurationError as error:
        raise CommandError(str(error), exit_code=USAGE_FAILURE) from error
    except (ListenError, EmbeddedPostgresError, ConnectionPoolError) as error:
        raise CommandError(str(error), exit_code=RUNTIME_FAILURE) from error


def _loop_factory() -> Any:
    """Uvloop where it exists; it does not on Windows."""
    try:
        return importlib.import_module("uvloop").new_event_loop
    except ImportError:
        return None
