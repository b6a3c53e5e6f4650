"""Whether a pooler such as PgBouncer stands between, and in which mode."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import psycopg

from poolkeeper.cli.check.findings import Finding
from poolkeeper.cli.check.login import connect

if TYPE_CHECKING:
    from poolkeeper.cli.check.login import Connection
    from poolkeeper.cli.check.target import Host, Target

_STEP = "pooler"


def look_for_pooler(conn: Connection, target: Target, host: Host, timeout: float) -> Finding:
    """Compare the process named at login with the one that answers queries.

    A pooler makes up the first. Whether one client keeps its backend is then seen with a second
    client: in transaction mode, a transaction of the second takes the backend the first had.
    """
    announced = conn.info.backend_pid
    serving = _backend_pid(conn)
    facts: dict[str, object] = {"announced_pid": announced, "serving_pid": serving}
    if announced == serving:
        return Finding(
            _STEP, "ok", "none, this is the server itself", facts={**facts, "mode": None}
        )
    mode = _mode(conn, target, host, timeout)
    facts["mode"] = mode
    summary = f"a pooler such as PgBouncer answers, in {mode} mode"
    if mode == "session":
        return Finding(_STEP, "ok", summary, facts=facts)
    return Finding(
        _STEP,
        "warning",
        summary,
        "SET, LISTEN, advisory locks and temporary tables do not last from one statement to the "
        "next. With asyncpg set statement_cache_size=0, unless PgBouncer is 1.21 or newer with "
        "max_prepared_statements.",
        facts,
    )


def _mode(conn: Connection, target: Target, host: Host, timeout: float) -> str:
    before = _backend_pid(conn)
    try:
        other = connect(target, host, timeout)
    except psycopg.OperationalError:
        return "an unknown"
    with contextlib.closing(other), other.transaction():
        if _backend_pid(other) == before:
            return "transaction"
        return "session" if _backend_pid(conn) == before else "transaction"


def _backend_pid(conn: Connection) -> int:
    row = conn.execute("select pg_backend_pid()").fetchone()
    return int(row[0]) if row else 0
