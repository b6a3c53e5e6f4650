"""The work of ``poolkeeper serve``: what is opened, in which order, and how failures read."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import logging
import os
import re
import shlex
import socket
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import psycopg
import structlog
from psycopg.conninfo import conninfo_to_dict

from poolkeeper.cli.announce import announce
from poolkeeper.cli.embedded_watch import keep_running
from poolkeeper.cli.errors import RUNTIME_FAILURE, USAGE_FAILURE, CommandError
from poolkeeper.config import PoolConfig
from poolkeeper.embedded import EmbeddedPostgres, EmbeddedPostgresError
from poolkeeper.exceptions import ConnectionPoolError, PoolConfigurationError
from poolkeeper.observability.logs import configure_logging
from poolkeeper.server.access_log import configure_access_log
from poolkeeper.server.listener import ListenError, bind, is_loopback
from poolkeeper.server.run import Surroundings, longest_drain, serve
from poolkeeper.server.siblings import Birth
from poolkeeper.server.supervisor import Crew, Supervisor
from poolkeeper.server.systemd import Notifier, inherited_sockets
from poolkeeper.server.tls import Certificate, CertificateError
from poolkeeper.server.token_file import read_tokens
from poolkeeper.urls import mask_url, split_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from poolkeeper.observability.logs import Redactor
    from poolkeeper.server.settings import ServerSettings, Token


_log = logging.getLogger("poolkeeper.server")

_SHORTEST_TOKEN = 16
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s?#@]+/?", re.IGNORECASE)

_WAITING_PER_CONNECTION = 20


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the command line asks for."""

    host: str
    port: int
    tls_cert: Path | None
    tls_key: Path | None
    processes: int
    reuse_port: bool
    database_url: str | None
    data_dir: Path
    data_dir_given: bool
    max_size: int | None
    settings: ServerSettings
    token_file: Path | None
    statement_timeout: float
    insecure_no_auth: bool
    as_json: bool


def run(plan: Plan) -> None:
    """Serve until a signal comes: the socket first, then the database, then the pool.

    Raises:
        CommandError: Something cannot be had; what was opened before is closed again.
        SystemExit: A process of several could not start; it has said why.
    """
    with _readable_errors(), contextlib.ExitStack() as resources:
        birth = Birth.from_environment(os.environ)
        notifier = Notifier.from_environment(os.environ)
        _check_origins(plan.settings.cors_origins)
        _check_operations(plan.settings)
        config = _pool_config(plan.database_url, plan.max_size)
        redactor = configure_logging(json=plan.as_json)
        configure_access_log(as_json=plan.as_json)
        # It reports its own start and end; ours say more.
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        read_tokens = _token_reader(plan, redactor)
        settings = replace(plan.settings, tokens=read_tokens())
        certificate = _certificate(plan)
        sockets = birth.sockets if birth else _listen(plan)
        for sock in sockets:
            resources.enter_context(sock)
        if birth is None:
            _check_door(plan, settings, sockets, encrypted=certificate is not None)
            _warn_of_short_token(plan.settings.tokens)
        embedded = None
        if config.database_url is not None and plan.data_dir_given:
            _log.warning(
                "data_dir_not_used",
                extra={
                    "data_dir": str(plan.data_dir),
                    "reason": "a database URL is given, by --database-url or DATABASE_URL",
                    "suggestion": "unset DATABASE_URL to start the embedded PostgreSQL",
                },
            )
        if config.database_url is None:
            embedded = resources.enter_context(_embedded(plan.data_dir))
            config = config.with_changes(database_url=embedded.dsn(driver="psycopg"))
        url = _for_psycopg(config.require_database_url())
        redactor.add(url)
        connect_kwargs = _connect_kwargs(url, plan.statement_timeout)
        # What a request leaves in its session must never reach the next one.
        config = config.with_changes(database_url=url, reset="always")
        meanwhile = functools.partial(keep_running, embedded) if embedded else None
        on_ready = functools.partial(
            announce,
            sockets,
            config,
            data_dir=embedded.data_dir if embedded else None,
            token_needed=bool(settings.tokens),
            encrypted=certificate is not None,
            processes=plan.processes,
            as_json=plan.as_json,
        )
        if plan.processes > 1 and birth is None:
            crew = Crew(
                command=[sys.executable, "-m", "poolkeeper", *sys.argv[1:]],
                environ={**os.environ, "DATABASE_URL": url} if embedded else dict(os.environ),
                sockets=_sockets_of_each(plan, sockets, resources),
                drain_seconds=longest_drain(settings),
                on_ready=on_ready,
                notifier=notifier,
                meanwhile=meanwhile,
            )
            _exit_unless_0(asyncio.run(Supervisor(crew).run()))
            return
        around = Surroundings(
            on_ready=_nobody_asked if birth else on_ready,
            notifier=notifier,
            certificate=certificate,
            read_tokens=read_tokens if plan.token_file else None,
            birth=birth,
            meanwhile=meanwhile,
        )
        if birth is not None:
            # Every record says which process it is from.
            structlog.contextvars.bind_contextvars(process_number=birth.number)
        serving = serve(sockets, config, settings, connect_kwargs=connect_kwargs, around=around)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(serving)


