"""Write the list of harmless functions of session_reset from a running PostgreSQL's catalog.

    python scripts/generate_harmless_functions.py postgresql://postgres@127.0.0.1/postgres

A name is harmless when every overload of it in pg_catalog that a statement can call leaves no
trace in the session. The rule, in order:

1. functions, aggregates and window functions only; overloads with internal or cstring arguments
   or a trigger result cannot be called from SQL and are not looked at;
2. immutable and stable functions are harmless, except those in RUNS_QUERIES;
3. volatile functions are harmful, except those in HARMLESS_VOLATILE;
4. functions that only implement operators, indexes, input and output are left out: nobody calls
   them by name, and a shorter list is the safer one.
"""

from __future__ import annotations

import asyncio
import sys
import textwrap
from pathlib import Path

import asyncpg

TARGET = (
    Path(__file__).parent.parent / "src" / "poolkeeper" / "session_reset" / "harmless_functions.py"
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Declared stable, but they run queries over whatever relations they are pointed at.
RUNS_QUERIES = frozenset(
    f"{what}_to_xml{form}"
    for what in ("database", "schema", "table", "query", "cursor")
    for form in ("", "schema", "_and_xmlschema")
)

# Volatile because their results change or because they act on something outside the session.
# nextval() and setval() do feed currval() and lastval(); so does every INSERT into a serial
# column, which no text shows, so a pool cannot promise those two functions to anybody.
HARMLESS_VOLATILE = _words(
    """
    array_sample array_shuffle clock_timestamp currval gen_random_uuid lastval nextval random
    random_normal setval timeofday uuidv4 uuidv7
    pg_advisory_xact_lock pg_advisory_xact_lock_shared
    pg_try_advisory_xact_lock pg_try_advisory_xact_lock_shared
    pg_blocking_pids pg_cancel_backend pg_current_wal_flush_lsn pg_current_wal_insert_lsn
    pg_current_wal_lsn pg_database_size pg_indexes_size pg_is_in_recovery
    pg_last_wal_receive_lsn pg_last_wal_replay_lsn pg_last_xact_replay_timestamp pg_lock_status
    pg_notify pg_partition_ancestors pg_partition_tree pg_relation_size pg_sleep pg_sleep_for
    pg_sleep_until pg_table_size pg_tablespace_size pg_terminate_backend pg_total_relation_size
    pg_xact_status txid_status
    """
)

# Described as the inside of an operator or an index, yet commonly called by name.
CALLED_BY_NAME = _words(
    """
    array_cat hashtext hashtextextended jsonb_exists jsonb_exists_all jsonb_exists_any starts_with
    """
)

CALLABLE_FUNCTIONS = """
    SELECT p.proname AS name,
           bool_or(p.provolatile = 'v') AS volatile,
           bool_and(coalesce(d.description, 'I/O') ~ $1) AS plumbing
      FROM pg_catalog.pg_proc AS p
      LEFT JOIN pg_catalog.pg_description AS d
        ON d.objoid = p.oid AND d.classoid = 'pg_catalog.pg_proc'::regclass AND d.objsubid = 0
     WHERE p.pronamespace = 'pg_catalog'::regnamespace
       AND p.prokind IN ('f', 'a', 'w')
       AND NOT p.proargtypes::oid[] && ARRAY['internal'::regtype, 'cstring'::regtype]::oid[]
       AND p.prorettype NOT IN ('internal'::regtype, 'cstring'::regtype,
                                'trigger'::regtype, 'event_trigger'::regtype)
     GROUP BY p.proname
"""

PLUMBING = (
    r"^(implementation of |I/O|hash|less-equal-greater|larger of two|smaller of two|\(internal\)"
    r"|aggregate (transition|final|combine|serial|deserial)|for use by pg_upgrade"
    r"|statistics: (?!current backend PID))| support( function)?$"
)

HEADER = '''"""Functions of pg_catalog that leave nothing in the session, and PostgreSQL's keywords.

Generated from PostgreSQL {version} by scripts/generate_harmless_functions.py, where the rule is
written down; do not edit by hand.
"""

from __future__ import annotations
'''


async def harmless_functions(connection: asyncpg.Connection) -> frozenset[str]:
    """The names the rule above lets through on the server behind ``connection``."""
    rows = await connection.fetch(CALLABLE_FUNCTIONS, PLUMBING)
    return frozenset(
        row["name"]
        for row in rows
        if row["name"] not in RUNS_QUERIES
        and (not row["plumbing"] or row["name"] in CALLED_BY_NAME)
        and (not row["volatile"] or row["name"] in HARMLESS_VOLATILE)
    )


async def volatile_functions(connection: asyncpg.Connection) -> frozenset[str]:
    """Every name with at least one volatile overload that a statement can call."""
    rows = await connection.fetch(CALLABLE_FUNCTIONS, PLUMBING)
    return frozenset(row["name"] for row in rows if row["volatile"])


async def keywords(connection: asyncpg.Connection) -> frozenset[str]:
    """Every keyword of the server's grammar, reserved or not."""
    return frozenset(
        row["word"]
        for row in await connection.fetch("SELECT word FROM pg_catalog.pg_get_keywords()")
    )


def _block(name: str, words: frozenset[str]) -> str:
    lines = textwrap.wrap(
        " ".join(sorted(words)), width=96, break_long_words=False, break_on_hyphens=False
    )
    body = "\n".join(f"    {line}" for line in lines)
    return f'\n{name} = frozenset(\n    """\n{body}\n    """.split()  # noqa: SIM905\n)\n'


async def main(url: str) -> None:
    """Write the module from the server behind ``url``."""
    connection = await asyncpg.connect(url)
    try:
        version = str(await connection.fetchval("SHOW server_version")).split(".")[0]
        text = HEADER.format(version=version)
        text += _block("HARMLESS_FUNCTIONS", await harmless_functions(connection))
        text += _block("KEYWORDS", await keywords(connection))
    finally:
        await connection.close()
    TARGET.write_text(text)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
