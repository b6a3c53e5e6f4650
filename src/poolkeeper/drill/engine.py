"""Runs one fault against one contender, from a sound database to a sound database."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Self

from poolkeeper.drill import prober
from poolkeeper.drill.arena import Control, EmbeddedArena, ReplicatedArena
from poolkeeper.drill.clients import Clients
from poolkeeper.drill.faults import Back, Scene
from poolkeeper.drill.measuring import Marks, longest_gap, measure

if TYPE_CHECKING:
    from collections.abc import Callable

    from poolkeeper.drill.arena import Arena
    from poolkeeper.drill.contender import Contender
    from poolkeeper.drill.faults import Fault
    from poolkeeper.drill.measuring import FaultReport
    from poolkeeper.drill.terms import Terms

OPEN_SECONDS = 30.0
CLOSE_SECONDS = 8.0
LOOK_SECONDS = 0.05
SERVED_SECONDS = 0.5
"""Clients are being served while the latest success is no older."""
SHORTEST_ABSENCE_SECONDS = 0.25
"""A shorter time without a success is no absence: a busy machine has such gaps of its own."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long is looked at a pool before a fault and after it; seconds.

    Attributes:
        before: Clients work undisturbed for so long.
        after: They go on for so long once the pool is back and every old call has ended.
        wait: How long the pool may take for that; afterwards it is gone for good once no client
            has had a success for so long.
    """

    before: float = 1.5
    after: float = 1.5
    wait: float = 20.0


@dataclass(slots=True)
class Progress:
    """What is going on now, for whoever shows it."""

    phase: str = "starting"
    clients: Clients | None = None


class Prober:
    """The process that finds out when a server accepts connections; see ``prober``."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", prober.__file__),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the drill
        )
        return self

    async def __aexit__(self, *_error: object) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    def dial(self, host: str, port: int) -> asyncio.Task[float]:
        """Dial from now on; the result is when the server accepted."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{host} {port}\n".encode())
        return asyncio.create_task(self._answer())

    async def _answer(self) -> float:
        assert self._process is not None
        assert self._process.stdout is not None
        return float(await self._process.stdout.readline())


class Drill:
    """One fault, one contender, in an arena; ``run`` once."""

    def __init__(
        self,
        fault: Fault,
        contender: Contender,
        arena: Arena,
        *,
        prober: Prober,
        pace: Pace,
        progress: Progress,
    ) -> None:
        self._fault = fault
        self._contender = contender
        self._arena = arena
        self._prober = prober
        self._pace = pace
        self._progress = progress
        self._reports: list[tuple[float, str]] = []
        self._unhealthy_at: float | None = None
        self._clients = progress.clients = Clients(contender)

    async def run(self) -> FaultReport:
        """Break it, heal it, wait for the clients and compare their account with the database."""
        await self._arena.forget_writes()
        self._progress.phase = "opening"
        async with asyncio.timeout(OPEN_SECONDS):
            await self._contender.open()
        try:
            marks, recovered_at = await self._watched()
        except BaseException:
            self._fault.abort()
            self._clients.abort()
            raise
        finally:
            await self._restore()
            await self._close()
        hanging = await self._clients.leave()
        if hanging:
            self._reports.append((monotonic(), f"{hanging} calls did not end when cancelled"))
        self._progress.phase = "comparing"
        stored = await self._arena.written()
        return measure(
            self._fault,
            self._contender,
            marks,
            self._clients.calls,
            self._clients.writes,
            stored,
            reports=self._reports,
            unhealthy_at=self._unhealthy_at,
            messages=self._clients.examples,
            hung=self._clients.hung,
            recovered_at=recovered_at,
        )

    async def _watched(self) -> tuple[Marks, float | None]:
        self._contender.report_to(lambda what: self._reports.append((monotonic(), what)))
        watching = asyncio.create_task(self._watch_health())
        try:
            return await self._strike()
        finally:
            watching.cancel()

    async def _strike(self) -> tuple[Marks, float | None]:
        fault, arena, clients = self._fault, self._arena, self._clients
        scene = Scene(arena, clients)
        self._progress.phase = "warming up"
        async with asyncio.timeout(OPEN_SECONDS):
            await clients.start()
        started = monotonic()
        await asyncio.sleep(self._pace.before)

        self._progress.phase = "broken"
        begun = monotonic()
        self._reports.clear()
        self._unhealthy_at = None
        await fault.begin(scene)
        broken = monotonic()
        await asyncio.sleep(max(0.0, begun + fault.seconds - broken))

        self._progress.phase = "healing"
        proxied = Control.NETWORK in fault.needs
        dialling = (
            self._prober.dial(*arena.doors(proxied=proxied)[0])
            if fault.back is Back.DIALLED
            else None
        )
        healing = monotonic()
        await fault.heal(scene)
        healed = monotonic()
        accepting = begun if fault.back is Back.MEANWHILE else healed
        if dialling is not None:
            async with asyncio.timeout(OPEN_SECONDS):
                accepting = await dialling

        self._progress.phase = "waiting for service"
        recovered_at = await self._until_recovered(accepting, healed)
        await asyncio.sleep(self._pace.after)
        # a gap that is cut off says nothing of how long it would have been: end with a success
        served_at = await self._until_served()
        ended = monotonic() if served_at is None else served_at
        self._progress.phase = "waiting for calls"
        await clients.stop()
        marks = Marks(started, begun, healing, accepting, ended)
        if fault.back is Back.MEANWHILE and recovered_at is not None:
            recovered_at = None if served_at is None else self._back_from_gap(marks)
        return marks, recovered_at

    def _back_from_gap(self, marks: Marks) -> float:
        """The first success after the fault may have been under way before it; the gap tells."""
        gone, back = longest_gap(self._clients.calls, marks)
        return marks.begun if back - gone <= SHORTEST_ABSENCE_SECONDS else back

    async def _until_served(self) -> float | None:
        """The next success; None once the latest is so old that the pool is gone for good.

        Where neither the pool nor the database has had a processor for a while, the next success
        is only late: no reason to take the pool for gone.
        """
        since = monotonic()
        while (latest := self._clients.latest_success()) <= since:
            if monotonic() - latest > self._pace.wait:
                return None
            await asyncio.sleep(LOOK_SECONDS)
        return latest

    async def _until_recovered(self, accepting: float, healed: float) -> float | None:
        """Until clients are served, and every call of before the healing has ended."""
        clients = self._clients
        until = monotonic() + self._pace.wait
        seen, recovered_at, latest = 0, None, 0.0
        while monotonic() < until:
            for call in clients.calls[seen:]:
                if call.error is None and call.kind != "slow" and call.ended > accepting:
                    recovered_at = call.ended if recovered_at is None else recovered_at
                    latest = call.ended
            seen = len(clients.calls)
            oldest = clients.oldest_call()
            served = monotonic() - latest < SERVED_SECONDS
            if served and (oldest is None or oldest > healed):
                break
            await asyncio.sleep(LOOK_SECONDS)
        return recovered_at

    async def _watch_health(self) -> None:
        while True:
            if self._unhealthy_at is None and await self._contender.is_unhealthy():
                self._unhealthy_at = monotonic()
            await asyncio.sleep(LOOK_SECONDS)

    async def _restore(self) -> None:
        """Whatever the fault left behind."""
        if Control.NETWORK in self._arena.controls:
            await self._arena.proxy.heal(links=True)
        if Control.SERVER in self._arena.controls:
            await asyncio.to_thread(self._arena.server.thaw)

    async def _close(self) -> None:
        closing = asyncio.create_task(self._contender.close())
        _done, pending = await asyncio.wait({closing}, timeout=CLOSE_SECONDS)
        if pending:
            self._reports.append((monotonic(), f"close() hung for {CLOSE_SECONDS:g} s"))
            closing.cancel()
            await asyncio.wait({closing}, timeout=1.0)
        elif not closing.cancelled() and (error := closing.exception()) is not None:
            self._reports.append((monotonic(), f"close() failed: {type(error).__name__}"))


class Range:
    """The arenas of one run: the lasting one is set up once, clusters anew for each failover."""

    def __init__(self, lasting: Arena | None = None) -> None:
        self._lasting = EmbeddedArena() if lasting is None else lasting
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._stack.enter_async_context(self._lasting)
            self._prober = await self._stack.enter_async_context(Prober())
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def server_version(self) -> str:
        """Of the database that lasts."""
        async with self._lasting.admin() as admin:
            return str(await admin.fetchval("SHOW server_version"))

    async def drill(
        self,
        fault: Fault,
        contender: Callable[..., Contender],
        terms: Terms,
        *,
        pace: Pace,
        progress: Progress | None = None,
    ) -> FaultReport:
        """One fault against one contender, which is made here."""
        progress = Progress() if progress is None else progress
        async with contextlib.AsyncExitStack() as stack:
            arena = self._lasting
            if Control.STANDBY in fault.needs:
                progress.phase = "starting a standby"
                arena = await stack.enter_async_context(ReplicatedArena())
            address = arena.address(proxied=Control.NETWORK in fault.needs)
            return await Drill(
                fault,
                contender(address, terms),
                arena,
                prober=self._prober,
                pace=pace,
                progress=progress,
            ).run()
