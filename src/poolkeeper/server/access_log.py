"""One record per request, on the logger ``poolkeeper.access``."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import Scope

    from poolkeeper.server.context import RequestContext

logger = logging.getLogger("poolkeeper.access")

_LONGEST_PATH = 200
_MILLISECONDS = 1000


class AccessLog:
    """Writes the line of a request. Paths are logged without their query, which may hold secrets.

    Args:
        quiet: Paths that are asked for all day; their successes are logged at level DEBUG.
    """

    def __init__(self, quiet: frozenset[str]) -> None:
        self._quiet = quiet

    def write(
        self, scope: Scope, context: RequestContext, status: int, size: int, seconds: float
    ) -> None:
        """Log a request that was answered with ``status`` and ``size`` bytes of body."""
        path = scope["path"]
        quiet = path in self._quiet or path == "/dashboard" or path.startswith("/dashboard/")
        level = logging.DEBUG if status < 400 and quiet else logging.INFO
        if not logger.isEnabledFor(level):
            return
        client = scope.get("client")
        timing = context.timing
        facts: dict[str, Any] = {
            "method": scope["method"],
            "path": path[:_LONGEST_PATH],
            "status": status,
            "duration_seconds": round(seconds, 6),
            "bytes": size,
            "request_id": context.request_id,
            "trace_id": context.trace_id,
            "client": client[0] if client else None,
        }
        if context.token is not None:
            facts["token"] = context.token.name
        if context.kind is not None:
            facts["kind"] = context.kind
        if context.outcome is not None:
            facts["outcome"] = context.outcome
        if context.error is not None:
            facts["error"] = context.error
        if "queue" in timing:
            facts["queue_seconds"] = round(timing["queue"], 6)
        if "db" in timing:
            facts["db_seconds"] = round(timing["db"], 6)
        # Not logger.info: it would look for the calling line, which is always this one.
        record = logging.LogRecord(logger.name, level, "", 0, "request", None, None)
        record.__dict__.update(facts)
        record.facts = facts
        logger.handle(record)


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "timestamp": _iso(record.created),
            "level": record.levelname.lower(),
            "event": "request",
            "logger": record.name,
            **record.facts,  # type: ignore[attr-defined]
        }
        return _to_json(line)


_to_json = json.JSONEncoder(ensure_ascii=False).encode


class _Console(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        facts = dict(record.facts)  # type: ignore[attr-defined]
        milliseconds = facts["duration_seconds"] * _MILLISECONDS
        words = [
            f"{_iso(record.created)} [{record.levelname.lower():<9}]",
            f"{facts['status']} {facts['method']:<4} {_printable(facts['path'])}",
            f"{milliseconds:.1f} ms",
        ]
        for name, unit in (("queue_seconds", "queue"), ("db_seconds", "db")):
            if name in facts:
                words.append(f"{unit} {facts[name] * _MILLISECONDS:.1f}")
        words += [str(facts[name]) for name in ("token", "kind", "outcome") if name in facts]
        if "error" in facts:
            words.append(_printable(facts["error"]))
        return "  ".join([*words, facts["request_id"]])


def _printable(text: str) -> str:
    """The text without what would move a terminal's cursor."""
    return text if text.isprintable() else repr(text)


def _iso(seconds: float) -> str:
    whole = int(seconds)
    return f"{_iso_second(whole)}.{int((seconds - whole) * 1_000_000):06}Z"


@lru_cache(maxsize=2)
def _iso_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()


def configure_access_log(*, as_json: bool) -> None:
    """Write the records of the access log straight to standard error.

    The way through the process's general logging costs ten times as much, and these records hold
    nothing that it would have to remove.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if as_json else _Console())
    logger.handlers = [handler]
    logger.propagate = False
