"""``poolkeeper serve``: the options and their help."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from poolkeeper.server.settings import MEBIBYTE, ServerSettings, Token

DEFAULT_PORT = 8020

HELP_TEXT = (
    "Serve a PostgreSQL database over HTTP, with Neon's SQL-over-HTTP protocol.\n\n"
    "Without a database URL it starts a PostgreSQL of its own, in a data directory that outlives "
    "it. Options of the pool are variables: POOL_MAX_SIZE, POOL_TIMEOUT and so on. The first "
    "Ctrl-C or SIGTERM lets running statements finish, the second ends at once.\n\n"
    "[bold]Examples[/bold]\n\n"
    "  poolkeeper serve\n\n"
    "  DATABASE_URL=postgresql://app:…@db.example.com/shop poolkeeper serve\n\n"
    "  poolkeeper serve --database-url postgresql://app@db.example.com/shop\n\n"
    "  POOLKEEPER_TOKEN=… poolkeeper serve --host 0.0.0.0 --port 80\n\n"
    """  curl -s http://127.0.0.1:8020/sql -d '{"query": "select version()"}'\n\n"""
    "A password on the command line is visible to other users; use DATABASE_URL, PGPASSWORD or "
    "~/.pgpass."
)

_LISTENING = "Listening"
_DATABASE = "Database"
_ACCESS = "Who may use it"
_LIMITS = "Limits"
_OPERATION = "Operation"
_WATCHING = "Watching it"


class LogFormat(StrEnum):
    """How the log is written."""

    CONSOLE = "console"
    JSON = "json"


class InfraStatus(StrEnum):
    """The only status for which Neon's driver reads ``code`` from the body."""

    BAD_REQUEST = "400"


def default_data_dir() -> Path:
    """Where the embedded PostgreSQL lives unless told otherwise."""
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "poolkeeper"


