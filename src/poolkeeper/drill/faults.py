"""What can be broken and how it is mended: one small class per fault.

``begin`` breaks something and returns, ``heal`` mends it. A fault may assume a sound database and
fifty clients at work; whatever it leaves behind, the engine heals the proxy and thaws the server
afterwards.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

from poolkeeper.drill.arena import ROLE, Control, change_password
from poolkeeper.testing.wire import Direction

if TYPE_CHECKING:
    from poolkeeper.drill.arena import Arena
    from poolkeeper.drill.clients import Clients


class Back(Enum):
    """From when on the database accepts connections again."""

    MEANWHILE = "all the time"
    """New connections work during the fault, so the clock of the recovery starts with the fault."""
    HEALED = "when healed"
    DIALLED = "when it answers"
    """Healing begins a start that takes a time of its own: the prober finds out."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Where a fault happens, and to whom."""

    arena: Arena
    clients: Clients


class Fault(ABC):
    """Something that goes wrong.

    Attributes:
        name: What the command line calls it.
        what: One line for people.
        seconds: How long it lasts: from its beginning to the beginning of the healing.
        needs: What an arena must offer.
        back: See `Back`.
        outage: Whether no client can be served meanwhile.
    """

    name: ClassVar[str]
    what: ClassVar[str]
    seconds: ClassVar[float]
    needs: ClassVar[Control]
    back: ClassVar[Back]
    outage: ClassVar[bool] = True

    @abstractmethod
    async def begin(self, scene: Scene) -> None:
        """Breaks it."""

    async def heal(self, scene: Scene) -> None:  # noqa: B027 - most do, some need not
        """Mends it; nothing to do for what does not last."""

    def abort(self) -> None:  # noqa: B027 - most have nothing under way
        """Ends what it has under way, when a drill ends before its time."""


# The server -----------------------------------------------------------------------------------


class Crash(Fault):
    """A power failure without the disk's part in it."""

    name = "crash"
    what = "every server process is killed (kill -9), and started again after 1 s"
    seconds = 1.0
    needs = Control.SERVER
    back = Back.DIALLED

    async def begin(self, scene: Scene) -> None:
        """See ``Fault``."""
        await asyncio.to_thread(scene.arena.server.crash)

    async def heal(self, scene: Scene) -> None:
        """See ``Fault``."""
        await asyncio.to_thread(scene.arena.server.start)


class StopImmediate(Crash):
    """No goodbye, and recovery at the start."""

    name = "stop-immediate"
    what = "the server is stopped in mode immediate, and started again after 1 s"

    async def begin(self, scene: Scene) -> None:
        """See ``Fault``."""
        await asyncio.to_thread(scene.arena.server.stop, "immediate")


class StopFast(Crash):
    """A planned restart that nobody announced."""

    name = "stop-fast"
    what = "the server is stopped in mode fast, and started again after 1 s"

    async def begin(self, scene: Scene) -> None:
        """See ``Fault``."""
        await asyncio.to_thread(scene.arena.server.stop, "fast")


class LongOutage(StopFast):
    """Longer than anybody waits."""

    name = "long-outage"
    what = "the server is stopped for 20 s"
    seconds = 20.0


class FrozenServer(Fault):
    """A machine that swaps, a hypervisor that migrates it."""

    name = "frozen-server"
    what = "SIGSTOP of every server process for 6 s: sockets open, nobody answers"
    seconds = 6.0
    needs = Control.SERVER
    back = Back.HEALED

    async def begin(self, scene: Scene) -> None:
        """See ``Fault``."""
        await asyncio.to_thread(scene.arena.server.freeze)

    async def heal(self, scene: Scene) -> None:
        """See ``Fault``."""
        await asyncio.to_thread(scene.arena.server.thaw)


