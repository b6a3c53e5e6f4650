"""Watch all hosts of a URL, and leave one that is the primary no more."""

from __future__ import annotations

import asyncio
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from poolkeeper.deadlines import bounded
from poolkeeper.drivers.hosts import IN_RECOVERY, timeline_of
from poolkeeper.keepers.service import Keeper
from poolkeeper.observability.events import (
    DatabaseConnectionLost,
    DatabaseReconnected,
    FailoverDetected,
    PoolClosed,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from poolkeeper.drivers.hosts import Hosts
    from poolkeeper.endpoints import Host
    from poolkeeper.observability.events import Event
    from poolkeeper.pool import Pool

SEEK_INTERVAL = 0.05
"""How often every host is looked at during an outage."""

LONGEST_PAUSE = 1.0
"""How long a host that lets nobody in is left alone at most; the pause doubles up to this."""

FOLLOW_SECONDS = 60.0
"""How long an address that led to a primary and leads to a standby now is expected to change."""

EVICTION_PAUSE = 1.0
"""How often such an address is dialled anew at most."""


class Sight(NamedTuple):
    """What a host said of itself last; a primary without a timeline is on 0."""

    primary: bool
    timeline: int


class HostsKeeper(Keeper):
    """Ask every host for its role and timeline on a connection of its own, once per ``interval``.

    Only where the URL names several hosts and ``target_session_attrs`` is ``primary`` or
    ``read-write``. A primary that was replaced may go on acknowledging statements that will be
    lost: its failover manager is frozen, or cut off from the others. Nothing on its connections
    tells. So when another host is the primary on a higher timeline, or the old one is seen to be a
    standby, every connection to the old one is dropped, also under whoever uses it: at most
    ``interval`` + ``timeout`` seconds after the promotion. A host that was only too slow for a new
    connection keeps those it has. During an outage the hosts are looked at twenty times a second,
    so that a promoted standby is dialled at once.

    The connections come on top of ``max_size``, one per host. A host that cannot be reached is
    dialled again after a pause that grows to a second.
    """

    def __init__(
        self, pool: Pool, interval: float, timeout: float, emit: Callable[[Event], None]
    ) -> None:
        super().__init__(interval)
        self._pool = pool
        self._usual_interval = interval
        self._timeout = timeout
        self._emit = emit
        self._hosts: Hosts[Any] | None = None
        self._sessions: dict[Host, Any] = {}
        self._sights: dict[Host, Sight] = {}
        self._looks: dict[Host, asyncio.Task[None]] = {}
        self._pauses: dict[Host, tuple[float, float]] = {}
        self._announced: Host | None = None
        # Why connections were dropped before it was known where to go instead.
        self._doubt: str | None = None
        self._evicted_at: float | None = None

    # Start and stop ---------------------------------------------------------------------------

    def start(self) -> None:
        """See ``Keeper``."""
        super().start()
        self._attach()

    def notice(self, event: Event) -> None:
        """Look more often during an outage."""
        if isinstance(event, DatabaseConnectionLost):
            self._announced = None
            self._sights.clear()
            self._pauses.clear()
            self._look_every(SEEK_INTERVAL)
        elif isinstance(event, DatabaseReconnected):
            self._look_every(self._usual_interval)
        elif isinstance(event, PoolClosed):
            self.cancel()

    def _look_every(self, interval: float) -> None:
        if self.running and interval != self.interval:
            self.interval = interval
            # Not our own cancel(): what is being looked at goes on.
            super().cancel()
            self.start()

    async def stop(self) -> None:
        """See ``Keeper``. The connections go with it."""
        looks = list(self._looks.values())
        await super().stop()
        if looks:
            await asyncio.wait(looks)

    def cancel(self) -> asyncio.Task[None] | None:
        """See ``Keeper``. The connections go with it."""
        self._leave()
        return super().cancel()

    def _leave(self) -> None:
        for look in self._looks.values():
            look.cancel()
        for session in self._sessions.values():
            session.abort()
        if self._hosts is not None:
            self._hosts.on_moved = None
        self._hosts = None
        self._looks, self._sessions = {}, {}
        self._sights.clear()
        self._pauses.clear()

    def _attach(self) -> Hosts[Any] | None:
        """The hosts to watch, if they are to be watched; they change by set_connect_args()."""
        hosts = self._pool.driver.hosts
        if hosts is not None and not (hosts.several and hosts.wants_primary):
            hosts = None
        if hosts is not self._hosts:
            self._leave()
            self._hosts = hosts
            if hosts is not None:
                hosts.on_moved = self._connections_moved
        return hosts

    # Looking ----------------------------------------------------------------------------------

    async def perform(self) -> None:
        """Ask all hosts that are not being asked; judge each answer when it comes."""
        hosts = self._attach()
        if hosts is None:
            return
        now = monotonic()
        for host in hosts.hosts:
            not_before, _pause = self._pauses.get(host, (now, 0.0))
            if host not in self._looks and now >= not_before:
                self._looks[host] = asyncio.ensure_future(self._look(hosts, host))
        if self._looks:
            done, _ = await asyncio.wait(
                self._looks.values(), timeout=min(self.interval, self._timeout)
            )
            for look in done:
                if not look.cancelled():
                    look.result()

    async def _look(self, hosts: Hosts[Any], host: Host) -> None:
        try:
            sight = await bounded(self._ask(hosts, host), self._timeout)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
            self._unreachable(host, error)
        else:
            self._pauses.pop(host, None)
            self._sights[host] = sight
            hosts.saw(host, sight.timeline if sight.primary else None)
        finally:
            if self._looks.get(host) is asyncio.current_task():
                del self._looks[host]
        if hosts is self._hosts:
            self._judge(hosts)
            self._cut_off(hosts)

    async def _ask(self, hosts: Hosts[Any], host: Host) -> Sight:
        session = self._sessions.pop(host, None)
        if session is None or session.is_closed():
            session = await hosts.connect_to(host, self._timeout)
        try:
            if await session.ask(IN_RECOVERY):
                sight = Sight(primary=False, timeline=0)
            else:
                sight = Sight(primary=True, timeline=await timeline_of(session))
        except BaseException:
            session.abort()
            raise
        if hosts is self._hosts:
            self._sessions[host] = session
        else:
            session.abort()
        return sight

    def _unreachable(self, host: Host, error: Exception) -> None:
        self._sights.pop(host, None)
        if self._announced == host:
            self._announced = None
        if isinstance(error, ConnectionRefusedError):
            # Costs next to nothing, and the next moment may be the one.
            return
        _until, pause = self._pauses.get(host, (0.0, SEEK_INTERVAL))
        pause = min(LONGEST_PAUSE, 2 * pause)
        self._pauses[host] = monotonic() + pause, pause

    # Judging ----------------------------------------------------------------------------------

    def _judge(self, hosts: Hosts[Any]) -> None:
        """Tell the pool if what was just seen means that it should go elsewhere."""
        current = hosts.current
        primaries = {
            host: sight.timeline
            for host, sight in self._sights.items()
            if sight.primary and not 0 < sight.timeline < hosts.timeline
        }
        if current in primaries:
            hosts.timeline = max(hosts.timeline, primaries[current])
        best = max(primaries, key=lambda host: (primaries[host], host == current), default=None)
        if best is None:
            return
        timeline = primaries[best]
        if self._pool.state.outage.down_since is not None:
            if best != self._announced:
                self._announced = best
                self._go(hosts, best, timeline, self._doubt or "unreachable")
                self._pool.sign_of_life()
        elif current is not None and best != current:
            mine = self._sights.get(current)
            if mine is not None and not mine.primary:
                self._go(hosts, best, timeline, "demoted")
            elif timeline > hosts.timeline:
                self._go(hosts, best, timeline, "higher_timeline")

    def _go(self, hosts: Hosts[Any], to: Host, timeline: int, reason: str) -> None:
        """Leave the host in use for another one."""
        before = hosts.current
        hosts.prefer(to, timeline)
        if before is not None and before != to:
            self._report(hosts, before, to, timeline, reason)

    def _connections_moved(self, before: Host) -> None:
        """A new connection had to be opened to another host than those before."""
        hosts = self._hosts
        if hosts is None or hosts.current is None:
            return
        # Otherwise it was slow, and is left alone until there is proof that it is no primary.
        if hosts.superseded(before) or self._pool.state.outage.down_since is not None:
            self._report(hosts, before, hosts.current, hosts.timeline, self._doubt or "unreachable")

    def _report(
        self, hosts: Hosts[Any], before: Host, to: Host, timeline: int, reason: str
    ) -> None:
        self._doubt = None
        self._emit(
            FailoverDetected(
                pool=self._pool.name,
                reason=reason,
                from_host=str(before),
                to_host=str(to),
                timeline=timeline or None,
            )
        )
        self._cut_off(hosts)

    def _cut_off(self, hosts: Hosts[Any]) -> None:
        """Drop the connections to hosts that are known to be the primary no more."""
        slots = self._pool.state.slots.values()
        endpoints = {slot.connection.endpoint for slot in slots if slot.connection is not None}
        for old in filter(hosts.superseded, endpoints):
            self._pool.evict(
                partial(_leads_to, old),
                "failover",
                f"The pool cut this connection off: {hosts.current} is the primary now, no longer "
                f"{_name(old)}. Whether the statement took effect, and whether that lasts, is "
                "unknown.",
            )

    # Refused writes ---------------------------------------------------------------------------

    def refused(self, session: Any, error: Exception) -> None:
        """A statement was refused because the server is read-only (25006).

        A transaction the user declared read-only proves nothing. A standby where a primary is
        wanted, or behind an address that led to a primary before, means that connections have to
        be opened anew: the address may lead elsewhere by now.
        """
        del error
        hosts = self._pool.driver.hosts
        if hosts is None or not _on_standby(session):
            return
        now = monotonic()
        if not hosts.wants_primary:
            followed = hosts.demoted_at is not None and now - hosts.demoted_at < FOLLOW_SECONDS
            if hosts.several or not followed:
                return
        if self._evicted_at is not None and now - self._evicted_at < EVICTION_PAUSE:
            return
        self._evicted_at = now
        self._doubt = "read_only"
        hosts.saw(session.endpoint, None)
        self._pool.evict(
            _on_standby,
            "read_only",
            f"The pool cut this connection off: the server at {_name(session.endpoint)} is a "
            "standby and takes no writes.",
        )


def _leads_to(host: Hashable, session: Any) -> bool:
    return bool(session.endpoint == host)


def _on_standby(session: Any) -> bool:
    return bool(session.parameter("in_hot_standby") == "on")


def _name(endpoint: Any) -> str:
    return endpoint if isinstance(endpoint, str) else ":".join(map(str, endpoint))
