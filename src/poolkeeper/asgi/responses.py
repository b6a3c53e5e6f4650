"""Failures as problem documents (RFC 9457) and as log records."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.types import Scope

    from poolkeeper.asgi.failures import Failure

_log = logging.getLogger("poolkeeper.asgi")


def problem_response(
    failure: Failure, scope: Scope, error: BaseException | None = None
) -> Response:
    """A failure as a response."""
    body: dict[str, object] = {
        "type": f"urn:poolkeeper:problem:{failure.kind}",
        "title": HTTPStatus(failure.status).phrase,
        "status": failure.status,
        "detail": failure.detail,
        "outcome": failure.outcome,
        **failure.facts,
    }
    headers = {}
    if failure.retry_after is not None:
        body["retry_after"] = failure.retry_after
        headers["Retry-After"] = str(failure.retry_after)
    if failure.kind == "draining":
        headers["Connection"] = "close"
    application = scope.get("app")
    if error is not None and getattr(application, "debug", False):
        body["error"] = f"{type(error).__name__}: {error}"
    return Response(
        json.dumps(body, ensure_ascii=False),
        failure.status,
        headers,
        media_type="application/problem+json",
    )


def report(failure: Failure, scope: Scope, error: BaseException | None = None) -> None:
    """Log what the client is not told."""
    reason = None if error is None else " ".join(f"{type(error).__name__}: {error}".split())
    _log.warning(
        # With the facts: handlers that know nothing of ours print the message alone.
        "request_failed: %s %s, %d %s, %s: %s",
        scope["method"],
        # Decoded from what a stranger sent: it must not begin a line of its own.
        scope["path"].encode("unicode_escape").decode("ascii"),
        failure.status,
        failure.kind,
        failure.outcome,
        reason or failure.detail,
        extra={
            "kind": failure.kind,
            "status": failure.status,
            "outcome": failure.outcome,
            "method": scope["method"],
            "path": scope["path"],
            "error": reason,
        },
    )