class TooManyConnections(Fault):
    """Another client has taken the slots: 53300 for whoever asks for more than what is left."""

    name = "too-many-connections"
    what = "sessions ended, and only 4 of them let in again for 4 s (53300)"
    seconds = 4.0
    needs = Control.SERVER
    back = Back.HEALED
    outage = False

    async def begin(self, scene: Scene) -> None:
        """See ``Fault``."""
        await asyncio.to_thread(scene.arena.server.psql, f"ALTER ROLE {ROLE} CONNECTION LIMIT 4")
        await scene.arena.end_sessions()

    async def heal(self, scene: Scene) -> None:
        """See ``Fault``."""
        await asyncio.to_thread(scene.arena.server.psql, f"ALTER ROLE {ROLE} CONNECTION LIMIT -1")


class RotatedPassword(Fault):
    """The clients' side of the rotation is late."""

    name = "rotated-password"
    what = "the password is changed and sessions ended; clients can know the new one 2 s later"
    seconds = 2.0
    needs = Control.SERVER
    back = Back.HEALED

    async def begin(self, scene: Scene) -> None:
        """See ``Fault``."""
        self._password = await change_password(scene.arena.server)
        await scene.arena.end_sessions()

    async def heal(self, scene: Scene) -> None:
        """See ``Fault``."""
        scene.arena.password = self._password


class Failover(Fault):
    """What a failover manager does once it has made up its mind."""

    name = "failover"
    what = "the primary is killed; its synchronous standby is promoted 1 s later"
    seconds = 1.0
    needs = Control.STANDBY
    back = Back.HEALED

    async def begin(self, scene: Scene) -> None:
        """See ``Fault``."""
        await asyncio.to_thread(scene.arena.cluster.primary.crash)

    async def heal(self, scene: Scene) -> None:
        """See ``Fault``."""
        await asyncio.to_thread(scene.arena.cluster.promote)


# Sessions -------------------------------------------------------------------------------------


class TerminateBackends(Fault):
    """An administrator, a script, a failing health check of somebody else."""

    name = "terminate-backends"
    what = "every session is ended by pg_terminate_backend, once"
    seconds = 0.0
    needs = Control.SESSIONS
    back = Back.MEANWHILE
    outage = False

    async def begin(self, scene: Scene) -> None:
        """See ``Fault``."""
        await scene.arena.end_sessions()


class SlowStatements(Fault):
    """Not a fault: what must not be taken for one."""

    name = "slow-statements"
    what = "three statements run for 4 s: none of them may be killed"
    seconds = 5.0
    needs = Control.SESSIONS
    back = Back.MEANWHILE
    outage = False
    statements = 3
    statement_seconds = 4.0

    def __init__(self) -> None:
        self._running: list[asyncio.Task[None]] = []

    async def begin(self, scene: Scene) -> None:
        """See ``Fault``."""
        self._running = [
            asyncio.create_task(scene.clients.slow_statement(self.statement_seconds))
            for _ in range(self.statements)
        ]

    async def heal(self, scene: Scene) -> None:
        """See ``Fault``."""
        del scene
        await asyncio.wait(self._running, timeout=20.0)

    def abort(self) -> None:
        """See ``Fault``."""
        for statement in self._running:
            statement.cancel()


# The network ----------------------------------------------------------------------------------


class SilentConnections(Fault):
    """A firewall forgot the flows; a host of a cluster vanished behind its address."""

    name = "silent-connections"
    what = "existing connections go silent, sockets open; new connections work"
    seconds = 8.0
    needs = Control.NETWORK
    back = Back.MEANWHILE

    async def begin(self, scene: Scene) -> None:
        """See ``Fault``."""
        scene.arena.proxy.silence(scene.arena.proxy.links)

    async def heal(self, scene: Scene) -> None:
        """See ``Fault``."""
        await scene.arena.proxy.heal()


class LostReplies(SilentConnections):
    """Half a network: what is asked arrives."""

    name = "lost-replies"
    what = "existing connections lose every reply, requests arrive; new connections work"

    async def begin(self, scene: Scene) -> None:
        """See ``Fault``."""
        scene.arena.proxy.silence(scene.arena.proxy.links, direction=Direction.TO_CLIENT)


