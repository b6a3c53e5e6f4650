"""Failures as HTTP responses."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import Mapping


def problem(
    status: int, kind: str, detail: str, headers: Mapping[str, str] | None = None
) -> Response:
    """A failure of any other endpoint, as RFC 9457 has it."""
    body = {
        "type": f"urn:poolkeeper:problem:{kind}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    return Response(
        json.dumps(body, ensure_ascii=False),
        status_code=status,
        media_type="application/problem+json",
        headers=headers,
    )
