"""Cancel a coroutine at each of its suspension points, in both ways that can happen."""

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

ON_WAITING = "while waiting"
"""The cancellation comes while the awaited thing is pending."""

ON_WAKING = "when it is done"
"""The awaited thing is done, but the task has not run yet: a grant that meets a cancellation."""


@dataclass
class Cancelled:
    """How one run of a scenario ended."""

    suspensions: int
    result: str


@types.coroutine
def _watched(work: Coroutine[Any, Any, Any], on_suspension: Callable[[Any], None]):
    """Await ``work`` and call ``on_suspension`` with each future it suspends on."""
    reply, error = None, None
    while True:
        try:
            waited_for = work.send(reply) if error is None else work.throw(error)
        except StopIteration as end:
            return end.value
        reply, error = None, None
        on_suspension(waited_for)
        try:
            reply = yield waited_for
        except BaseException as raised:
            error = raised


async def run_cancelled_at(
    scenario: Callable[[], Coroutine[Any, Any, Any]], nth: int | None, when: str = ON_WAITING
) -> Cancelled:
    """Run ``scenario`` in a task, cancelled at its ``nth`` suspension (from 1); None: never."""
    loop = asyncio.get_running_loop()
    seen = 0
    task: asyncio.Task[Any]

    def on_suspension(waited_for: Any) -> None:
        nonlocal seen
        seen += 1
        if seen != nth:
            return
        if when == ON_WAITING:
            task.cancel()
        elif waited_for is None:
            loop.call_soon(task.cancel)
        else:
            # Registered before the task registers its own wake-up, so it runs first.
            waited_for.add_done_callback(lambda _: task.cancel())

    async def body() -> Any:
        return await _watched(scenario(), on_suspension)

    task = loop.create_task(body(), name=f"cancelled at {nth} {when}")
    async with asyncio.timeout(30):
        await asyncio.wait({task})
    if task.cancelled():
        return Cancelled(seen, "cancelled")
    if task.exception() is not None:
        return Cancelled(seen, type(task.exception()).__name__)
    return Cancelled(seen, "finished")


async def sweep(run: Callable[[int | None, str], Awaitable[Cancelled]]) -> int:
    """Call ``run`` without a cancellation, then with one at each suspension; their number."""
    whole = await run(None, ON_WAITING)
    assert whole.result == "finished", whole
    for when in (ON_WAITING, ON_WAKING):
        for nth in range(1, whole.suspensions + 1):
            await run(nth, when)
    return whole.suspensions
