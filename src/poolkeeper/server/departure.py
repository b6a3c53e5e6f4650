"""Notices that a client has closed its connection while its request is worked on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from starlette.types import Receive

    from poolkeeper.server.timers import Timers

# Most answers are there before anybody has to look whether they are still wanted.
_LOOK_AFTER = 0.1


class ClientGoneError(Exception):
    """The client closed its connection while its request was being worked on."""


class Departure:
    """Watches one client, from the end of its request's body on.

    Attributes:
        future: Done when the client is gone.
    """

    __slots__ = ("_receive", "_timer", "_watch", "future")

    def __init__(self, receive: Receive, timers: Timers) -> None:
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._receive = receive
        self._watch: asyncio.Task[None] | None = None
        self._timer = timers.call_later(_LOOK_AFTER, self._look)

    def _look(self) -> None:
        self._watch = asyncio.get_running_loop().create_task(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self.future.done():
            self.future.set_result(None)

    def end(self) -> None:
        """Look no more."""
        self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()


class WhileWanted:
    """Cancels the waiting inside its block when the client leaves.

    Raises:
        ClientGoneError: In place of that cancellation.
    """

    __slots__ = ("_held", "_leaving", "_over", "_task")

    def __init__(self, leaving: asyncio.Future[None]) -> None:
        self._leaving = leaving
        self._over = False
        self._held = False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._leaving.add_done_callback(self._give_up)
        return self

    def _give_up(self, _leaving: object) -> None:
        if not (self._over or self._held):
            self._task.cancel()

    def hold(self) -> None:
        """From here on others see to it that the work ends."""
        self._held = True

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._over = True
        self._leaving.remove_done_callback(self._give_up)
        if (
            isinstance(error, asyncio.CancelledError)
            and self._leaving.done()
            and self._task.uncancel() == 0
        ):
            raise ClientGoneError from error
