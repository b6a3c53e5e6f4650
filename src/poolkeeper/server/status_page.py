"""What is known of a running server, for ``GET /status`` and the dashboard."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from poolkeeper import __version__
from poolkeeper.observability.logs import Redactor

if TYPE_CHECKING:
    from poolkeeper.observability.statistics import PoolStatistics
    from poolkeeper.server.activity import Running
    from poolkeeper.server.parts import Parts


async def status_document(parts: Parts) -> dict[str, Any]:
    """Everything that is known, ready for JSON and without secrets.

    Asks the database nothing, takes no connection and does not wait.
    """
    statistics = parts.pool.get_statistics()
    report = await parts.pool.health_check()
    activity = parts.activity
    document = {
        "server": _server(parts),
        "pool": _pool(parts, statistics),
        "health": report.to_dict(),
        "statistics": statistics.to_dict(),
        "request_seconds": activity.seconds.snapshot().to_dict(),
        "outages": parts.outages.to_list(),
        "running": [_running(running) for running in _oldest_first(parts)],
        "errors": [asdict(finished) for finished in reversed(activity.errors)],
        "slow": [asdict(finished) for finished in reversed(activity.slow)],
    }
    cleaned: dict[str, Any] = secrets_of(parts).clean(document)
    return cleaned


def secrets_of(parts: Parts) -> Redactor:
    """Removes what nobody may read: the tokens and the password of the database."""
    secrets = [token.secret for token in parts.settings.tokens]
    url = parts.pool.config.database_url
    return Redactor(*secrets, *([str(url)] if url else []))


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
    oldest = statistics.oldest_waiter_seconds
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


def _running(running: Running) -> dict[str, Any]:
    now = time.perf_counter()
    context = running.context
    return {
        "request_id": context.request_id,
        "trace_id": context.trace_id,
        "route": running.route,
        "token": context.token.name if context.token else None,
        "statement": context.statement,
        "state": "waiting" if running.acquired is None else "running",
        "seconds": round(now - running.began, 4),
        "waited_seconds": round((running.acquired or now) - running.began, 4),
        "held_seconds": None if running.acquired is None else round(now - running.acquired, 4),
        "backend_pid": running.backend_pid,
    }
