"""What is known of a running server, for ``GET /status`` and the dashboard."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from poolkeeper import __version__
from poolkeeper.observability.logs import Redactor
from poolkeeper.server.probes import with_waiting

if TYPE_CHECKING:
    from poolkeeper.observability.statistics import PoolStatistics
    from poolkeeper.server.activity import Finished, Running
    from poolkeeper.server.parts import Parts
    from poolkeeper.server.settings import Token


async def status_document(parts: Parts, owner: str | None = None) -> dict[str, Any]:
    """Everything that is known, ready for JSON and without secrets.

    Asks the database nothing, takes no connection and does not wait.

    Args:
        parts: Of the server.
        owner: The name of the token that looks, which does not read what others asked for; None
            reads everything.
    """
    statistics = parts.pool.get_statistics()
    report = await parts.pool.health_check()
    activity = parts.activity
    document = {
        "server": _server(parts),
        "pool": _pool(parts, statistics),
        "health": with_waiting(report, parts.limits.waiting),
        "statistics": statistics.to_dict(),
        "request_seconds": activity.seconds.snapshot().to_dict(),
        "operations": parts.operations.to_dict(),
        "outages": parts.outages.to_list(),
        "running": [_running(running, owner) for running in _oldest_first(parts)],
        "errors": [finished_for(owner, one) for one in reversed(activity.errors)],
        "slow": [finished_for(owner, one) for one in reversed(activity.slow)],
    }
    cleaned: dict[str, Any] = secrets_of(parts).clean(document)
    return cleaned


def secrets_of(parts: Parts) -> Redactor:
    """Removes what nobody may read: the tokens and the password of the database."""
    url = parts.pool.config.database_url
    return Redactor(*parts.access.secrets, *([str(url)] if url else []))


def owner_for(token: Token | None) -> str | None:
    """Whose statements and messages a client may read: its token's; None for all."""
    return None if token is None or token.admin else token.name


def finished_for(owner: str | None, finished: Finished) -> dict[str, Any]:
    """The facts by name; of others' requests neither statement nor message, which quotes it."""
    if owner is not None and finished.token != owner:
        finished = replace(finished, statement=None, message=None)
    return asdict(finished)


def _server(parts: Parts) -> dict[str, Any]:
    lifecycle = parts.lifecycle
    return {
        "version": __version__,
        "pid": os.getpid(),
        "state": lifecycle.state,
        "started": lifecycle.started,
        "draining": lifecycle.draining,
        "paused": lifecycle.paused,
        "paused_at": lifecycle.paused_at,
        "started_at": lifecycle.born_at,
        "uptime_seconds": round(time.time() - lifecycle.born_at, 3),
        "client_connections": lifecycle.connections(),
        "max_client_connections": parts.settings.max_connections,
    }


def _pool(parts: Parts, statistics: PoolStatistics) -> dict[str, Any]:
    """The row that PgBouncer's ``SHOW POOLS`` would have, under its names."""
    oldest = max(statistics.oldest_waiter_seconds, parts.limits.oldest_wait())
    return {
        "database": statistics.pool,
        "cl_active": statistics.active_connections,
        "cl_waiting": statistics.waiting_requests + parts.limits.waiting,
        "sv_active": statistics.active_connections,
        "sv_idle": statistics.idle_connections,
        "sv_used": statistics.resetting_connections,
        "sv_tested": statistics.validating_connections,
        "sv_login": statistics.connecting_connections,
        "maxwait": int(oldest),
        "maxwait_us": int(oldest % 1 * 1_000_000),
        "pool_mode": "transaction",
        "pool_size": statistics.max_size,
        "paused": int(parts.lifecycle.paused),
    }


def _oldest_first(parts: Parts) -> list[Running]:
    return sorted(parts.activity.running, key=lambda running: running.began)


def _running(running: Running, owner: str | None) -> dict[str, Any]:
    now = time.perf_counter()
    context = running.context
    name = context.token.name if context.token else None
    return {
        "request_id": context.request_id,
        "trace_id": context.trace_id,
        "route": running.route,
        "token": name,
        "statement": context.statement if owner in {None, name} else None,
        "state": "waiting" if running.acquired is None else "running",
        "seconds": round(now - running.began, 4),
        "waited_seconds": round((running.acquired or now) - running.began, 4),
        "held_seconds": None if running.acquired is None else round(now - running.acquired, 4),
        "backend_pid": running.backend_pid,
    }
