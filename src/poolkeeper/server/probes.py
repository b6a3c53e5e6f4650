"""Health and probes: cached evidence only, never a connection, never a wait."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from starlette.responses import PlainTextResponse, Response

from poolkeeper.server.status import UnauthorizedError

if TYPE_CHECKING:
    from starlette.requests import Request

    from poolkeeper.manager import ConnectionPoolManager
    from poolkeeper.observability.health import HealthReport
    from poolkeeper.server.access import Access
    from poolkeeper.server.lifecycle import Lifecycle
    from poolkeeper.server.limits import Limits
    from poolkeeper.server.settings import ServerSettings

_FRESH = {"Cache-Control": "no-store"}
# A report is made at most this often: orchestrators and dashboards may ask as much as they like.
_REPORT_SECONDS = 0.1
# An event loop that did not turn for so long does not serve anybody.
_LONGEST_STANDSTILL = 10.0

_Check = tuple[str, str | None]


class Probes:
    """The answers an orchestrator or a person asks for."""

    def __init__(
        self,
        pool: ConnectionPoolManager,
        lifecycle: Lifecycle,
        settings: ServerSettings,
        *,
        access: Access,
        limits: Limits,
    ) -> None:
        self._pool = pool
        self._lifecycle = lifecycle
        self._settings = settings
        self._access = access
        self._limits = limits
        self._report: HealthReport | None = None
        self._body = b""
        self._body_for_strangers = b""
        self._made_at = 0.0

    async def health(self, request: Request) -> Response:
        """Everything that is known, for people and monitoring; how it is, for strangers."""
        report = await self._fresh_report()
        return Response(
            self._body_for_strangers if self._is_stranger(request) else self._body,
            status_code=report.http_status,
            media_type="application/json",
            headers=_FRESH,
        )

    async def live(self, request: Request) -> Response:
        """Whether the process should be left running; the database does not matter."""
        return _answer("livez", [self._event_loop()], request)

    async def ready(self, request: Request) -> Response:
        """Whether new requests should come here.

        A full pool is busy, not broken; so is one that an operator has paused.
        """
        return _answer("readyz", [self._life(), await self._database()], request)

    async def started(self, request: Request) -> Response:
        """Whether the first start is over; an outage later does not undo it."""
        reason = None if self._lifecycle.started else "starting"
        return _answer("startupz", [("startup", reason)], request)

    def _is_stranger(self, request: Request) -> bool:
        if not self._access.asks_for_token:
            return False
        try:
            self._access.check(request.headers)
        except UnauthorizedError:
            return True
        return False

    def _event_loop(self) -> _Check:
        age = self._lifecycle.heartbeat.age()
        reason = f"no heartbeat for {age:.1f} s" if age > _LONGEST_STANDSTILL else None
        return "event-loop", reason

    def _life(self) -> _Check:
        state = self._lifecycle.state
        return "server", state if state in {"starting", "draining"} else None

    async def _database(self) -> _Check:
        report = await self._fresh_report()
        tolerated = self._settings.ready_when_database_down or self._lifecycle.paused
        if report.status != "unhealthy" or tolerated:
            return "database", None
        return "database", f"database {report.database.status}"

    async def _fresh_report(self) -> HealthReport:
        now = time.monotonic()
        report = self._report
        if report is None or now - self._made_at >= _REPORT_SECONDS:
            report = self._report = await self._pool.health_check()
            self._body = _json(with_waiting(report, self._limits.waiting))
            # What went wrong names hosts and roles.
            database = replace(report.database, last_error=None)
            bare = replace(report, database=database, reasons=())
            self._body_for_strangers = _json(with_waiting(bare, self._limits.waiting))
            self._made_at = now
        return report


def with_waiting(report: HealthReport, more: int) -> dict[str, Any]:
    """The report as it is sent; those who wait for the turn of their token wait as well."""
    document = report.to_dict()
    document["database"]["pool"]["waiting"] += more
    return document


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode()


def _answer(probe: str, checks: list[_Check], request: Request) -> Response:
    """200 if no check has a reason against it; ``?verbose`` lists them as Kubernetes does."""
    reasons = [reason for _name, reason in checks if reason is not None]
    status = 503 if reasons else 200
    if "verbose" in request.query_params:
        lines = [
            f"[+]{name} ok" if reason is None else f"[-]{name} failed: {reason}"
            for name, reason in checks
        ]
        lines.append(f"{probe} check {'failed' if reasons else 'passed'}")
    else:
        lines = reasons[:1] or ["ok"]
    return PlainTextResponse("\n".join(lines) + "\n", status, _FRESH)
