"""The options of the server, beside those of its pool."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MEBIBYTE = 1024 * 1024
DEFAULT_BURST = 10


@dataclass(frozen=True, slots=True)
class Token:
    """What a client shows to be let in, and what it may do then.

    Attributes:
        name: Shown in the access log and on the dashboard instead of the secret.
        secret: What the client sends as ``Authorization: Bearer …``.
        secret_sha256: Its SHA-256 in hex, instead of the secret itself.
        admin: Whether ``/admin`` is open to it.
        read_only: Its statements run in read-only transactions.
        max_concurrency: Most requests at once, waiting and running ones; None sets no bound.
        rate: Requests per second on average; None sets no bound.
        burst: Requests that may come at once before ``rate`` bounds them.
    """

    name: str
    secret: str = field(default="", repr=False)
    secret_sha256: str = field(default="", repr=False)
    admin: bool = False
    read_only: bool = False
    max_concurrency: int | None = None
    rate: float | None = None
    burst: int = DEFAULT_BURST

    def digest(self) -> bytes:
        """The SHA-256 of the secret."""
        if self.secret_sha256:
            return bytes.fromhex(self.secret_sha256)
        return hashlib.sha256(self.secret.encode("utf-8", "surrogateescape")).digest()


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What an operator may choose.

    Attributes:
        tokens: Clients must show one of them, except for probes. None at all asks for nothing,
            which is safe on loopback only.
        hosts: Names and addresses it was told to listen on. Without a token it answers only to
            those, to addresses and to localhost.
        read_only: Every statement runs in a read-only transaction.
        cors_origins: Web pages that may use the server, as ``https://example.com``; ``*`` is any.
        request_timeout: Seconds a request may take, reading its body and its wait for a
            connection included.
        max_request_bytes: Longest request body.
        max_response_bytes: Longest result that is not streamed.
        max_connections: Most connections of clients at once.
        neon_infra_status: Status on ``/sql`` for failures that are not the statement's; None
            keeps 502 and 503, which clients of Neon's driver see without ``code``.
        ready_when_database_down: Whether ``/readyz`` stays 200 in an outage, so that clients get
            this server's answers instead of a load balancer's.
        server_timing: Whether responses carry ``Server-Timing``.
        access_log: Whether each request is a log record.
        slow_query_seconds: From this duration on a statement is kept for the dashboard.
        drain_delay: Seconds to go on serving after the first signal, not ready, so that load
            balancers notice before the listener closes.
        drain_timeout: Seconds running statements get to finish after that.
        operations: How many operations to carry out at a time; 0: none; None: one, from the first
            request on that creates or resumes one.
        operations_dir: Where operations may read and write files; None: nowhere.
    """

    tokens: tuple[Token, ...] = ()
    hosts: tuple[str, ...] = ()
    read_only: bool = False
    cors_origins: tuple[str, ...] = ()
    request_timeout: float = 30.0
    max_request_bytes: int = 10 * MEBIBYTE
    max_response_bytes: int = 10 * MEBIBYTE
    max_connections: int = 2000
    neon_infra_status: int | None = None
    ready_when_database_down: bool = False
    server_timing: bool = True
    access_log: bool = True
    slow_query_seconds: float = 1.0
    drain_delay: float = 0.0
    drain_timeout: float = 10.0
    operations: int | None = None
    operations_dir: Path | None = None
