"""One thread at a time reads a source, whatever is cancelled."""

import asyncio
import threading

import pytest

from poolkeeper.operations.load.piece import Piece
from poolkeeper.operations.load.prefetch import Prefetcher

pytestmark = pytest.mark.asyncio


class GatedReader:
    """Pieces of one record; a read takes as long as its gate is closed."""

    bytes_total = 10

    def __init__(self):
        self.offset = 0
        self.gate = threading.Event()
        self.gate.set()
        self.reading = threading.Event()
        self.abandoned = threading.Event()
        self.opening = threading.Event()
        self.calls = []

    def open(self, cursor):
        assert not self.reading.is_set()
        assert not self.opening.is_set()
        self.opening.set()
        assert self.gate.wait(60)
        self.calls.append(f"open {cursor['offset']}")
        self.offset = cursor["offset"]
        self.opening.clear()

    def read(self, size):
        assert not self.reading.is_set()
        assert not self.opening.is_set()
        self.reading.set()
        assert self.gate.wait(60)
        start, self.offset = self.offset, self.offset + 1
        self.calls.append(f"read {start}")
        self.reading.clear()
        cursors = {"start": {"offset": start}, "end": {"offset": start + 1}}
        return Piece(
            data=b"x",
            records=1,
            first_line=1,
            checksum=0,
            bytes_done=0,
            size=size,
            last=start == 9,
            **cursors,
        )

    def check(self):
        pass

    def close(self):
        assert not self.reading.is_set()
        assert not self.opening.is_set()
        self.calls.append("close")


async def test_next_piece_is_read_while_the_present_one_is_used():
    """Not before it is said to be, and none beyond it."""
    reader = GatedReader()
    pieces = Prefetcher(reader)
    await pieces.go_to({"offset": 3})
    assert (await pieces.next(5)).start == {"offset": 3}
    assert pieces._ahead is None
    pieces.read_ahead()
    pieces.read_ahead()
    await pieces._ahead
    pieces.read_ahead()
    assert reader.calls == ["open 3", "read 3", "read 4"]
    await pieces.close()
    assert reader.calls[-1] == "close"


async def test_cancelled_wait_leaves_the_reader_to_its_thread():
    """Going elsewhere or closing waits for it."""
    reader = GatedReader()
    pieces = Prefetcher(reader)
    reader.gate.clear()
    waiting = asyncio.ensure_future(pieces.next(5))
    await asyncio.to_thread(reader.reading.wait)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert not pieces._ahead.done()
    going = asyncio.ensure_future(pieces.go_to({"offset": 7}))
    closing = threading.Timer(0, reader.gate.set)
    closing.start()
    await going
    assert reader.calls == ["read 0", "open 7"]
    assert (await pieces.next(5)).start == {"offset": 7}
    await pieces.close()


async def test_going_where_it_is_costs_nothing():
    """A chunk that is done again, and one after a commit, need no seek."""
    reader = GatedReader()
    pieces = Prefetcher(reader)
    first = await pieces.next(5)
    await pieces.go_to(first.start)
    assert await pieces.next(5) is first
    await pieces.go_to(first.end)
    assert (await pieces.next(5)).start == {"offset": 1}
    await pieces.close()
    assert not any(call.startswith("open") for call in reader.calls)


async def test_piece_the_database_could_not_digest_is_read_smaller():
    """It is read again when much less is asked for."""
    reader = GatedReader()
    pieces = Prefetcher(reader)
    first = await pieces.next(100)
    await pieces.go_to(first.start)
    again = await pieces.next(25)
    assert (again.start, again.size) == (first.start, 25)
    await pieces.close()


async def cancel(task):
    task.cancel()
    await asyncio.wait({task})


@pytest.mark.parametrize("then", ["elsewhere", "close"])
async def test_cancelled_seek_leaves_the_reader_to_its_thread(then):
    """It is told to give up, and waited for."""
    reader = GatedReader()
    pieces = Prefetcher(reader)
    reader.gate.clear()
    going = asyncio.ensure_future(pieces.go_to({"offset": 3}))
    await asyncio.to_thread(reader.opening.wait)
    await cancel(going)
    going = asyncio.ensure_future(
        pieces.go_to({"offset": 7}) if then == "elsewhere" else pieces.close()
    )
    assert await asyncio.to_thread(reader.abandoned.wait, 60)
    # also when that is cancelled and asked for once more
    await cancel(going)
    going = asyncio.ensure_future(
        pieces.go_to({"offset": 7}) if then == "elsewhere" else pieces.close()
    )
    await asyncio.sleep(0)
    assert reader.calls == []
    reader.gate.set()
    await going
    assert reader.calls == ["open 3", "open 7" if then == "elsewhere" else "close"]
    assert not reader.abandoned.is_set()
    await pieces.close()


async def test_cancelled_seek_to_a_smaller_piece_is_done_again():
    """No row comes twice because the reader had gone back."""
    reader = GatedReader()
    pieces = Prefetcher(reader)
    first = await pieces.next(100)
    pieces.read_ahead()
    await pieces._ahead
    await pieces.go_to(first.start)
    reader.gate.clear()
    reading = asyncio.ensure_future(pieces.next(25))
    await asyncio.to_thread(reader.opening.wait)
    await cancel(reading)
    reader.gate.set()
    await pieces.go_to(first.end)
    assert (await pieces.next(25)).start == first.end
    await pieces.close()
