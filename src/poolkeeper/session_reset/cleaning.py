"""The SQL that empties a session and keeps the driver's prepared statements.

``DISCARD ALL`` without ``DEALLOCATE ALL`` and ``DISCARD PLANS``. It runs as one simple-query
message on a session with no transaction open, on a primary and on a hot standby alike.

Not undone, because PostgreSQL offers no way short of a new session: the seed of ``random()``
after ``setseed()``, libraries brought in by ``LOAD``, a replication origin set up for the session,
and the names (not the values) of settings somebody invented, which read ``''`` afterwards.
"""

from __future__ import annotations

# Cursors first: closing one can run user code, which must not act on a session already cleaned.
# RESET ALL touches neither role nor session_authorization. SET SESSION AUTHORIZATION DEFAULT
# brings the role back too, but how these two act on each other was reworked in November 2024
# (CVE-2024-10978), so the role is named.
CLEANING_SQL = (
    "CLOSE ALL; "
    "SET SESSION AUTHORIZATION DEFAULT; "
    "RESET ROLE; "
    "RESET ALL; "
    "UNLISTEN *; "
    "SELECT pg_catalog.pg_advisory_unlock_all(); "
    "DISCARD TEMP; "
    "DISCARD SEQUENCES"
)

# There is no DEALLOCATE for SQL-level statements only; the driver's must stay.
DEALLOCATE_SQL = (
    "DO LANGUAGE plpgsql $poolkeeper$"
    "DECLARE statement text; "
    "BEGIN "
    "FOR statement IN SELECT name FROM pg_catalog.pg_prepared_statements WHERE from_sql "
    "LOOP EXECUTE pg_catalog.format('DEALLOCATE %I', statement); END LOOP; "
    "END"
    "$poolkeeper$"
)


def cleaning_sql(*, may_prepare: bool) -> str:
    """Return the message to send before the session goes to its next borrower.

    With ``may_prepare``, statements made by SQL-level ``PREPARE`` are deallocated too; that part
    needs PL/pgSQL and costs about a third more time. A session on which the message fails is not
    clean: close it.
    """
    return f"{CLEANING_SQL}; {DEALLOCATE_SQL}" if may_prepare else CLEANING_SQL
