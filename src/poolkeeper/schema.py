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
    """
    create table poolkeeper.operations (
        id uuid primary key,
        name text not null,
        kind text not null,
        spec jsonb not null,
        fingerprint jsonb,
        state text not null default 'pending' check
            (state in ('pending', 'running', 'paused', 'done', 'failed', 'cancelled')),
        epoch bigint not null default 0,
        seq bigint not null default 0,
        cursor jsonb not null,
        rows_done bigint not null default 0,
        rows_rejected bigint not null default 0,
        rows_total bigint,
        bytes_done bigint not null default 0,
        bytes_total bigint,
        owner text,
        owner_place text,
        owner_direct boolean not null default false,
        lease_until timestamptz,
        fruitless int not null default 0,
        outages int not null default 0,
        error text,
        created_at timestamptz not null default clock_timestamp(),
        started_at timestamptz,
        updated_at timestamptz not null default clock_timestamp(),
        finished_at timestamptz
    ) with (fillfactor = 50);
    comment on table poolkeeper.operations is
        'Long pieces of work that resume; (epoch, seq) lets each chunk be committed once.';
    comment on column poolkeeper.operations.epoch is
        'Fencing token: whoever claims the operation adds one, and chunks of older epochs fail.';
    comment on column poolkeeper.operations.lease_until is
        'When another worker may take over; says nothing about what the owner may still commit.';
    comment on column poolkeeper.operations.fruitless is
        'Claims since the last committed chunk.';
    create unique index operations_name on poolkeeper.operations (name)
        where state not in ('done', 'cancelled');
    create index operations_created on poolkeeper.operations (created_at);
    create table poolkeeper.chunks (
        operation uuid not null references poolkeeper.operations on delete cascade,
        seq bigint not null,
        epoch bigint not null,
        owner text,
        cursor_from jsonb not null,
        cursor_to jsonb not null,
        rows bigint not null,
        rejected bigint not null default 0,
        checksum bigint,
        at timestamptz not null default clock_timestamp(),
        primary key (operation, seq)
    );
    comment on table poolkeeper.chunks is 'What each committed chunk of an operation covered.';
    create table poolkeeper.rejects (
        operation uuid not null references poolkeeper.operations on delete cascade,
        seq bigint not null,
        number int not null,
        line bigint,
        raw bytea not null,
        sqlstate text,
        message text not null,
        primary key (operation, seq, number)
    );
    comment on table poolkeeper.rejects is 'Rows that an operation could not take, and why.';
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

LEDGER: Final = ("ledger", 1)
OPERATIONS: Final = ("operations", 2)
"""A table, and the migration that makes it: an older schema will do for what it has."""


def is_there(table: tuple[str, int]) -> str:
    """SQL that answers ``SELECT 0`` if a table is missing; it fails if there is no schema."""
    name, version = table
    return (
        f"select from poolkeeper.migrations where version = {version}"
        f" and to_regclass('poolkeeper.{name}') is not null"
    )


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
    """SQL that lets ``role`` (an identifier, already quoted) use the tables."""
    return (
        f"grant usage on schema poolkeeper to {role};"
        f"grant select on poolkeeper.migrations to {role};"
        f"grant select, insert, update, delete on poolkeeper.ledger, poolkeeper.operations,"
        f" poolkeeper.chunks, poolkeeper.rejects to {role}"
    )
