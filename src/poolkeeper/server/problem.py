"""Failures as HTTP responses."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Receive, Scope, Send

_JSON = "application/problem+json"
# Where it is known what became of the request whoever refuses it.
_OUTCOMES = {
    401: "not_executed",
    403: "not_executed",
    404: "not_executed",
    405: "not_executed",
    500: "unknown",
    501: "not_executed",
}


def problem(
    status: int, kind: str, detail: str, headers: Mapping[str, str] | None = None
) -> Response:
    """A failure of any other endpoint, as RFC 9457 has it; with the id of its request."""
    body = {
        "type": f"urn:poolkeeper:problem:{kind}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if status in _OUTCOMES:
        body["outcome"] = _OUTCOMES[status]
    return _Problem(body, status, headers)


class _Problem(Response):
    """Learns the id of its request when it is sent."""

    def __init__(
        self, members: dict[str, object], status: int, headers: Mapping[str, str] | None
    ) -> None:
        self._members = members
        self._extra = headers
        super().__init__(_encode(members), status, headers, _JSON)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        context = scope.get("state", {}).get("context")
        response = self
        if context is not None:
            named = {
                "instance": f"urn:poolkeeper:request:{context.request_id}",
                "request_id": context.request_id,
            }
            response = _Problem({**self._members, **named}, self.status_code, self._extra)
        await Response.__call__(response, scope, receive, send)


def _encode(members: Mapping[str, object]) -> str:
    return f"{json.dumps(members, ensure_ascii=False)}\n"
