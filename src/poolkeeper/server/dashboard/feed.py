"""What open dashboards are told, as server-sent events: built once per second for all of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from dataclasses import asdict
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from poolkeeper import __version__
from poolkeeper.server.dashboard.sampler import COLUMNS, RECENT_SECONDS, Sampler
from poolkeeper.server.status_page import secrets_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from poolkeeper.server.activity import Finished
    from poolkeeper.server.parts import Parts
    from poolkeeper.server.settings import Token

_MOST_RUNNING = 50
_MOST_FINISHED = 50
# A page takes the server for hung after five times this without a word.
_LONGEST_SILENCE = 1.0
# The same statements and messages come again and again, and looking through one takes a while.
_TEXTS_REMEMBERED = 512
# The exit waits for open pages this long at most, when the last connection is closed.
_LAST_LOOK = 0.1


class Feed:
    """The events for all open pages.

    Nothing is kept per page but how far it has got: one that reads slowly gets later what it
    missed, and of the facts that are replaced each second only the latest.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._sampler = Sampler(parts.pool, parts.activity)
        self._without_secrets = lru_cache(_TEXTS_REMEMBERED)(secrets_of(parts).clean)
        self._news = asyncio.Event()
        self._built_for = -1
        self._built_from: dict[str, Any] = {}
        self._events: dict[str, bytes] = {}

    def beat(self) -> None:
        """Take a sample when it is time, and wake the pages that wait for one."""
        if self._sampler.beat():
            self._news.set()
            self._news = asyncio.Event()

    async def follow(self, token: Token | None) -> AsyncIterator[bytes]:
        """Everything there is to tell, then what is new; ends when the pool has been closed."""
        self.beat()
        yield _event("hello", self._hello(token))
        cursor = 0
        sent: dict[str, bytes] = {}
        while True:
            news = self._news
            rows = self._sampler.rows_since(cursor)
            cursor = self._sampler.taken
            changed = {
                name: event
                for name, event in (await self._current()).items()
                if sent.get(name) is not event
            }
            sent |= changed
            # the rows come last: with them a page draws everything anew
            yield b"".join([*changed.values(), b"event: rows\ndata: ", rows, b"\n\n"])
            while self._news is news:
                if self._is_over():
                    return
                draining = self._parts.lifecycle.draining
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LAST_LOOK if draining else _LONGEST_SILENCE):
                        await news.wait()
                # as the heart does, if it still beats
                self.beat()

    def _is_over(self) -> bool:
        """Whether there is nothing more to see: all work is done, and its connections closed."""
        pool = self._parts.pool
        return (
            self._parts.lifecycle.draining
            and pool.is_closing()
            and not pool.get_statistics().total_connections
        )

    def _hello(self, token: Token | None) -> dict[str, Any]:
        settings = self._parts.settings
        siblings = self._parts.lifecycle.siblings
        return {
            "columns": COLUMNS,
            "recent_seconds": RECENT_SECONDS,
            "version": __version__,
            "pid": os.getpid(),
            "process": siblings.number if siblings else None,
            "token": token.name if token else None,
            "admin": token.admin if token else True,
            "slow_query_seconds": settings.slow_query_seconds,
        }

    async def _current(self) -> dict[str, bytes]:
        """The facts by event; unchanged ones are the same object as before."""
        if self._built_for != self._sampler.taken:
            self._built_for = self._sampler.taken
            activity = self._parts.activity
            self._offer("now", await self._now())
            self._offer("outages", self._parts.outages.to_list())
            self._offer_latest("errors", activity.errors)
            self._offer_latest("slow", activity.slow)
        return self._events

    def _offer_latest(self, name: str, finished: Iterable[Finished]) -> None:
        """As `_offer`, and without any work while nothing was added."""
        latest = list(finished)[-_MOST_FINISHED:]
        marker = latest[-1] if latest else None
        if name not in self._events or self._built_from.get(name) is not marker:
            self._built_from[name] = marker
            self._offer(name, [asdict(one) for one in reversed(latest)])

    def _offer(self, name: str, content: Any) -> None:
        event = _event(name, self._clean(content))
        if self._events.get(name) != event:
            self._events[name] = event

    def _clean(self, content: Any) -> Any:
        """The same without secrets. Names of facts are ours, and numbers tell none."""
        match content:
            case str():
                return self._without_secrets(content)
            case dict():
                return {name: self._clean(value) for name, value in content.items()}
            case list():
                return [self._clean(value) for value in content]
            case _:
                return content

    async def _now(self) -> dict[str, Any]:
        parts = self._parts
        statistics = parts.pool.get_statistics()
        report = await parts.pool.health_check()
        lifecycle = parts.lifecycle
        running = parts.activity.oldest(_MOST_RUNNING)
        return {
            "pool": statistics.pool,
            "state": lifecycle.state,
            "paused_at": lifecycle.paused_at,
            "started_at": lifecycle.born_at,
            "health": report.to_dict(),
            "outage_patience_seconds": parts.pool.config.outage_patience,
            "acquire_timeout_seconds": parts.pool.config.timeout,
            "min_size": statistics.min_size,
            "totals": {
                "requests": parts.activity.seconds.snapshot().count,
                "outages": statistics.total_outages,
                "outage_seconds": round(statistics.outage_seconds, 3),
                "peak_active": statistics.peak_active_connections,
                "connects": statistics.total_connects,
            },
            "last_minute": self._sampler.quantiles(60),
            "running": [one.to_dict() for one in running],
            "running_total": len(parts.activity.running),
        }


def _event(name: str, content: Any) -> bytes:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return f"event: {name}\ndata: {text}\n\n".encode("utf-8", "replace")
