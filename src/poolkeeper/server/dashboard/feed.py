"""What open dashboards are told, as server-sent events: built once per second for all of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from poolkeeper import __version__
from poolkeeper.server.dashboard.sampler import COLUMNS, RECENT_SECONDS, Sampler
from poolkeeper.server.operations.overview import Overview
from poolkeeper.server.probes import with_waiting
from poolkeeper.server.status_page import finished_for, owner_for, secrets_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from poolkeeper.server.activity import Finished, Running
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


@dataclass(slots=True)
class _View:
    """The facts as those may read them who may read the same."""

    built_for: int = -1
    built_from: dict[str, Any] = field(default_factory=dict)
    events: dict[str, bytes] = field(default_factory=dict)


class Feed:
    """The events for all open pages.

    Nothing is kept per page but how far it has got: one that reads slowly gets later what it
    missed, and of the facts that are replaced each second only the latest.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._sampler = Sampler(parts.pool, parts.activity, parts.limits)
        self._operations = Overview(parts.operations)
        self._news = asyncio.Event()
        self._hide_secrets()

    def _hide_secrets(self) -> None:
        """Build nothing on what was cleaned before a secret was known."""
        self._secrets = self._parts.access.secrets
        self._without_secrets = lru_cache(_TEXTS_REMEMBERED)(secrets_of(self._parts).clean)
        self._views: dict[str | None, _View] = {}
        self._common_for = -1
        self._common: dict[str, Any] = {}

    def beat(self) -> None:
        """Take a sample when it is time, and wake the pages that wait for one."""
        if self._sampler.beat():
            self._news.set()
            self._news = asyncio.Event()

    async def follow(self, token: Token | None) -> AsyncIterator[bytes]:
        """Everything there is to tell, then what is new; ends when the pool has been closed."""
        self.beat()
        yield _event("hello", self._hello(token))
        owner = owner_for(token)
        cursor = 0
        sent: dict[str, bytes] = {}
        while True:
            news = self._news
            rows = self._sampler.rows_since(cursor)
            cursor = self._sampler.taken
            changed = {
                name: event
                for name, event in (await self._current(owner)).items()
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
            "writes": not (settings.read_only or (token is not None and token.read_only)),
            "slow_query_seconds": settings.slow_query_seconds,
        }

    async def _current(self, owner: str | None) -> dict[str, bytes]:
        """The facts by event; unchanged ones are the same object as before.

        ``owner`` is the token that reads nobody else's statements, None reads all.
        """
        if self._secrets is not self._parts.access.secrets:
            self._hide_secrets()
        if self._common_for != self._sampler.taken:
            self._common_for = self._sampler.taken
            self._common = await self._now()
        view = self._views.setdefault(owner, _View())
        if view.built_for != self._common_for:
            view.built_for = self._common_for
            activity = self._parts.activity
            running = [_running(one, owner) for one in activity.oldest(_MOST_RUNNING)]
            self._offer(view, "now", {**self._common, "running": running})
            self._offer(view, "operations", self._operations.content())
            self._offer(view, "outages", self._parts.outages.to_list())
            failed = activity.failures.latest(_MOST_FINISHED)
            self._offer_latest(view, "errors", failed, owner)
            self._offer_latest(view, "slow", list(activity.slow)[-_MOST_FINISHED:], owner)
        return view.events

    def _offer_latest(
        self, view: _View, name: str, latest: list[Finished], owner: str | None
    ) -> None:
        """As `_offer`, and without any work while nothing was added."""
        marker = latest[-1] if latest else None
        if name not in view.events or view.built_from.get(name) is not marker:
            view.built_from[name] = marker
            self._offer(view, name, [finished_for(owner, one) for one in reversed(latest)])

    def _offer(self, view: _View, name: str, content: Any) -> None:
        event = _event(name, self._clean(content))
        if view.events.get(name) != event:
            view.events[name] = event

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
        return {
            "pool": statistics.pool,
            "state": lifecycle.state,
            "paused_at": lifecycle.paused_at,
            "started_at": lifecycle.born_at,
            "health": with_waiting(report, parts.limits.waiting),
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
            "running_total": len(parts.activity.running),
        }


def _running(running: Running, owner: str | None) -> dict[str, Any]:
    facts = running.to_dict()
    return facts if owner in {None, facts["token"]} else {**facts, "statement": None}


def _event(name: str, content: Any) -> bytes:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return f"event: {name}\ndata: {text}\n\n".encode("utf-8", "replace")