def serve(
    *,
    host: Annotated[
        str,
        typer.Option(
            metavar="HOST",
            envvar="POOLKEEPER_HOST",
            help="Address or name to listen on.",
            rich_help_panel=_LISTENING,
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            metavar="PORT",
            envvar="POOLKEEPER_PORT",
            min=0,
            max=65535,
            help="0 takes any free port.",
            rich_help_panel=_LISTENING,
        ),
    ] = DEFAULT_PORT,
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="POOLKEEPER_TLS_CERT",
            help="Certificate chain in PEM form: HTTPS instead of HTTP. Read again at SIGHUP.",
            show_default=False,
            rich_help_panel=_LISTENING,
        ),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="POOLKEEPER_TLS_KEY",
            help="Its private key, unless that is in the same file.",
            show_default=False,
            rich_help_panel=_LISTENING,
        ),
    ] = None,
    processes: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            max=64,
            help="Server processes behind the port. Each has a pool of its own.",
            rich_help_panel=_LISTENING,
        ),
    ] = 1,
    reuse_port: Annotated[
        bool,
        typer.Option(
            "--reuse-port",
            help="Share the port with other processes that do; the kernel spreads connections.",
            rich_help_panel=_LISTENING,
        ),
    ] = False,
    database_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="postgresql://user@host:5432/database. Also read from DATABASE_URL, the place for "
            "one with a password. Without one, the embedded PostgreSQL is started.",
            show_default=False,
            rich_help_panel=_DATABASE,
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIRECTORY",
            envvar="POOLKEEPER_DATA_DIR",
            help="Data directory of the embedded PostgreSQL.",
            show_default="~/.local/share/poolkeeper",
            rich_help_panel=_DATABASE,
        ),
    ] = None,
    max_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Most connections to the database. Also POOL_MAX_SIZE.",
            min=1,
            rich_help_panel=_DATABASE,
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="SECRET",
            envvar="POOLKEEPER_TOKEN",
            help="Clients must send it as Authorization: Bearer …; better given as a variable.",
            show_default=False,
            rich_help_panel=_ACCESS,
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="POOLKEEPER_TOKEN_FILE",
            help="TOML file of tokens with rights and limits. Read again at SIGHUP.",
            show_default=False,
            rich_help_panel=_ACCESS,
        ),
    ] = None,
    insecure_no_auth: Annotated[
        bool,
        typer.Option(
            "--insecure-no-auth",
            help="Let everybody in who can reach the address.",
            rich_help_panel=_ACCESS,
        ),
    ] = False,
    read_only: Annotated[
        bool,
        typer.Option(
            "--read-only",
            help="Run every statement in a read-only transaction.",
            rich_help_panel=_ACCESS,
        ),
    ] = False,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help="Web page that may use the server, as https://example.com; * for any. May be "
            "given several times.",
            show_default=False,
            rich_help_panel=_ACCESS,
        ),
    ] = None,
    statement_timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0,
            help="Seconds one statement may run; 0 leaves it to PostgreSQL.",
            rich_help_panel=_LIMITS,
        ),
    ] = 5.0,
    request_timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0.1,
            help="Seconds a request may take in all.",
            rich_help_panel=_LIMITS,
        ),
    ] = 30.0,
    max_request_bytes: Annotated[
        int,
        typer.Option(
            metavar="BYTES",
            min=1,
            help="Longest request body.",
            show_default="10 MiB",
            rich_help_panel=_LIMITS,
        ),
    ] = 10 * MEBIBYTE,
    max_response_bytes: Annotated[
        int,
        typer.Option(
            metavar="BYTES",
            min=1,
            help="Longest result that is not streamed.",
            show_default="10 MiB",
            rich_help_panel=_LIMITS,
        ),
    ] = 10 * MEBIBYTE,
    max_connections: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Most connections of clients at once.", rich_help_panel=_LIMITS
        ),
    ] = 2000,
    drain_delay: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0,
            help="Seconds to go on serving, not ready, after the first signal.",
            rich_help_panel=_OPERATION,
        ),
    ] = 0.0,
    drain_timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0,
            help="Seconds running statements get to finish after that.",
            rich_help_panel=_OPERATION,
        ),
    ] = 10.0,
    ready_when_db_down: Annotated[
        bool,
        typer.Option(
            "--ready-when-db-down",
            help="Keep /readyz at 200 in an outage, so that clients get the answers of this "
            "server instead of a load balancer's.",
            rich_help_panel=_OPERATION,
        ),
    ] = False,
    neon_infra_status: Annotated[
        InfraStatus | None,
        typer.Option(
            metavar="400",
            help="Status on /sql in place of 502 and 503: with 400, clients of Neon's driver see "
            "code.",
            show_default=False,
            rich_help_panel=_OPERATION,
        ),
    ] = None,
    operations: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            max=64,
            help="How many operations (/v1/operations) to carry out at a time, those that another "
            "server has left included; 0: none. Without it one, once somebody creates or resumes "
            "one here.",
            show_default="1, lazily",
            rich_help_panel=_OPERATION,
        ),
    ] = None,
    operations_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIRECTORY",
            help="Let operations read and write files, below this directory only. Without it load "
            "and export are refused.",
            show_default=False,
            rich_help_panel=_OPERATION,
        ),
    ] = None,
    log_format: Annotated[
        LogFormat,
        typer.Option(
            metavar="FORMAT",
            envvar="POOLKEEPER_LOG_FORMAT",
            help="console for people, json for programs.",
            rich_help_panel=_WATCHING,
        ),
    ] = LogFormat.CONSOLE,
    no_access_log: Annotated[
        bool,
        typer.Option("--no-access-log", help="Do not log each request.", rich_help_panel=_WATCHING),
    ] = False,
    no_server_timing: Annotated[
        bool,
        typer.Option(
            "--no-server-timing",
            help="Do not send Server-Timing.",
            rich_help_panel=_WATCHING,
        ),
    ] = False,
    slow_query: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0,
            help="Seconds from which on a request is kept for /status and the dashboard.",
            rich_help_panel=_WATCHING,
        ),
    ] = 1.0,
) -> None:
    """Run the server; the help of the command is `HELP_TEXT`."""
    settings = ServerSettings(
        tokens=(Token("default", token, admin=True),) if token else (),
        hosts=(host,),
        read_only=read_only,
        cors_origins=tuple(cors_origin or ()),
        request_timeout=request_timeout,
        max_request_bytes=max_request_bytes,
        max_response_bytes=max_response_bytes,
        max_connections=max_connections,
        neon_infra_status=int(neon_infra_status) if neon_infra_status else None,
        ready_when_database_down=ready_when_db_down,
        server_timing=not no_server_timing,
        access_log=not no_access_log,
        slow_query_seconds=slow_query,
        drain_delay=drain_delay,
        drain_timeout=drain_timeout,
        operations=operations,
        operations_dir=operations_dir,
    )
    # The server's packages take half a second to import; other commands need not wait for them.
    from poolkeeper.cli.serving import Plan, run  # noqa: PLC0415

    run(
        Plan(
            host=host,
            port=port,
            tls_cert=tls_cert,
            tls_key=tls_key,
            processes=processes,
            reuse_port=reuse_port,
            database_url=database_url,
            data_dir=data_dir or default_data_dir(),
            data_dir_given=data_dir is not None,
            max_size=max_size,
            settings=settings,
            token_file=token_file,
            statement_timeout=statement_timeout,
            insecure_no_auth=insecure_no_auth,
            as_json=log_format is LogFormat.JSON,
        )
    )
