"""Starts the embedded PostgreSQL again when it has ended without being asked to."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from poolkeeper.embedded import EmbeddedPostgresError

if TYPE_CHECKING:
    from poolkeeper.embedded import EmbeddedPostgres

_log = logging.getLogger("poolkeeper.server")

_POLL_SECONDS = 0.3
_SHORTEST_PAUSE = 0.5
_LONGEST_PAUSE = 10.0
# Who ends sooner than this after a start is not working: the pauses go on growing.
_STABLE_SECONDS = 60.0


async def keep_running(postgres: EmbeddedPostgres) -> None:
    """Watch ``postgres`` until cancelled; start it again on its port and data directory.

    Before each attempt there is a pause of 0.5 s, doubling up to 10 s. A start that is under way
    when this is cancelled goes on in its thread, which the event loop waits for when it closes.
    """
    pause = _SHORTEST_PAUSE
    while True:
        started = time.monotonic()
        while postgres.is_running:  # noqa: ASYNC110 - nobody tells when a process has ended
            await asyncio.sleep(_POLL_SECONDS)
        if time.monotonic() - started >= _STABLE_SECONDS:
            pause = _SHORTEST_PAUSE
        facts = {"data_dir": str(postgres.data_dir), "log_path": str(postgres.log_path)}
        _log.error("embedded_postgres_exited", extra={**facts, "next_attempt_seconds": pause})
        while not postgres.is_running:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            try:
                await asyncio.to_thread(postgres.start)
            except EmbeddedPostgresError as error:
                reason = {"error": str(error), "next_attempt_seconds": pause}
                _log.error("embedded_postgres_start_failed", extra={**facts, **reason})
            else:
                _log.info("embedded_postgres_restarted", extra=facts)