def _listen(plan: Plan) -> list[socket.socket]:
    inherited = inherited_sockets(os.environ)
    return inherited or bind(plan.host, plan.port, reuse_port=plan.reuse_port)


def _sockets_of_each(
    plan: Plan, sockets: list[socket.socket], resources: contextlib.ExitStack
) -> list[list[socket.socket]]:
    """The same sockets for all processes, or with ``--reuse-port`` one's own for each."""
    if not plan.reuse_port or not sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
        return [sockets] * plan.processes
    each = [sockets]
    port = sockets[0].getsockname()[1]
    for _ in range(1, plan.processes):
        own = bind(plan.host, port, reuse_port=True)
        for sock in own:
            resources.enter_context(sock)
        each.append(own)
    return each


def _exit_unless_0(code: int) -> None:
    if code:
        raise SystemExit(code)


def _nobody_asked() -> None:
    """The supervisor says when all are ready."""


def _token_reader(plan: Plan, redactor: Redactor) -> Callable[[], tuple[Token, ...]]:
    """All tokens, read anew at each call; none of them is ever logged."""

    def read() -> tuple[Token, ...]:
        tokens = plan.settings.tokens
        if plan.token_file is not None:
            tokens += read_tokens(plan.token_file)
        for token in tokens:
            if token.secret:
                redactor.add(token.secret)
        return tokens

    return read


def _certificate(plan: Plan) -> Certificate | None:
    if plan.tls_cert is not None:
        return Certificate(plan.tls_cert, plan.tls_key)
    if plan.tls_key is not None:
        raise CertificateError(
            "--tls-key was given without --tls-cert. "
            "Suggestion: give the certificate that belongs to the key, too."
        )
    return None


def _check_door(
    plan: Plan, settings: ServerSettings, sockets: list[socket.socket], *, encrypted: bool
) -> None:
    """No open door by accident, and no token in clear without a word.

    Raises:
        CommandError: Others can reach the server, and it asks for nothing.
    """
    if is_loopback(sockets):
        return
    if not settings.tokens and not plan.insecure_no_auth:
        raise _open_door(plan.host)
    if settings.tokens and not encrypted:
        _log.warning(
            "tokens_travel_unencrypted",
            extra={
                "host": plan.host,
                "suggestion": "use --tls-cert, or a proxy in front that speaks TLS",
            },
        )


