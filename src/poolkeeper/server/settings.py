"""The options of the server, beside those of its pool."""

from __future__ import annotations

from dataclasses import dataclass

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What an operator may choose.

    Attributes:
        token: Clients must send ``Authorization: Bearer <token>``, except for probes. None asks
            for nothing, which is safe on loopback only.
        request_timeout: Seconds a request may take, reading its body and its wait for a
            connection included.
        max_request_bytes: Longest request body.
        max_response_bytes: Longest result.
        drain_delay: Seconds to go on serving after the first signal, not ready, so that load
            balancers notice before the listener closes.
        drain_timeout: Seconds running statements get to finish after that.
    """

    token: str | None = None
    request_timeout: float = 30.0
    max_request_bytes: int = 10 * MEBIBYTE
    max_response_bytes: int = 10 * MEBIBYTE
    drain_delay: float = 0.0
    drain_timeout: float = 10.0