class SilentNetwork(SilentConnections):
    """A middlebox that acknowledges for a database that is not there."""

    name = "silent-network"
    what = "every connection is silent for 12 s, also new ones: accepted, never answered"
    seconds = 12.0
    back = Back.HEALED

    async def begin(self, scene: Scene) -> None:
        """See ``Fault``."""
        scene.arena.proxy.silence()


class OneDeadConnection(SilentConnections):
    """A question that only one of ten connections cannot answer."""

    name = "one-dead-connection"
    what = "one connection goes silent, the others work"
    outage = False

    async def begin(self, scene: Scene) -> None:
        """See ``Fault``."""
        scene.arena.proxy.silence(scene.arena.proxy.links[-1])


class ResetConnections(Fault):
    """A load balancer that was restarted."""

    name = "reset-connections"
    what = "RST on every connection, once"
    seconds = 0.0
    needs = Control.NETWORK
    back = Back.MEANWHILE
    outage = False

    async def begin(self, scene: Scene) -> None:
        """See ``Fault``."""
        scene.arena.proxy.reset()


class HangUp(ResetConnections):
    """A proxy that was stopped in good order."""

    name = "hang-up"
    what = "FIN on every connection, once"

    async def begin(self, scene: Scene) -> None:
        """See ``Fault``."""
        scene.arena.proxy.hang_up()


class Refused(Fault):
    """Nothing listens there any more."""

    name = "refused-connections"
    what = "connections reset, and new ones refused for 3 s"
    seconds = 3.0
    needs = Control.NETWORK
    back = Back.HEALED

    async def begin(self, scene: Scene) -> None:
        """See ``Fault``."""
        await scene.arena.proxy.refuse()
        scene.arena.proxy.reset()

    async def heal(self, scene: Scene) -> None:
        """See ``Fault``."""
        await scene.arena.proxy.heal()


class Flapping(Refused):
    """A cable with a loose plug."""

    name = "flapping"
    what = "refused and reset, five times: 0.5 s down, 0.5 s up"
    seconds = 4.5
    times = 5
    half_period = 0.5

    def __init__(self) -> None:
        self._flapping: asyncio.Task[None] | None = None

    async def begin(self, scene: Scene) -> None:
        """See ``Fault``."""
        self._flapping = asyncio.create_task(self._flap(scene))

    async def _flap(self, scene: Scene) -> None:
        for again in range(self.times):
            if again:
                await scene.arena.proxy.accept()
                await asyncio.sleep(self.half_period)
            await self._down(scene)
            await asyncio.sleep(self.half_period)

    async def _down(self, scene: Scene) -> None:
        await scene.arena.proxy.refuse()
        scene.arena.proxy.reset()

    async def heal(self, scene: Scene) -> None:
        """See ``Fault``."""
        assert self._flapping is not None
        await self._flapping
        await super().heal(scene)

    def abort(self) -> None:
        """See ``Fault``."""
        if self._flapping is not None:
            self._flapping.cancel()


class SlowNetwork(Fault):
    """Another continent: nothing is broken, and nothing may be thrown away for it."""

    name = "slow-network"
    what = "200 ms more for every message, each way, for 4 s"
    seconds = 4.0
    needs = Control.NETWORK
    back = Back.HEALED
    outage = False

    async def begin(self, scene: Scene) -> None:
        """See ``Fault``."""
        scene.arena.proxy.shape(latency=0.2)

    async def heal(self, scene: Scene) -> None:
        """See ``Fault``."""
        await scene.arena.proxy.heal()


FAULTS: tuple[type[Fault], ...] = (
    Crash,
    StopImmediate,
    StopFast,
    LongOutage,
    Failover,
    FrozenServer,
    SilentConnections,
    SilentNetwork,
    LostReplies,
    OneDeadConnection,
    TerminateBackends,
    ResetConnections,
    HangUp,
    Refused,
    Flapping,
    SlowNetwork,
    TooManyConnections,
    RotatedPassword,
    SlowStatements,
)
"""All of them, worst first."""


def fault_named(name: str) -> type[Fault] | None:
    """The fault the command line means."""
    return next((fault for fault in FAULTS if fault.name == name), None)
