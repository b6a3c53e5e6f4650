"""Waiting for a file while a session, perhaps in a transaction, has nothing to do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable

T = TypeVar("T")

SIGN_OF_LIFE_SECONDS: Final = 5.0
"""Far below the bound of the runner's transactions on idleness."""


async def alive(connection: Any, work: Awaitable[T]) -> T:
    """Wait for work, and give the server a sign of life now and then: it ends idle transactions.

    Args:
        connection: A connection of asyncpg, which the work must not use.
        work: What to wait for. It is cancelled when this is, or when the connection is lost.

    Raises:
        Exception: What the work raises, or what the driver says of a lost connection.
    """
    waiting = asyncio.ensure_future(work)
    try:
        while not waiting.done():
            await asyncio.wait({waiting}, timeout=SIGN_OF_LIFE_SECONDS)
            if not waiting.done():
                await connection.execute("select")
        return waiting.result()
    finally:
        waiting.cancel()
        await asyncio.wait({waiting})
        if not waiting.cancelled():
            # an error that came first is the one to be told of
            waiting.exception()
