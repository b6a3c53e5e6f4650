"""The shipped list of harmless functions is what the rule says on this PostgreSQL."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import asyncpg
import pytest

from poolkeeper.session_reset.harmless_functions import HARMLESS_FUNCTIONS, KEYWORDS

SCRIPT = Path(__file__).parents[2] / "scripts" / "generate_harmless_functions.py"


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("generate_harmless_functions", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.asyncio
async def test_shipped_list_is_what_the_generator_writes(postgres, generator):
    """Nobody edited the list, and the server's catalog has not moved on.

    Names the list has and the server lacks belong to a newer major version; they do no harm.
    """
    connection = await asyncpg.connect(postgres.url)
    try:
        assert await generator.harmless_functions(connection) <= HARMLESS_FUNCTIONS
        assert await generator.keywords(connection) <= KEYWORDS
        if connection.get_server_version().major == 18:
            assert await generator.harmless_functions(connection) == HARMLESS_FUNCTIONS
            assert await generator.keywords(connection) == KEYWORDS
    finally:
        await connection.close()


@pytest.mark.asyncio
async def test_volatile_functions_are_harmless_only_by_name(postgres, generator):
    """A volatile function of a future release is dirty until somebody has read what it does."""
    connection = await asyncpg.connect(postgres.url)
    try:
        volatile = await generator.volatile_functions(connection)
    finally:
        await connection.close()
    assert volatile & HARMLESS_FUNCTIONS <= generator.HARMLESS_VOLATILE
    assert generator.HARMLESS_VOLATILE <= HARMLESS_FUNCTIONS


@pytest.mark.parametrize(
    "name",
    """set_config setseed pg_advisory_lock pg_advisory_lock_shared pg_try_advisory_lock
    pg_try_advisory_lock_shared pg_advisory_unlock pg_advisory_unlock_all query_to_xml
    table_to_xml schema_to_xml database_to_xml cursor_to_xml ts_stat ts_rewrite lo_open lo_creat
    pg_export_snapshot pg_replication_origin_session_setup pg_logical_emit_message dblink
    dblink_exec pg_read_file pg_reload_conf""".split(),  # noqa: SIM905
)
def test_function_that_can_leave_something_is_not_listed(name):
    """Session state, or SQL text run as SQL."""
    assert name not in HARMLESS_FUNCTIONS
