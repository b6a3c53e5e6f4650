"""What can go wrong with an embedded PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poolkeeper.exceptions import ConnectionPoolError

if TYPE_CHECKING:
    from pathlib import Path


class EmbeddedPostgresError(ConnectionPoolError):
    """The embedded PostgreSQL cannot be used; nothing that this call started is left running.

    Attributes:
        data_dir: The data directory concerned.
        port: The TCP port concerned, if one is to blame.
        pid: The process in the way (holder of the data directory or the port), if known.
        log_tail: Last lines PostgreSQL wrote during the failed attempt.
    """

    def __init__(
        self,
        message: str,
        *,
        data_dir: Path | None = None,
        port: int | None = None,
        pid: int | None = None,
        log_tail: str = "",
    ) -> None:
        super().__init__(message)
        self.data_dir = data_dir
        self.port = port
        self.pid = pid
        self.log_tail = log_tail
