"""Logging in, and what each refusal means."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, TypeAlias

import psycopg
from psycopg.conninfo import make_conninfo

from poolkeeper.cli.check.findings import Finding, StepFailedError, fail
from poolkeeper.sqlstate import sqlstate_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from poolkeeper.cli.check.target import Host, Target

Connection: TypeAlias = "psycopg.Connection[tuple[Any, ...]]"

_ADVICE: Mapping[str, str] = {
    "28P01": "Check user and password in the URL; characters such as @ : / ? # % must be "
    "percent-encoded. To set a new one: ALTER ROLE {user} PASSWORD '…'.",
    "28000": "Check that role {user} exists and may log in (CREATE ROLE {user} LOGIN), and that "
    "pg_hba.conf on the server has a line for this role, database, address and TLS.",
    "3D000": "Create it (createdb {database}), or put the right name at the end of the URL.",
    "42501": "Let the role in: GRANT CONNECT ON DATABASE {database} TO {user}.",
    "53300": "Close connections that are not needed, put a pooler in between, or raise "
    "max_connections (for this role or database: CONNECTION LIMIT).",
    "57P03": "Wait: the server is starting, stopping or recovering. Its log shows how far it is.",
    "57P01": "The server is shutting down: start it again.",
    "08P01": "The answer came from a pooler in between: check its configuration and log.",
}
_NONE_GIVEN = (
    "Put the password into the URL (postgresql://user:password@…), the variable PGPASSWORD, or "
    "~/.pgpass."
)
_CERTIFICATE = (
    "Name the authority that signed the server's certificate with sslrootcert=…, or use "
    "sslmode=require to encrypt without checking it."
)
_SILENT = (
    "The server hangs or is overloaded, or something accepts connections in its place: look at its "
    "load and its log."
)
_UNKNOWN = "Look into the server's log: it has the reason of every refused login."


def log_in(target: Target, host: Host, timeout: float) -> tuple[Connection, Finding]:
    """Open a session.

    Raises:
        StepFailedError: The server refuses, with its reason.
    """
    step = f"login {host}"
    started = time.monotonic()
    try:
        conn = connect(target, host, timeout)
    except psycopg.errors.ConnectionTimeout as error:
        raise fail(step, f"no answer within {timeout:g} s", _SILENT) from error
    except psycopg.OperationalError as error:
        raise _refused(step, target, error) from error
    milliseconds = round((time.monotonic() - started) * 1000, 1)
    encrypted = conn.pgconn.ssl_in_use
    return conn, Finding(
        step,
        "ok",
        f"as {conn.info.user} into {conn.info.dbname} in {milliseconds} ms, "
        + ("encrypted" if encrypted else "not encrypted"),
        facts={
            "user": conn.info.user,
            "database": conn.info.dbname,
            "encrypted": encrypted,
            "milliseconds": milliseconds,
        },
    )


def connect(target: Target, host: Host, timeout: float) -> Connection:
    """Open one session on one host."""
    options = target.options_for(host)
    options.pop("target_session_attrs", None)
    options.update(
        connect_timeout=str(max(2, math.ceil(timeout))),
        application_name="poolkeeper check",
    )
    # A pooler may serve every statement by another backend: nothing may stay prepared in one.
    return psycopg.connect(make_conninfo(**options), autocommit=True, prepare_threshold=None)


@contextlib.contextmanager
def bounded(conn: Connection, timeout: float) -> Iterator[None]:
    """Cut the connection when the block takes longer: the session then fails instead of hanging.

    Not statement_timeout: behind a pooler the setting would stay in a backend of somebody else.
    """
    with socket.socket(fileno=os.dup(conn.fileno())) as handle:
        watchdog = threading.Timer(timeout, handle.shutdown, args=[socket.SHUT_RDWR])
        watchdog.daemon = True
        watchdog.start()
        try:
            yield
        finally:
            watchdog.cancel()
            watchdog.join()


def _refused(step: str, target: Target, error: psycopg.OperationalError) -> StepFailedError:
    reason = " ".join(str(error).split())
    for prefix in ("FATAL: ", "failed: "):
        reason = reason.rpartition(prefix)[2].strip()
    if error.pgconn is not None and error.pgconn.needs_password:
        return fail(step, "the server asks for a password and there is none", _NONE_GIVEN)
    if "certificate" in reason:
        return fail(step, reason, _CERTIFICATE)
    sqlstate = sqlstate_of(error)
    advice = _ADVICE.get(sqlstate or "", _UNKNOWN).format(
        user=target.user or "of your system user", database=target.database or "named by the user"
    )
    code = f" ({sqlstate})" if sqlstate else ""
    return fail(step, f"{reason}{code}", advice, sqlstate=sqlstate)
