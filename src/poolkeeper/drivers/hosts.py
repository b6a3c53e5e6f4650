"""Several hosts in one URL: all are asked at once, and the one that fits is remembered."""

from __future__ import annotations

import asyncio
import contextlib
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from poolkeeper.core.availability import Failure
from poolkeeper.deadlines import bounded
from poolkeeper.endpoints import (
    Host,
    NoHostFits,
    hosts_of,
    parameter_of,
    target_session_attrs_of,
)
from poolkeeper.exceptions import PoolConfigurationError
from poolkeeper.sqlstate import connect_failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

ANY: Final = "any"
PRIMARY: Final = "primary"
READ_WRITE: Final = "read-write"
STANDBY: Final = "standby"
READ_ONLY: Final = "read-only"
PREFER_STANDBY: Final = "prefer-standby"
WANTED: Final = (ANY, PRIMARY, READ_WRITE, STANDBY, READ_ONLY, PREFER_STANDBY)

DRIVERS_OWN: Final = ("hostaddr", "service")
"""Parameters that lead to addresses only the driver knows."""

HEAD_START_SECONDS = 0.25
"""How long the host used so far may take to answer before the others are asked as well."""

CONTEST_SECONDS = 0.05
"""How long a host that fits waits for others at least: for a primary on a higher timeline, or one
named earlier. Only if it was slow itself it waits longer: a silent host costs next to nothing."""

SECOND_BEST_SECONDS = 0.5
"""The same for a primary where a standby is preferred."""

ASK_SECONDS = 1.0
"""How long a server may take to tell its role or timeline."""

IN_RECOVERY = "SELECT pg_catalog.pg_is_in_recovery()"
CANNOT_WRITE = "SELECT pg_catalog.current_setting('transaction_read_only') = 'on'"
TIMELINE = (
    "SELECT ('x' || pg_catalog.substr("
    "pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::int"
)
"""Not ``pg_control_checkpoint()``, which knows of a promotion only after the next checkpoint."""


class HostSession(Protocol):
    """What is asked of a session beyond what the pool needs."""

    endpoint: Any

    def parameter(self, name: str) -> str | None:
        """A parameter as the server reported it last, None if it does not. No I/O."""

    async def ask(self, query: str) -> Any:
        """The first column of the first row."""

    def is_closed(self) -> bool:
        """Whether the connection is known to be gone."""

    def abort(self) -> None:
        """Drop the transport at once."""


S = TypeVar("S", bound=HostSession)


class Unfit(Exception):
    """A host let us in and is not what is wanted."""


