"""``poolkeeper init-db``: make the tables that transactions and operations need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from poolkeeper.cli.errors import USAGE_FAILURE, CommandError
from poolkeeper.exceptions import PoolConfigurationError
from poolkeeper.schema import VERSION, grant_script, install_script
from poolkeeper.urls import mask_url, split_url

if TYPE_CHECKING:
    import psycopg

HELP_TEXT = (
    "Create the tables of poolkeeper in a database, or bring them up to date.\n\n"
    "Only needed where the role of the application may not create a schema: otherwise the pool "
    "does it by itself, when it first runs a transaction or an operation. "
    "Running it again changes nothing.\n\n"
    "[bold]Examples[/bold]\n\n"
    "  DATABASE_URL=postgresql://admin:…@db.example.com/shop poolkeeper init-db --grant-to app"
)


def init_db(
    url: Annotated[
        str | None,
        typer.Argument(
            help="Database URL, postgresql://user@host:5432/database.",
            envvar="DATABASE_URL",
            show_default=False,
            show_envvar=True,
        ),
    ] = None,
    *,
    grant_to: Annotated[
        list[str] | None,
        typer.Option(
            "--grant-to",
            metavar="ROLE",
            help="Let this role run transactions and operations; may be given several times.",
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(min=1.0, help="Seconds to connect.")] = 10.0,
) -> None:
    """Create the tables; the help of the command is `HELP_TEXT`."""
    if not url:
        raise CommandError(
            "No database URL. Suggestion: set DATABASE_URL, or, if it needs no password, "
            "poolkeeper init-db postgresql://user@host/database.",
            exit_code=USAGE_FAILURE,
        )
    # The other commands need not wait for it.
    import psycopg  # noqa: PLC0415
    from psycopg import sql  # noqa: PLC0415

    try:
        _driver, dsn = split_url(url)
    except PoolConfigurationError as error:
        raise CommandError(str(error), exit_code=USAGE_FAILURE) from error
    try:
        opened = psycopg.connect(dsn, autocommit=True, connect_timeout=round(timeout))
    except psycopg.Error as error:
        raise CommandError(
            f"Cannot open a connection to {mask_url(url)}: {_one_line(error)}. Suggestion: check "
            "host, user name and password; `poolkeeper check` tests each step."
        ) from error
    try:
        with opened as connection:
            connection.execute(install_script().encode(), prepare=False)
            for role in grant_to or ():
                grant = grant_script(sql.Identifier(role).as_string(connection))
                connection.execute(grant.encode(), prepare=False)
    except psycopg.Error as error:
        raise CommandError(
            f"The tables cannot be created at {mask_url(url)}: {_one_line(error)}. Suggestion: use "
            "a role that may create schemas in this database (GRANT CREATE ON DATABASE), on its "
            "primary; roles to grant to must exist."
        ) from error
    print(
        f"poolkeeper.ledger and poolkeeper.operations are ready (version {VERSION}) "
        f"at {mask_url(url)}"
    )
    for role in grant_to or ():
        print(f"{role} may run transactions and operations")


def _one_line(error: psycopg.Error) -> str:
    return " ".join((error.diag.message_primary or str(error)).split()).rstrip(".")
