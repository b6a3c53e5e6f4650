"""Bounding calls that may ignore their own timeout and their cancellation."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

T = TypeVar("T")

STALL_TURNS = 5
"""Turns of the event loop to wait after a deadline. When the loop itself was blocked, the answer
may have arrived long ago and only needs to be read: a stalled loop is not a silent peer."""

request_time_left: ContextVar[Callable[[], float | None] | None] = ContextVar(
    "poolkeeper_request_time_left", default=None
)
"""Tells how many seconds the request that is being served may wait for a connection."""

_abandoned: set[asyncio.Task[Any]] = set()
"""Keeps given-up tasks from being collected before they notice their cancellation."""


async def bounded(
    work: Coroutine[Any, Any, T],
    seconds: float,
    *,
    give_up: Callable[[], None] | None = None,
    too_late: Callable[[T], None] | None = None,
) -> T:
    """Run ``work`` in a task of its own and return by ``seconds``, whatever it does.

    A driver's coroutine may swallow its cancellation or wait for a silent peer while it cleans
    up. So it is cancelled but not waited for: ``give_up`` drops its transport first, and a result
    that still arrives goes to ``too_late``. Cancelling ``bounded`` gives up in the same way.

    Raises:
        TimeoutError: ``work`` was not done in time.
    """
    task = asyncio.get_running_loop().create_task(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
        for _ in range(STALL_TURNS):
            if task.done():
                break
            await asyncio.sleep(0)
    except asyncio.CancelledError as cancelled:
        _abandon(task, give_up, too_late)
        # Errors are kept, as the reason of later ones or by their tasks. A traceback must not keep
        # with it what the abandoned task has open, such as the socket of an unfinished login.
        del task, work
        raise cancelled.with_traceback(None)  # noqa: B904 - it is the same one
    if not task.done():
        _abandon(task, give_up, too_late)
        del task, work
        msg = f"no answer within {seconds:.3g} s"
        raise TimeoutError(msg)
    if task.cancelled():
        msg = "the operation was cancelled by the driver"
        raise ConnectionAbortedError(msg)
    return task.result()


def _abandon(
    task: asyncio.Task[T],
    give_up: Callable[[], None] | None,
    too_late: Callable[[T], None] | None,
) -> None:
    def done(task: asyncio.Task[T]) -> None:
        _abandoned.discard(task)
        # Reading the exception marks it as seen; nobody is left to tell.
        if not task.cancelled() and task.exception() is None and too_late is not None:
            too_late(task.result())

    if give_up is not None:
        give_up()
    _abandoned.add(task)
    task.add_done_callback(done)
    task.cancel()
