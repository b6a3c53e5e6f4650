"""Rows of several ranges that come at the same time, on their way to one thread."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
import pytest_asyncio

from poolkeeper.operations.export import rows as module
from poolkeeper.operations.export.rows import RangeRows, RowStream

pytestmark = pytest.mark.asyncio


@pytest.fixture
def thread():
    with ThreadPoolExecutor(1) as executor:
        yield executor


class File:
    """What has been written; it fails where it is told to."""

    def __init__(self, fails_at=None):
        self.content = b""
        self.fails_at = fails_at

    def write(self, buffers):
        data = b"".join(buffers)
        if self.fails_at is not None and self.fails_at in data:
            raise OSError(f"no space for {self.fails_at!r}")
        self.content += data


@pytest_asyncio.fixture
async def turn():
    return asyncio.get_running_loop().create_future()


@pytest_asyncio.fixture
async def stopped():
    return asyncio.get_running_loop().create_future()


@pytest_asyncio.fixture
async def first_turn():
    first = asyncio.get_running_loop().create_future()
    first.set_result(None)
    return first


async def test_a_range_that_comes_first_is_written_when_it_is_its_turn(
    thread, first_turn, turn, stopped
):
    file = File()
    stream = RowStream(thread, file.write)
    first, second = RangeRows(stream, first_turn, stopped), RangeRows(stream, turn, stopped)
    await second.feed(b"3")
    ending = asyncio.ensure_future(second.end())
    await first.feed(b"1")
    await first.feed(b"2")
    await first.end()
    assert await stream.call(lambda: file.content) == b"12"
    assert not ending.done()
    turn.set_result(None)
    await ending
    assert await stream.call(lambda: file.content) == b"123"


async def test_a_range_that_must_wait_is_not_held_without_bound(
    thread, first_turn, turn, stopped, monkeypatch
):
    """Its COPY stands still; the server waits with it."""
    monkeypatch.setattr(module, "HELD_BYTES", 10)
    file = File()
    stream = RowStream(thread, file.write)
    second = RangeRows(stream, turn, stopped)
    await second.feed(b"12345")
    feeding = asyncio.ensure_future(second.feed(b"67890"))
    first = RangeRows(stream, first_turn, stopped)
    for _ in range(100):
        await first.feed(b"-")
    assert not feeding.done()
    turn.set_result(None)
    await feeding
    await second.feed(b"!")
    await second.end()
    assert await stream.call(lambda: file.content) == b"-" * 100 + b"1234567890!"


async def test_nothing_is_written_behind_what_could_not_be(
    thread, first_turn, stopped, monkeypatch
):
    """There may be space again by then, and what is missing would not be noticed."""
    monkeypatch.setattr(module, "BATCH_BYTES", 1)
    file = File(fails_at=b"2")
    stream = RowStream(thread, file.write)
    rows = RangeRows(stream, first_turn, stopped)
    for row in (b"1", b"2", b"3"):
        await rows.feed(row)
    await rows.end()
    with pytest.raises(OSError, match="no space for b'2'"):
        await stream.call(lambda: None)
    later = RangeRows(stream, first_turn, stopped)
    await later.feed(b"4")
    with pytest.raises(OSError, match="no space for b'2'"):
        await stream.call(lambda: None)
    assert file.content == b"1"


async def test_a_slow_disk_lets_the_server_wait(thread, first_turn, stopped, monkeypatch):
    """No more batches are on their way to the thread than are allowed."""
    monkeypatch.setattr(module, "BATCH_BYTES", 1)
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()
    file = File()

    def write(buffers):
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result()
        file.write(buffers)

    stream = RowStream(thread, write)
    rows = RangeRows(stream, first_turn, stopped)
    for _ in range(module.BATCHES):
        await rows.feed(b"-")
    one_more = asyncio.ensure_future(rows.feed(b"-"))
    await asyncio.wait({one_more}, timeout=0.05)
    assert not one_more.done()
    gate.set()
    await one_more
    await rows.end()
    assert await stream.call(lambda: file.content) == b"-" * (module.BATCHES + 1)


async def test_who_waits_for_its_turn_is_told_when_it_will_not_come(
    thread, turn, stopped, monkeypatch
):
    monkeypatch.setattr(module, "HELD_BYTES", 1)
    waiting = RangeRows(RowStream(thread, File().write), turn, stopped)
    feeding = asyncio.ensure_future(waiting.feed(b"1"))
    ending = asyncio.ensure_future(waiting.end())
    await asyncio.sleep(0)
    stopped.set_result(None)
    for task in (feeding, ending):
        with pytest.raises(ConnectionAbortedError):
            await task
