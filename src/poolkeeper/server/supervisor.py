"""Several server processes behind one port: started, watched, started again, stopped together."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from poolkeeper.server.channel import Channel, ChannelError
from poolkeeper.server.siblings import VARIABLE
from poolkeeper.server.signals import on_signals

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from poolkeeper.server.systemd import Notifier

_log = logging.getLogger("poolkeeper.server")

_SHORTEST_PAUSE = 0.5
_LONGEST_PAUSE = 10.0
# Who ends sooner than this after it was ready is not working: the pauses go on growing.
_STABLE_SECONDS = 60.0
# A process that beats no more serves nobody; a new one does.
_LONGEST_SILENCE = 30.0
_LOOK_SECONDS = 0.5
_QUESTION_SECONDS = 10.0


@dataclass(eq=False)
class _Process:
    """One server process."""

    number: int
    process: asyncio.subprocess.Process
    channel: Channel
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    heard_at: float = field(default_factory=time.monotonic)
    ready_at: float | None = None

    def served_for(self) -> float:
        """Seconds since it was ready; 0 before that."""
        return 0.0 if self.ready_at is None else time.monotonic() - self.ready_at


@dataclass(frozen=True, kw_only=True)
class Crew:
    """What a supervisor needs to start its processes.

    Attributes:
        command: Starts one.
        environ: Of each.
        sockets: What each listens on; the same ones for all, or one's own for each.
        drain_seconds: How long each may take to stop.
        on_ready: Called once all can serve.
        meanwhile: Work that goes on beside them.
    """

    command: Sequence[str]
    environ: Mapping[str, str]
    sockets: Sequence[list[socket.socket]]
    drain_seconds: float
    on_ready: Callable[[], None]
    notifier: Notifier
    meanwhile: Callable[[], Coroutine[Any, Any, None]] | None = None


class Supervisor:
    """Keeps the processes running until a signal comes; passes signals and operators' verbs on."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._processes: dict[int, _Process] = {}
        self._stop = asyncio.Event()
        self._paused = False
        self._reloads = 0
        self._at_work = False
        self._failure: int | None = None

    async def run(self) -> int:
        """Serve until a signal or an operator asks to stop; the exit code.

        A process that cannot be started the first time ends everything: its message says why.
        """
        crew = self._crew
        passed_on = {
            signal.SIGUSR1: lambda: self._hold(signal.SIGUSR1, paused=True),
            signal.SIGUSR2: lambda: self._hold(signal.SIGUSR2, paused=False),
            signal.SIGHUP: self._reload,
        }
        tasks: set[asyncio.Task[None]] = set()
        beside = asyncio.create_task(crew.meanwhile()) if crew.meanwhile else None
        with on_signals(self._stop, passed_on, at_once=lambda: self._signal(signal.SIGKILL)):
            watch = asyncio.create_task(self._watch())
            # One by itself first: what keeps it from starting would keep all of them.
            tasks.add(asyncio.create_task(self._keep(0)))
            await self._until_ready(1)
            if not self._stop.is_set():
                await self._check_limits()
                tasks |= {
                    asyncio.create_task(self._keep(number))
                    for number in range(1, len(crew.sockets))
                }
                await self._until_ready(len(crew.sockets))
            if not self._stop.is_set():
                crew.on_ready()
                crew.notifier.ready(f"serving with {len(crew.sockets)} processes")
            await self._stop.wait()
            crew.notifier.stopping(crew.drain_seconds)
            if beside is not None:
                beside.cancel()
            self._signal(signal.SIGTERM)
            # Theirs stay open until they have drained; with ours, clients would wait for nobody.
            for sock in {sock for sockets in crew.sockets for sock in sockets}:
                sock.close()
            await asyncio.wait(tasks)
            watch.cancel()
            await asyncio.wait({watch} if beside is None else {watch, beside})
        _log.info("server_stopped", extra={"processes": len(crew.sockets)})
        return self._failure or 0

    async def _keep(self, number: int) -> None:
        """Have one process running, again and again."""
        try:
            await self._restart(number)
        except Exception:  # noqa: BLE001 - the owner of this task reports its failure
            # Without this one nobody would start the process again, and nobody would know.
            _log.exception("server_supervision_failed", extra={"process_number": number})
            self._failure = 1
            self._stop.set()

    async def _restart(self, number: int) -> None:
        pause = _SHORTEST_PAUSE
        been_ready = False
        while not self._stop.is_set():
            try:
                one = await self._start(number)
            except OSError as error:
                if not been_ready:
                    raise
                # No process or no memory to be had just now: the others go on serving.
                facts = {"process_number": number, "error": str(error)}
                _log.error(
                    "server_process_start_failed", extra={**facts, "next_attempt_seconds": pause}
                )
                await self._unless_stopped(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            if self._stop.is_set():
                one.process.send_signal(signal.SIGTERM)
            code = await one.process.wait()
            del self._processes[number]
            await one.channel.close()
            if self._stop.is_set():
                return
            been_ready = been_ready or one.ready.is_set()
            facts = {"process_number": number, "pid": one.process.pid, "exit_code": code}
            if not been_ready:
                # It said why on standard error.
                self._failure = code if code > 0 else 1
                self._stop.set()
                return
            if one.served_for() >= _STABLE_SECONDS:
                pause = _SHORTEST_PAUSE
            _log.error("server_process_exited", extra={**facts, "next_attempt_seconds": pause})
            await self._unless_stopped(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _start(self, number: int) -> _Process:
        crew = self._crew
        reloads = self._reloads
        ours, theirs = socket.socketpair()
        descriptors = [sock.fileno() for sock in crew.sockets[number]]
        given = {"number": number, "sockets": descriptors, "control": theirs.fileno()}
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *crew.command,
                    env={**crew.environ, VARIABLE: json.dumps(given)},
                    pass_fds=[*descriptors, theirs.fileno()],
                    # A terminal's Ctrl-C is for us; they would take ours for the second one.
                    start_new_session=True,
                )
        except BaseException:
            ours.close()
            raise
        ours.settimeout(0)

        async def ready() -> None:
            one.heard_at = one.ready_at = time.monotonic()
            told = False
            # An operator may change it while we tell it.
            while told != self._paused:
                told = self._paused
                verb = "pause" if told else "resume"
                await one.channel.ask("obey", verb=verb, timeout=_QUESTION_SECONDS)
            if self._at_work:
                # Its predecessor carried operations out, which wait for it.
                await one.channel.ask("work", timeout=_QUESTION_SECONDS)
            one.ready.set()
            if self._reloads != reloads:
                # It may have read its files before they changed.
                os.kill(process.pid, signal.SIGHUP)

        async def alive() -> None:
            one.heard_at = time.monotonic()

        handlers: dict[str, Any] = {"ready": ready, "alive": alive, "everyone": self._everyone}
        one = _Process(number, process, await Channel.open(ours, handlers))
        self._processes[number] = one
        return one

    async def _everyone(
        self, question: str, given: dict[str, Any], patience: float
    ) -> list[dict[str, Any]]:
        """What each process says to a question of one of them."""
        if question == "work":
            self._at_work = True
        if question == "obey":
            verb = given["verb"]
            self._paused = verb == "pause" or (self._paused and verb != "resume")
            if verb == "drain":
                self._stop.set()
        asked = sorted(self._processes.values(), key=lambda one: one.number)

        async def ask(one: _Process) -> dict[str, Any]:
            found: dict[str, Any] = {"process": one.number, "pid": one.process.pid}
            try:
                found["answer"] = await one.channel.ask(question, timeout=patience, **given)
            except ChannelError as error:
                found["error"] = str(error)
            return found

        return await asyncio.gather(*(ask(one) for one in asked))

    async def _check_limits(self) -> None:
        """Warn where all pools together may want more than the database has."""
        try:
            limits = await self._processes[0].channel.ask("limits", timeout=_QUESTION_SECONDS)
        except (ChannelError, KeyError):
            return
        wanted = limits["max_size"] * len(self._crew.sockets)
        offered = limits["most"] - limits["reserved"]
        if wanted > offered:
            _log.warning(
                "pools_larger_than_database",
                extra={
                    "processes": len(self._crew.sockets),
                    "max_size": limits["max_size"],
                    "connections_wanted": wanted,
                    "connections_offered": offered,
                    "suggestion": "lower --max-size, which counts for each process",
                },
            )

    async def _watch(self) -> None:
        """End who is silent, so that it is started again; tell systemd that we are not."""
        while True:
            self._crew.notifier.alive()
            now = time.monotonic()
            for one in list(self._processes.values()):
                if one.ready.is_set() and now - one.heard_at > _LONGEST_SILENCE:
                    facts = {"process_number": one.number, "pid": one.process.pid}
                    _log.error("server_process_silent", extra=facts)
                    one.process.kill()
            seconds = self._crew.notifier.watchdog_seconds
            await asyncio.sleep(min(_LOOK_SECONDS, (seconds or 1.0) / 2))

    async def _until_ready(self, number: int) -> None:
        def ready() -> bool:
            return sum(one.ready.is_set() for one in self._processes.values()) >= number

        while not (self._stop.is_set() or ready()):
            await self._unless_stopped(0.02)

    async def _unless_stopped(self, seconds: float) -> None:
        stopped = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({stopped}, timeout=seconds)
        finally:
            stopped.cancel()

    def _hold(self, number: signal.Signals, *, paused: bool) -> None:
        self._paused = paused
        self._signal_ready(number)

    def _reload(self) -> None:
        self._reloads += 1
        self._signal_ready(signal.SIGHUP)

    def _signal_ready(self, number: signal.Signals) -> None:
        """Pass a signal on to those that handle it; it would end one that is only starting.

        A starting one reads its files by itself, and is told of a pause when it is ready.
        """
        for one in self._processes.values():
            if one.ready.is_set() and one.process.returncode is None:
                os.kill(one.process.pid, number)

    def _signal(self, number: signal.Signals) -> None:
        for one in self._processes.values():
            if one.process.returncode is None:
                os.kill(one.process.pid, number)
