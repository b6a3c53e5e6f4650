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


class LogFormat(StrEnum):
    """How the log is written."""

    CONSOLE = "console"
    JSON = "json"


def default_data_dir() -> Path:
    """Where the embedded PostgreSQL lives unless told otherwise."""
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "poolkeeper"


def serve(
    *,
    host: Annotated[
        str, typer.Option(envvar="POOLKEEPER_HOST", help="Address or name to listen on.")
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(envvar="POOLKEEPER_PORT", min=0, max=65535, help="0 takes any free port."),
    ] = DEFAULT_PORT,
    database_url: Annotated[
        str | None,
        typer.Option(
            help="postgresql://user@host:5432/database. Also read from DATABASE_URL, the place for "
            "one with a password. Without one, the embedded PostgreSQL is started.",
            show_default=False,
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="POOLKEEPER_DATA_DIR",
            help="Data directory of the embedded PostgreSQL.",
            show_default="~/.local/share/poolkeeper",
        ),
    ] = None,
    max_size: Annotated[
        int | None,
        typer.Option(help="Most connections to the database. Also POOL_MAX_SIZE.", min=1),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="POOLKEEPER_TOKEN",
            help="Clients must send it as Authorization: Bearer …; better given as a variable.",
            show_default=False,
        ),
    ] = None,
    insecure_no_auth: Annotated[
        bool,
        typer.Option("--insecure-no-auth", help="Let everybody in who can reach the address."),
    ] = False,
    statement_timeout: Annotated[
        float,
        typer.Option(min=0, help="Seconds one statement may run; 0 leaves it to the server."),
    ] = 5.0,
    request_timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds a request may take in all.")
    ] = 30.0,
    max_request_bytes: Annotated[int, typer.Option(min=1, help="Longest request body.")] = 10
    * MEBIBYTE,
    max_response_bytes: Annotated[int, typer.Option(min=1, help="Longest result.")] = 10 * MEBIBYTE,
    drain_delay: Annotated[
        float,
        typer.Option(min=0, help="Seconds to go on serving, not ready, after the first signal."),
    ] = 0.0,
    drain_timeout: Annotated[
        float, typer.Option(min=0, help="Seconds running statements get to finish after that.")
    ] = 10.0,
    log_format: Annotated[
        LogFormat, typer.Option(envvar="POOLKEEPER_LOG_FORMAT", help="For people or programs.")
    ] = LogFormat.CONSOLE,
) -> None:
    """Run the server; the help of the command is `HELP_TEXT`."""
    settings = ServerSettings(
        tokens=(Token("default", token, admin=True),) if token else (),
        request_timeout=request_timeout,
        max_request_bytes=max_request_bytes,
        max_response_bytes=max_response_bytes,
        drain_delay=drain_delay,
        drain_timeout=drain_timeout,
    )
    # The server's packages take half a second to import; other commands need not wait for them.
    from poolkeeper.cli.serving import run  # noqa: PLC0415

    run(
        host=host,
        port=port,
        database_url=database_url,
        data_dir=data_dir or default_data_dir(),
        max_size=max_size,
        settings=settings,
        statement_timeout=statement_timeout,
        insecure_no_auth=insecure_no_auth,
        as_json=log_format is LogFormat.JSON,
    )
