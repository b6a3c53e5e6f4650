"""What kind of server this is, what the role may do there, and how much room is left."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg.rows import class_row

from poolkeeper.cli.check.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from poolkeeper.cli.check.login import Connection

_OLDEST_TESTED = 140000
# The size a pool has unless told otherwise; less room than that is worth a warning.
_USUAL_POOL = 10
_ROUND_TRIPS = 20


@dataclass(frozen=True, slots=True)
class _Server:
    version: str
    version_number: int
    in_recovery: bool
    read_only: bool
    superuser: bool
    role_limit: int
    role_used: int
    password_expires: str | None
    may_create: bool
    max_connections: int
    reserved: int
    used: int


# numbackends counts every session and is visible to everybody, unlike pg_stat_activity's details.
_QUERY = """
select current_setting('server_version') as version,
       current_setting('server_version_num')::int as version_number,
       pg_is_in_recovery() as in_recovery,
       current_setting('transaction_read_only')::bool as read_only,
       rolsuper as superuser,
       rolconnlimit as role_limit,
       (select count(*)::int from pg_stat_activity where usename = rolname) as role_used,
       case when rolvaliduntil < now() + interval '30 days' then rolvaliduntil::text end
           as password_expires,
       has_database_privilege(current_database(), 'create') as may_create,
       current_setting('max_connections')::int as max_connections,
       current_setting('superuser_reserved_connections')::int
           + coalesce(current_setting('reserved_connections', true)::int, 0) as reserved,
       (select coalesce(sum(numbackends), 0)::int from pg_stat_database) as used
  from pg_roles where rolname = current_user
"""


def examine(conn: Connection) -> Iterator[Finding]:
    """Look at everything a session can tell about its server."""
    try:
        with conn.cursor(row_factory=class_row(_Server)) as cursor:
            server = cursor.execute(_QUERY).fetchone()
    except psycopg.Error as error:
        yield Finding(
            "server",
            "warning",
            f"cannot be examined: {' '.join(str(error).split())}",
            "The server may not be PostgreSQL itself; queries may work all the same.",
        )
        return
    if server is None:  # pragma: no cover - the role exists, it has just logged in
        return
    yield _version(server)
    yield _mode(server)
    yield _role(server)
    yield _room(server)


def measure_latency(conn: Connection) -> Finding:
    """Time the smallest query."""
    samples = []
    for _ in range(_ROUND_TRIPS):
        started = time.perf_counter()
        conn.execute("select 1")
        samples.append((time.perf_counter() - started) * 1000)
    median, worst = statistics.median(samples), max(samples)
    facts = {"median_ms": round(median, 2), "max_ms": round(worst, 2), "samples": _ROUND_TRIPS}
    summary = f"median {median:.2f} ms, worst {worst:.2f} ms of {_ROUND_TRIPS}"
    if median > 20:
        advice = "Run the application nearer to its database: every statement pays this."
        return Finding("round trip", "warning", summary, advice, facts)
    return Finding("round trip", "ok", summary, facts=facts)


def _version(server: _Server) -> Finding:
    facts = {"version": server.version, "version_number": server.version_number}
    summary = f"PostgreSQL {server.version}"
    if server.version_number < _OLDEST_TESTED:
        advice = "Upgrade: its maintenance has ended, and it is not tested with this pool."
        return Finding("version", "warning", summary, advice, facts)
    return Finding("version", "ok", summary, facts=facts)


def _mode(server: _Server) -> Finding:
    facts = {"in_recovery": server.in_recovery, "read_only": server.read_only}
    if server.in_recovery:
        advice = (
            "Writes fail here (25006). Name the primary as well, and add "
            "target_session_attrs=read-write to the URL."
        )
        return Finding("mode", "warning", "standby in recovery, reads only", advice, facts)
    if server.read_only:
        advice = "Writes fail (25006): look for default_transaction_read_only on role or database."
        return Finding("mode", "warning", "primary, but sessions start read-only", advice, facts)
    return Finding("mode", "ok", "primary, reads and writes", facts=facts)


def _role(server: _Server) -> Finding:
    facts = {
        "superuser": server.superuser,
        "may_create_schemas": server.may_create,
        "connection_limit": None if server.role_limit < 0 else server.role_limit,
        "password_expires": server.password_expires,
    }
    creates = "may create schemas" if server.may_create else "may not create schemas"
    summary = f"{'superuser' if server.superuser else 'no superuser'}, {creates}"
    if server.password_expires:
        advice = "Set a new date: ALTER ROLE … VALID UNTIL '…'."
        expires = f"{summary}, password valid until {server.password_expires}"
        return Finding("role", "warning", expires, advice, facts)
    if server.superuser:
        advice = "Give applications a role of their own: they also lose the reserved connections."
        return Finding("role", "warning", summary, advice, facts)
    return Finding("role", "ok", summary, facts=facts)


def _room(server: _Server) -> Finding:
    reserved = 0 if server.superuser else server.reserved
    left = max(0, server.max_connections - reserved - server.used)
    limits = [f"max_connections {server.max_connections}", f"{server.used} in use"]
    if reserved:
        limits.append(f"{reserved} reserved")
    if server.role_limit >= 0:
        left = min(left, max(0, server.role_limit - server.role_used))
        limits.append(f"role limit {server.role_limit}")
    summary = f"room for {left} more ({', '.join(limits)})"
    facts = {
        "max_connections": server.max_connections,
        "in_use": server.used,
        "reserved": reserved,
        "left": left,
    }
    if left < _USUAL_POOL:
        advice = "Keep POOL_MAX_SIZE below that, for all processes together, or raise the limit."
        return Finding("connections", "warning", summary, advice, facts)
    return Finding("connections", "ok", summary, facts=facts)