def _pool_config(database_url: str | None, max_size: int | None) -> PoolConfig:
    given: dict[str, Any] = {}
    if database_url is not None:
        given["database_url"] = database_url
    if max_size is not None:
        given["max_size"] = max_size
    config = PoolConfig(**given)
    if config.database_url is None and os.environ.get("DATABASE_URL") == "":
        raise CommandError(
            "DATABASE_URL is set but empty. "
            "Suggestion: unset it for the embedded PostgreSQL, or give it a URL.",
            exit_code=USAGE_FAILURE,
        )
    if "max_waiting" in config.model_fields_set:
        return config
    # More than are served in time would only wait for their refusal.
    return config.with_changes(max_waiting=_WAITING_PER_CONNECTION * config.max_size)


def _check_origins(origins: tuple[str, ...]) -> None:
    """A browser's ``Origin`` always has a scheme and never a path."""
    for origin in origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            host = origin.rpartition("://")[2].partition("/")[0] or "example.com"
            raise CommandError(
                f"--cors-origin {origin!r} is not an origin: scheme, host and port, no path. "
                f"Suggestion: write --cors-origin https://{host}.",
                exit_code=USAGE_FAILURE,
            )


def _check_operations(settings: ServerSettings) -> None:
    """What the server is to do must be what it may do."""
    if settings.read_only and settings.operations:
        raise CommandError(
            "--operations and --read-only contradict each other: operations write. Suggestion: "
            "leave one of them out; GET /v1/operations works without --operations, too.",
            exit_code=USAGE_FAILURE,
        )
    directory = settings.operations_dir
    if directory is not None and not directory.is_dir():
        raise CommandError(
            f"--operations-dir {str(directory)!r} is no directory. Suggestion: make it "
            f"(mkdir -p {shlex.quote(str(directory))}), readable by this server only.",
            exit_code=USAGE_FAILURE,
        )


def _warn_of_short_token(tokens: tuple[Token, ...]) -> None:
    if any(len(token.secret) < _SHORTEST_TOKEN for token in tokens):
        _log.warning(
            "token_too_short",
            extra={
                "wanted_characters": _SHORTEST_TOKEN,
                "suggestion": "`openssl rand -hex 32` makes one that cannot be guessed",
            },
        )


def _for_psycopg(url: str) -> str:
    """The same database through psycopg, which speaks text in and out as the protocol wants."""
    _driver, plain = split_url(url)
    return f"postgresql+psycopg://{plain.partition('://')[2]}"


def _connect_kwargs(url: str, statement_timeout: float) -> dict[str, Any]:
    """Session settings as the startup packet sets them: a reset goes back to these."""
    _driver, plain = split_url(url)
    try:
        given = conninfo_to_dict(plain)
    except psycopg.ProgrammingError as error:
        words = str(error).strip()
        reason = words if words.startswith("invalid URI query parameter") else "libpq refuses it"
        raise CommandError(
            f"The database URL {mask_url(plain)!r} cannot be used: {reason}. Suggestion: after "
            "the ? use libpq's parameters only, such as sslmode or target_session_attrs.",
            exit_code=USAGE_FAILURE,
        ) from None  # libpq's words may quote what is secret
    # Statements of strangers are not prepared on the driver's side, so that all can be dropped.
    settings: dict[str, Any] = {"client_encoding": "UTF8", "prepare_threshold": None}
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
        words = str(error).replace(
            "choose another data directory",
            "choose another data directory with --data-dir or POOLKEEPER_DATA_DIR",
        )
        raise CommandError(words, exit_code=RUNTIME_FAILURE) from error
    try:
        yield postgres
    finally:
        postgres.stop()


@contextlib.contextmanager
def _readable_errors() -> Iterator[None]:
    try:
        yield
    except (PoolConfigurationError, CertificateError) as error:
        raise CommandError(str(error), exit_code=USAGE_FAILURE) from error
    except (ListenError, EmbeddedPostgresError, ConnectionPoolError) as error:
        raise CommandError(str(error), exit_code=RUNTIME_FAILURE) from error


def _loop_factory() -> Any:
    """Uvloop where it exists; it does not on Windows."""
    try:
        return importlib.import_module("uvloop").new_event_loop
    except ImportError:
        return None