class Hosts(Generic[S]):
    """The servers one URL names, and which of them is in use.

    As long as the one in use fits, only that one is dialled; its role is read from what every
    server reports at login. Otherwise all are asked at the same time, each for as long as the
    whole attempt may take. With ``target_session_attrs`` of ``primary`` or ``read-write`` the
    primary on the highest timeline wins.

    Attributes:
        hosts: In the order they are named; empty or one if there is no choice.
        wanted: A value of ``target_session_attrs``.
        current: The host in use, None before the first.
        timeline: The highest a primary was seen on; 0 if none said. A primary on an older one is
            a relic of before a failover and never used.
        on_moved: Called with the host before when connections lead to another one.
        demoted_at: When the one address there is led to a standby after it had led to a primary.

    Args:
        dial: Opens a session to a host, or with None to wherever the driver thinks fit. Cancelled,
            it leaves nothing open.
        choose: False leaves the choice to ``dial`` however many hosts there are.
    """

    def __init__(
        self,
        url: str | None,
        connect_kwargs: Mapping[str, Any],
        dial: Callable[[Host | None, float], Awaitable[S]],
        *,
        choose: bool = True,
    ) -> None:
        self.hosts: Sequence[Host] = hosts_of(url, connect_kwargs)
        self.wanted = target_session_attrs_of(url, connect_kwargs)
        if not choose or any(parameter_of(name, url, connect_kwargs) for name in DRIVERS_OWN):
            self.hosts = []
        if self.several and self.wanted not in WANTED:
            raise PoolConfigurationError(
                f"target_session_attrs is {self.wanted!r}, which PostgreSQL does not know. "
                f"Suggestion: use one of {', '.join(WANTED)}.",
                option="target_session_attrs",
                value=self.wanted,
            )
        self.current: Host | None = None
        self.timeline = 0
        self.on_moved: Callable[[Host], None] | None = None
        self.demoted_at: float | None = None
        self._saw_primary = False
        # The timeline each was last the primary on, 0 if it did not say; None for a standby.
        self._seen: dict[Host, int | None] = {}
        self._dial = dial
        self._waiting: set[asyncio.Future[Host]] = set()

    @property
    def several(self) -> bool:
        """Whether there is a choice."""
        return len(self.hosts) > 1

    @property
    def wants_primary(self) -> bool:
        """Whether only a server that takes writes will do."""
        return self.wanted in {PRIMARY, READ_WRITE}

    async def connect(self, timeout: float) -> S:
        """Open a session to a host that fits.

        Raises:
            NoHostFits: None does, for reasons given for each.
        """
        if not self.several:
            session = await self._dial(None, timeout)
            self._note_role(session)
            return session
        return await _Search(self, timeout).run()

    async def connect_to(self, host: Any, timeout: float) -> S:
        """Open a session to one host, whatever its role; to any if there is only one."""
        return await self._dial(host if self.several else None, timeout)

    def prefer(self, host: Host, timeline: int) -> None:
        """Try this one first from now on: it is known to fit. Searches under way hear of it."""
        self.current = host
        self.timeline = max(self.timeline, timeline)
        self.saw(host, timeline)
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(host)

    def saw(self, host: Host, timeline: int | None) -> None:
        """Remember what a host is: the primary on a timeline (0 unknown), or None, a standby."""
        self._seen[host] = timeline

    def superseded(self, endpoint: Any) -> bool:
        """Whether what is done on a connection to this host is refused, or may be lost.

        That takes proof: a primary is wanted, another host is in use, and this one is a standby
        or on an older timeline. Another address of the same server, however slow, is neither.
        """
        if not (self.several and self.wants_primary) or endpoint == self.current:
            return False
        timeline = self._seen.get(endpoint, 0)
        return timeline is None or 0 < timeline < self.timeline

    def _note_role(self, session: S) -> None:
        if session.parameter("in_hot_standby") != "on":
            self._saw_primary, self.demoted_at = True, None
        elif self._saw_primary and self.demoted_at is None:
            self.demoted_at = monotonic()

    async def open(self, host: Host, timeout: float) -> tuple[int, S]:
        """Open a session to one host and judge it: 0 fits, 1 will do.

        Raises:
            Unfit: Neither.
        """
        session = await self._dial(host, timeout)
        try:
            rank = await self._judge(session)
        except BaseException:
            session.abort()
            raise
        return rank, session

    async def _judge(self, session: S) -> int:
        wanted = self.wanted
        if wanted == ANY:
            return 0
        refuse_writes = wanted in {READ_WRITE, READ_ONLY}
        role, question = (
            (_cannot_write, CANNOT_WRITE) if refuse_writes else (_in_recovery, IN_RECOVERY)
        )
        expected = wanted not in {PRIMARY, READ_WRITE}
        found = role(session)
        if found is not expected:
            # Not reported by servers before 14, and a pooler repeats what it heard at a login of
            # its own, perhaps from before a promotion: only a question can tell.
            found = bool(await bounded(session.ask(question), ASK_SECONDS, give_up=session.abort))
        if found is expected:
            return 0
        if wanted == PREFER_STANDBY:
            return 1
        if refuse_writes:
            raise Unfit("is read-only" if found else "takes writes")
        raise Unfit("is a standby" if found else "is a primary")

    def settle(self, host: Host, rank: int, timeline: int) -> None:
        """Connections lead here now."""
        before, self.current = self.current, host if rank == 0 else None
        self.timeline = max(self.timeline, timeline)
        if before is not None and before != self.current and self.on_moved is not None:
            self.on_moved(before)

    @contextlib.contextmanager
    def news(self) -> Iterator[asyncio.Future[Host]]:
        """A future that a host known to fit is put into."""
        waiting: asyncio.Future[Host] = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            yield waiting
        finally:
            self._waiting.discard(waiting)
            waiting.cancel()


