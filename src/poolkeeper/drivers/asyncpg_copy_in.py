"""COPY from the client through asyncpg, without waiting for ever on a connection that is lost.

asyncpg (0.32) waits for its transport to take more, and is not told when there is no transport any
more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from poolkeeper.drivers.asyncpg_cached import closed_midway

if TYPE_CHECKING:
    from collections.abc import Awaitable


async def copy_in(con: Any, copy: Awaitable[Any]) -> Any:
    """Await ``copy``, a COPY of ``con`` from the client.

    Raises:
        ConnectionDoesNotExistError: The connection was closed meanwhile.
        Exception: What ``copy`` raises.
    """
    protocol = con._protocol

    def go_on(_con: Any) -> None:
        protocol.resume_writing()

    con.add_termination_listener(go_on)
    try:
        status = await copy
    except RuntimeError as error:
        # What uvloop raises when something is written to a closed transport.
        if con.is_closed():
            raise closed_midway() from error
        raise
    finally:
        con.remove_termination_listener(go_on)
    if status is None and con.is_closed():
        # What asyncpg gives to whoever waits when it is closed from this side.
        raise closed_midway()
    return status
