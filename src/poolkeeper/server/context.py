"""What is known of one request, from its first byte to its line in the access log."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Scope

    from poolkeeper.server.settings import Token


@dataclass(slots=True)
class RequestContext:
    """Made by the frame around all endpoints; each part fills in what it learns.

    Attributes:
        request_id: The client's ``X-Request-Id`` if it is acceptable, else a new one.
        started: When the request arrived, on the clock of ``time.perf_counter``.
        trace_id: 32 hex digits of W3C Trace Context, the client's or new.
        parent_id: The client's span, where it sent one.
        token: The token it showed, if tokens are asked for.
        statement: Text of its (first) statement, for people.
        timing: Seconds by phase, for ``Server-Timing``: queue, connect, db, serialize.
        kind: Name of the failure it was answered with, from the table in `status`.
        outcome: What became of its statement, where that is not plain success.
        error: Why the infrastructure failed it, in one line without secrets.
    """

    request_id: str
    started: float
    trace_id: str = ""
    parent_id: str | None = None
    token: Token | None = None
    statement: str | None = None
    timing: dict[str, float] = field(default_factory=dict)
    kind: str | None = None
    outcome: str | None = None
    error: str | None = None


def context_of(scope: Scope) -> RequestContext:
    """The context the frame put into an ASGI scope."""
    context: RequestContext = scope["state"]["context"]
    return context