class _Search(Generic[S]):
    """One attempt to open a session to the right host."""

    def __init__(self, hosts: Hosts[S], timeout: float) -> None:
        self._hosts = hosts
        self._started = monotonic()
        self._timeout = timeout
        self._attempts: dict[asyncio.Future[tuple[int, S]], Host] = {}
        self._found: dict[Host, tuple[int, S]] = {}
        self._found_at: float | None = None
        self._reasons: dict[Host, BaseException] = {}
        self._timelines: dict[Host, int] = {}
        self._first = hosts.current

    async def run(self) -> S:
        """Find it, and leave nothing else open."""
        chosen: Host | None = None
        try:
            chosen = await self._find()
            if chosen is None:
                raise self._error()
            rank, session = self._found[chosen]
            self._hosts.settle(chosen, rank, self._timelines.get(chosen, 0))
            return session
        finally:
            for attempt in self._attempts:
                attempt.add_done_callback(_abort_unclaimed)
                attempt.cancel()
            for host, (_rank, session) in self._found.items():
                if host != chosen:
                    session.abort()

    async def _find(self) -> Host | None:
        first = self._first
        if first is not None:
            self._ask(first)
            await asyncio.wait(self._attempts, timeout=min(HEAD_START_SECONDS, self._timeout))
            self._collect()
            if first in self._found:
                if self._hosts.current == first:
                    return first
                _rank, session = self._found.pop(first)
                self._found_at = None
                session.abort()
                self._reasons[first] = Unfit("has been superseded")
        with self._hosts.news() as news:
            for host in self._hosts.hosts:
                if host != first:
                    self._ask(host)
            while self._attempts:
                patience = self._patience()
                if patience <= 0:
                    break
                awaited: set[asyncio.Future[Any]] = {*self._attempts}
                if not news.done():
                    awaited.add(news)
                await asyncio.wait(
                    awaited,
                    timeout=patience,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                self._collect()
                if news.done() and news.result() in self._reasons:
                    # Its answer was from before its promotion.
                    del self._reasons[news.result()]
                    self._ask(news.result())
                if self._decided():
                    break
        return await self._best()

    def _ask(self, host: Host) -> None:
        remaining = max(0.0, self._started + self._timeout - monotonic())
        self._attempts[asyncio.ensure_future(self._hosts.open(host, remaining))] = host

    def _collect(self) -> None:
        for attempt in [attempt for attempt in self._attempts if attempt.done()]:
            host = self._attempts.pop(attempt)
            if attempt.cancelled():
                self._reasons[host] = ConnectionAbortedError("the driver cancelled the attempt")
            elif (error := attempt.exception()) is not None:
                self._reasons[host] = error
            else:
                self._found[host] = attempt.result()
                self._found_at = self._found_at or monotonic()

    def _patience(self) -> float:
        """Seconds to go on waiting for those that have not answered."""
        now = monotonic()
        until = self._started + self._timeout
        if self._found_at is not None:
            contest = max(CONTEST_SECONDS, self._found_at - self._started)
            if all(rank for rank, _session in self._found.values()):
                contest = max(contest, SECOND_BEST_SECONDS)
            until = min(until, self._found_at + contest)
        return until - now

    def _decided(self) -> bool:
        """Whether nobody who has not answered could be chosen over those who have."""
        if self._hosts.wants_primary:
            return False
        order = self._hosts.hosts
        fitting = [order.index(host) for host, (rank, _) in self._found.items() if rank == 0]
        waiting = [order.index(host) for host in self._attempts.values()]
        return bool(fitting) and min(fitting) < min(waiting, default=len(order))

    async def _best(self) -> Host | None:
        """The one to use among those that will do."""
        candidates = sorted(self._found, key=self._hosts.hosts.index)
        if self._hosts.wants_primary:
            await self._compare_timelines(candidates)
            # Of two on one timeline, the one in use or named first.
            candidates.sort(key=lambda host: (-self._timelines[host], host != self._hosts.current))
        usable = [
            host
            for host in candidates
            if host not in self._reasons and not self._found[host][1].is_closed()
        ]
        return min(usable, key=lambda host: self._found[host][0], default=None)

    async def _compare_timelines(self, candidates: Sequence[Host]) -> None:
        sessions = [self._found[host][1] for host in candidates]
        answers = await asyncio.gather(*map(timeline_of, sessions), return_exceptions=True)
        for host, timeline in zip(candidates, answers, strict=True):
            if isinstance(timeline, BaseException):
                self._timelines[host] = 0
                self._reasons[host] = timeline
                continue
            self._timelines[host] = timeline
            self._hosts.saw(host, timeline)
            if 0 < timeline < self._hosts.timeline:
                self._reasons[host] = Unfit(
                    f"is a primary on timeline {timeline}, older than {self._hosts.timeline}"
                )

    def _error(self) -> NoHostFits:
        reasons = []
        for host in self._hosts.hosts:
            error = self._reasons.get(host)
            if error is None:
                error = self._reasons[host] = TimeoutError(
                    f"no answer within {self._timeout:.3g} s"
                )
            reasons.append(f"{host}: {_describe(error)}")
        wanted = self._hosts.wanted
        text = "" if wanted == ANY else f" with target_session_attrs={wanted}"
        failure = NoHostFits(
            f"none of {len(reasons)} hosts can be used{text} ({'; '.join(reasons)})"
        )
        failure.__cause__ = _most_telling(self._reasons, self._first)
        return failure


def _in_recovery(session: HostSession) -> bool | None:
    """What the server reported, None if it did not."""
    reported = session.parameter("in_hot_standby")
    return None if reported is None else reported == "on"


def _cannot_write(session: HostSession) -> bool | None:
    standby = _in_recovery(session)
    default = session.parameter("default_transaction_read_only")
    if standby or default == "on":
        return True
    return None if standby is None or default is None else False


async def timeline_of(session: HostSession) -> int:
    """On which timeline a primary writes; 0 if it does not say.

    Raises:
        Exception: The session is lost, or was dropped because no answer came.
    """
    try:
        return int(await bounded(session.ask(TIMELINE), ASK_SECONDS, give_up=session.abort))
    except Exception:
        if session.is_closed():
            raise
        # Not permitted, not PostgreSQL: then it cannot be compared.
        return 0


RANKING = (
    Failure.STARTING,
    Failure.UNAVAILABLE,
    Failure.BACKPRESSURE,
    Failure.MISCONFIGURED,
)
"""Which of several failures decides what the pool does: the one that leaves most hope first."""


def _most_telling(
    reasons: Mapping[Host, BaseException], first: Host | None
) -> BaseException | None:
    """The failure the pool acts on: of the host in use, else the most hopeful one."""
    failures = {host: error for host, error in reasons.items() if not isinstance(error, Unfit)}
    if first in failures:
        return failures[first]
    return min(
        failures.values(), key=lambda error: RANKING.index(connect_failure(error)), default=None
    )


def _describe(error: BaseException) -> str:
    text = str(error).strip()
    if isinstance(error, Unfit):
        return text
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def _abort_unclaimed(attempt: asyncio.Future[tuple[int, Any]]) -> None:
    # It may have succeeded in the very moment it was given up.
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result()[1].abort()
