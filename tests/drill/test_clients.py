"""The clients of a drill and the account they give."""

import asyncio
from dataclasses import replace

import asyncpg
import pytest

from poolkeeper.drill.clients import HUNG, WRONG, Clients
from poolkeeper.drill.contender import Fate, fate_by_sqlstate
from poolkeeper.drill.terms import Terms
from tests.drill.scripted import Scripted

FEW = replace(Terms(), clients=4, patience=0.3, pause_after_error=0.001)
WRITERS = 2


async def until(condition):
    """Wait for a fact."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.asyncio
async def test_every_row_is_in_the_account_once():
    """Acknowledged is what was stored, and nobody writes a row of somebody else."""
    contender = Scripted(FEW)
    clients = Clients(contender)
    await clients.start()
    await until(lambda: len(clients.writes.acknowledged) > 20)
    await clients.stop()
    assert clients.writes.acknowledged == set(contender.stored)
    assert len(contender.stored) == len(set(contender.stored))
    assert not clients.writes.denied
    assert not clients.writes.unknown
    assert {call.kind for call in clients.calls} == {"read", "write"}


@pytest.mark.asyncio
async def test_a_call_without_an_end_is_hung_and_its_client_is_replaced():
    """Also where the pool does not let a cancelled call go."""
    contender = Scripted(FEW)
    clients = Clients(contender)
    await clients.start()
    stuck, go = set(), asyncio.Event()
    write = contender.write

    async def never_ending(number, sent):
        if len(stuck) == WRITERS:
            return await write(number, sent)
        stuck.add(number)
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                continue
        return None

    contender.write = never_ending
    try:
        await until(lambda: clients.hung == WRITERS)
        before = len(clients.writes.acknowledged)
        await until(lambda: len(clients.writes.acknowledged) > before + 20)
        await clients.stop()
        assert await clients.leave() == WRITERS
    finally:
        go.set()
    assert await clients.leave() == 0
    assert clients.hung == WRITERS
    assert clients.writes.unknown == stuck
    hung = [call for call in clients.calls if call.error == HUNG]
    assert len(hung) == WRITERS
    assert all(call.ended - call.started >= FEW.patience for call in hung)


@pytest.mark.asyncio
async def test_a_wrong_answer_is_noticed():
    """A pool that mixes up answers is worse than one that fails."""
    contender = Scripted(FEW)
    clients = Clients(contender)
    await clients.start()

    async def wrong(key):
        await asyncio.sleep(0)
        return "thing of somebody else"

    contender.read = wrong
    await until(lambda: any(call.error == WRONG for call in clients.calls))
    await clients.stop()


@pytest.mark.asyncio
async def test_a_cancellation_out_of_the_blue_is_an_error_and_the_client_goes_on():
    """Nobody cancelled the client: the pool let a cancellation of its own escape."""
    contender = Scripted(FEW)
    clients = Clients(contender)
    await clients.start()
    read = contender.read

    async def escaping(key):
        raise asyncio.CancelledError

    contender.read = escaping
    await until(lambda: clients.errors)
    contender.read = read
    seen = len(clients.calls)
    await until(
        lambda: any(call.kind == "read" and not call.error for call in clients.calls[seen:])
    )
    await clients.stop()
    assert "CancelledError" in clients.examples


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "sent", "fate"),
    [
        (ConnectionRefusedError(), False, Fate.NOT_WRITTEN),
        (TimeoutError(), False, Fate.NOT_WRITTEN),
        (TimeoutError(), True, Fate.UNKNOWN),
        (asyncpg.UniqueViolationError("23505"), True, Fate.NOT_WRITTEN),
        (asyncpg.ConnectionDoesNotExistError("08003"), True, Fate.UNKNOWN),
        (asyncpg.AdminShutdownError("57P01"), True, Fate.UNKNOWN),
        (asyncpg.QueryCanceledError("57014"), True, Fate.NOT_WRITTEN),
        (caused(RuntimeError(), asyncpg.UniqueViolationError("23505")), True, Fate.NOT_WRITTEN),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_an_answer_of_the_server_makes_a_failed_write_certain(error, sent, fate):
    """For pools that do not say it themselves."""
    assert fate_by_sqlstate(error, sent=sent) is fate
