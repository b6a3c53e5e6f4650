"""The tables of poolkeeper's own, as numbered migrations."""

from __future__ import annotations

from typing import Final

MIGRATIONS: Final[tuple[str, ...]] = (
    """
    -- An enum: a check on a text is compiled anew for every insert and costs a third of it.
    create type poolkeeper.outcome as enum ('committed', 'aborted');
    create table poolkeeper.ledger (
        id uuid primary key,
        outcome poolkeeper.outcome not null default 'committed',
        at timestamptz not null default clock_timestamp()
    );
    comment on table poolkeeper.ledger is
        'One row per transaction of run_transaction, written by the transaction itself; '
        'aborted: a tombstone, put there so that it can never commit.';
    create index ledger_at on poolkeeper.ledger using brin (at)
        with (pages_per_range = 32, autosummarize = on);
    """,
)
"""Each is applied once, in order; those published never change."""

VERSION: Final = len(MIGRATIONS)
"""What this release of poolkeeper needs."""

_LOCK: Final = 0x706F6F6C01
"""Key of the advisory lock that lets one process at a time change the schema."""

DURABLY: Final = (
    "select set_config('synchronous_commit', 'on', true)"
    " where current_setting('synchronous_commit') in ('off', 'local');"
)
"""What the ledger says, and that there is one, must not be lost where transactions may be."""

IS_CURRENT: Final = (
    f"select from poolkeeper.migrations where version >= {VERSION}"
    " and to_regclass('poolkeeper.ledger') is not null"
)
"""Answers ``SELECT 0`` if the tables are older; fails if there are none."""


def install_script() -> str:
    """SQL that brings the tables up to date, whatever is there; one message, one transaction."""
    return "\n".join(
        [
            "begin isolation level read committed read write;",
            DURABLY,
            f"select pg_advisory_xact_lock({_LOCK});",
            "create schema if not exists poolkeeper;",
            "create table if not exists poolkeeper.migrations (version int primary key,",
            "    applied_at timestamptz not null default clock_timestamp());",
            *(
                f"do $migration$ begin if not exists "
                f"(select from poolkeeper.migrations where version = {version}) then {sql} "
                f"insert into poolkeeper.migrations (version) values ({version}); "
                "end if; end $migration$;"
                for version, sql in enumerate(MIGRATIONS, start=1)
            ),
            "commit",
        ]
    )


def grant_script(role: str) -> str:
    """SQL that lets ``role`` (an identifier, already quoted) run transactions and purge."""
    return (
        f"grant usage on schema poolkeeper to {role};"
        f"grant select on poolkeeper.migrations to {role};"
        f"grant select, insert, update, delete on poolkeeper.ledger to {role}"
    )
