"""Lets web pages of other origins use the server, where its operator asked for that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

if TYPE_CHECKING:
    from collections.abc import Sequence

_METHODS = ("DELETE", "GET", "HEAD", "POST")
_HEADERS = (
    "Accept",
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "Last-Event-ID",
    "Neon-Array-Mode",
    "Neon-Batch-Deferrable",
    "Neon-Batch-Isolation-Level",
    "Neon-Batch-Read-Only",
    "Neon-Connection-String",
    "Neon-Pool-Opt-In",
    "Neon-Raw-Text-Output",
    "Traceparent",
    "X-Request-Id",
    "X-Timeout-Ms",
)
_EXPOSED = (
    "Idempotent-Replayed",
    "Location",
    "Neon-Request-Id",
    "Retry-After",
    "Server-Timing",
    "X-Request-Id",
)
_A_DAY = 86400


def cors(origins: Sequence[str]) -> list[Middleware]:
    """What answers preflights and marks responses for these origins; nothing without any."""
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=[origin.rstrip("/") for origin in origins],
            allow_methods=_METHODS,
            allow_headers=_HEADERS,
            expose_headers=_EXPOSED,
            max_age=_A_DAY,
        )
    ]
