"""A COMMIT whose answer is lost in an outage: the client gets 502, and the ledger's word later."""

import asyncio

import pytest

from poolkeeper.schema import install_script
from poolkeeper.testing.proxy import Direction, FaultProxy, Verdict
from poolkeeper.transactions.ledger import commit_script
from tests.server.load.clients import TABLE, TRANSACTION, Clients, rows_in
from tests.server.load.http import Connection
from tests.server.load.judge import Work, judge
from tests.server.processes import ServerProcess, until

KEY = "order-7"
COMMIT = commit_script([])[:40]
"""How the message begins that records a transaction and commits it."""
ENV = {"POOL_TIMEOUT": "1", "POOL_OUTAGE_PATIENCE": "0.5"}


def lose_commit(proxy, *, delivered):
    """A policy: the message that commits, or its answer, is lost, and with it the database."""
    struck = set()

    async def be_gone():
        await proxy.refuse()
        proxy.reset([link for link in proxy.links if link not in struck])

    async def policy(segment):
        answers = segment.direction is Direction.TO_CLIENT
        if answers and segment.link in struck:
            await be_gone()
            return Verdict.LOSE
        if not answers and (segment.text or "").startswith(COMMIT):
            struck.add(segment.link)
            if not delivered:
                await be_gone()
                return Verdict.LOSE
        return Verdict.PASS

    return policy


@pytest.mark.asyncio
@pytest.mark.parametrize("delivered", [True, False], ids=["answer lost", "request lost"])
async def test_a_lost_commit_is_502_until_the_ledger_can_be_asked(postgres, delivered):
    """Then it says committed exactly if the rows are there, and a repetition adds none."""
    postgres.server.psql(TABLE, database=postgres.name)
    postgres.server.psql(install_script(), database=postgres.name)
    async with FaultProxy.to(postgres.url) as proxy:
        with ServerProcess(
            "--port=0", "--request-timeout=4", database_url=proxy.url, env=ENV
        ) as server:
            await asyncio.to_thread(server.start)
            clients = Clients(server.url, 1, [TRANSACTION], patience=20)
            connection = Connection(server.url)
            await clients.send(connection, TRANSACTION, Work(1, "warm-up", 2, "first"))
            proxy.policy = lose_commit(proxy, delivered=delivered)
            work = Work(2, "transaction", 2, KEY)
            told = await clients.send(connection, TRANSACTION, work)
            assert (told.status, told.outcome) == (502, "unknown")
            assert "/v1/transactions/" in told.message
            proxy.policy = None
            await proxy.accept()
            await asyncio.to_thread(until, lambda: server.get("/readyz").status_code == 200)
            await clients.ask_about(connection, work)
            assert work.verdict == ("committed" if delivered else "aborted")
            again = await clients.send(connection, TRANSACTION, Work(2, "again", 2, KEY))
            await connection.close()
    found = await rows_in(postgres.url)
    assert found.pop(1) == {1: 1, 2: 1}
    assert judge([work], found) == []
    # an id the ledger has declared aborted stays so; a committed one is not done twice
    assert again.status == (200 if delivered else 409)
    assert (2 in found) is delivered
