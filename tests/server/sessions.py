"""Sessions on a real server, and what tests do to them."""

import psycopg

from poolkeeper.server.execute import run_statement

PLENTY = 1 << 20


async def connect(url, **options):
    return await psycopg.AsyncConnection.connect(url, autocommit=True, **options)


async def run(conn, sql, *params, max_bytes=PLENTY):
    return await run_statement(conn, sql.encode(), params, max_bytes=max_bytes)


async def terminate(conn, url):
    """End a connection's backend and wait until it is gone."""
    async with await connect(url) as other:
        pid = conn.info.backend_pid
        await other.execute("select pg_terminate_backend(%s, 10000)", [pid])


async def wait_until_running(url, text):
    """Return when a statement with this text is active in the server."""
    query = "select 1 from pg_stat_activity where state = 'active' and query = %s"
    async with await connect(url) as other:
        while await (await other.execute(query, [text])).fetchone() is None:
            pass
