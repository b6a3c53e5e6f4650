"""Loads of small files into a table of the test's own database."""

import pytest


@pytest.fixture
def load(pool, tmp_path):
    """Writes a file and loads it; gives the operation's last status."""

    async def run(data, *, into="t", file="rows.csv", **options):
        path = tmp_path / file
        if data is not None:
            path.write_bytes(data if isinstance(data, bytes) else data.encode())
        operation = await pool.operations.load(path, into=into, **options)
        return await operation.run()

    return run


@pytest.fixture
def rejects(admin):
    """What is in the table of rejects: (line, text, SQLSTATE)."""

    async def read():
        rows = await admin.fetch(
            "SELECT line, raw, sqlstate FROM poolkeeper.rejects ORDER BY seq, number"
        )
        return [(row["line"], row["raw"].decode(errors="replace"), row["sqlstate"]) for row in rows]

    return read
