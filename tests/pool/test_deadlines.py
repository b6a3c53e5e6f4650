"""A deadline bounds the peer, not the event loop."""

import asyncio
import socket
import time

import pytest

from poolkeeper.deadlines import bounded

pytestmark = pytest.mark.asyncio


async def test_an_answer_that_came_while_the_loop_was_blocked_counts():
    """The deadline passes before the loop gets to read what has long arrived."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)

        async def ask():
            loop = asyncio.get_running_loop()
            # The block begins once the answer is waited for.
            loop.call_soon(block)
            # As in a driver, it takes a few turns of the loop until who asked has the answer.
            answer = await loop.sock_recv(ours, 10)
            for _ in range(3):
                await asyncio.sleep(0)
            return answer

        def block():
            theirs.send(b"answer")
            time.sleep(0.1)

        assert await bounded(ask(), 0.05) == b"answer"


async def test_no_answer_ends_with_the_deadline():
    """Also where nothing was ever sent."""
    gone = []
    with pytest.raises(TimeoutError, match=r"no answer within 0\.01 s"):
        await bounded(asyncio.Event().wait(), 0.01, give_up=lambda: gone.append(True))
    assert gone
