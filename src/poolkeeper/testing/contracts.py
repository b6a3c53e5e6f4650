"""Promises that every driver and every keeper must hold, as test classes to inherit from.

Write a subclass whose name starts with ``Test`` and give it the one fixture it asks for::

    class TestMyDriver(DriverContract):
        @pytest_asyncio.fixture
        async def subject(self): ...
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import pytest

from poolkeeper.core.slots import Slot
from poolkeeper.drivers.base import Condition
from poolkeeper.exceptions import PoolUsageError
from poolkeeper.session_policy import ROLLBACK_ONLY, ResetPolicy, StatementNotes

if TYPE_CHECKING:
    from collections.abc import Callable

    from poolkeeper.drivers.base import Driver, Session
    from poolkeeper.keepers import Keeper

PATIENCE = 20.0
"""Seconds after which a check gives up on something that should happen at once."""


class NoOwner:
    """A pool that has nothing else to tell."""

    def _drop_statement_cache(self) -> None: ...

    def _drop_type_cache(self) -> None: ...


async def eventually(happened: Callable[[], Any]) -> None:
    """Wait until ``happened()`` is true; it may be a coroutine function.

    Raises:
        TimeoutError: It never was.
    """
    async with asyncio.timeout(PATIENCE):
        while True:
            answer = happened()
            if asyncio.iscoroutine(answer):
                answer = await answer
            if answer:
                return
            await asyncio.sleep(0.005)


class DriverSubject(ABC):
    """A driver under test, and a second view of its server.

    Attributes:
        driver: Made with ``NoOwner()`` and ``notes``.
        slow: A statement that runs for longer than any test.
    """

    driver: Driver
    slow = "SELECT pg_sleep(60)"

    def __init__(self) -> None:
        self.notes = StatementNotes()
        self.opened: list[Session] = []

    @abstractmethod
    async def sessions(self) -> int:
        """How many sessions of this driver the server has."""

    @abstractmethod
    async def terminate(self, session: Session) -> None:
        """Let the server end a session, as an administrator would."""

    async def connect(self) -> Session:
        """Open a session."""
        session = await self.driver.connect(PATIENCE)
        self.opened.append(session)
        return session

    def abort_all(self) -> None:
        """Abort every session a test left open."""
        for session in self.opened:
            session.abort()

    async def running(self, session: Session) -> None:
        """Return when the server has begun with a statement of the session."""
        del session
        await asyncio.sleep(0)


def lend(session: Session) -> Any:
    """Lend a session as a pool would."""
    slot = Slot(1, 0)
    slot.connection = session
    return session.lend(slot)


@pytest.mark.asyncio
class DriverContract:
    """What the pool relies on; the fixture ``subject`` yields a ``DriverSubject``."""

    async def test_a_closed_session_is_gone_from_the_server(self, subject: DriverSubject) -> None:
        """Close says goodbye; the server keeps nothing."""
        session = await subject.connect()
        assert await subject.sessions() == 1
        assert session.server_version
        await session.close()
        assert session.is_closed()
        await eventually(lambda: _none(subject))

    async def test_abort_is_immediate_and_may_be_repeated(self, subject: DriverSubject) -> None:
        """No goodbye, no waiting, no exception, no callback."""
        session = await subject.connect()
        calls: list[int] = []
        session.on_lost(lambda: calls.append(1))
        session.abort()
        session.abort()
        assert session.is_closed()
        await eventually(lambda: _none(subject))
        assert calls == []

    async def test_abort_ends_a_statement_in_flight(self, subject: DriverSubject) -> None:
        """Whoever waits for an answer gets an error, not silence."""
        session = await subject.connect()
        task = asyncio.ensure_future(lend(session).execute(subject.slow))
        await subject.running(session)
        session.abort()
        async with asyncio.timeout(PATIENCE):
            results = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(results[0], Exception)

    async def test_a_living_session_answers_its_probe(self, subject: DriverSubject) -> None:
        """As often as asked, and between two borrowers."""
        session = await subject.connect()
        await session.probe()
        session.take_back(lend(session))
        await session.probe()
        await session.close()

    async def test_a_probe_of_a_dead_session_fails(self, subject: DriverSubject) -> None:
        """Also when nobody has noticed the death yet."""
        session = await subject.connect()
        await subject.terminate(session)
        with pytest.raises(Exception, match=r".") as caught:
            await session.probe()
        assert not isinstance(caught.value, AssertionError)
        session.abort()

    async def test_the_loss_of_an_idle_connection_is_reported_once(
        self, subject: DriverSubject
    ) -> None:
        """At once, without being asked."""
        session = await subject.connect()
        calls: list[int] = []
        session.on_lost(lambda: calls.append(1))
        await subject.terminate(session)
        await eventually(lambda: calls)
        assert session.is_closed() or session.take_back(lend(session)) is Condition.CLOSED
        session.abort()
        await asyncio.sleep(0)
        assert calls == [1]

    @pytest.mark.parametrize("working", [False, True], ids=["resting", "working"])
    async def test_a_borrower_meets_the_loss_of_its_connection(
        self, subject: DriverSubject, *, working: bool
    ) -> None:
        """The statement in flight or the next one fails, and the release says that it is gone."""
        session = await subject.connect()
        calls: list[int] = []
        session.on_lost(lambda: calls.append(1))
        lease = lend(session)
        if working:
            task = asyncio.ensure_future(lease.execute(subject.slow))
            await subject.running(session)
            await subject.terminate(session)
        else:
            await subject.terminate(session)
            task = asyncio.ensure_future(lease.execute("SELECT 1"))
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait({task})
        assert isinstance(task.exception(), Exception)
        assert session.take_back(lease) is Condition.CLOSED
        session.abort()
        await asyncio.sleep(0)
        assert len(calls) <= 1

    @pytest.mark.parametrize(
        ("statements", "condition"),
        [
            ([], Condition.CLEAN),
            (["SELECT 1"], Condition.CLEAN),
            (["BEGIN", "SELECT 1", "COMMIT"], Condition.CLEAN),
            (["BEGIN"], Condition.UNFINISHED),
            (["SET search_path = public"], Condition.DIRTY),
            (["LISTEN a"], Condition.DIRTY),
            (["SET SESSION AUTHORIZATION DEFAULT"], Condition.DIRTY),
            (["SELECT pg_advisory_lock(1)"], Condition.DIRTY),
            (["PREPARE p AS SELECT 1"], Condition.PREPARED),
            (["BEGIN", "SET ROLE NONE"], Condition.DIRTY),
        ],
        ids=lambda value: "; ".join(value) if isinstance(value, list) else value.value,
    )
    async def test_the_condition_tells_what_has_to_be_cleaned(
        self, subject: DriverSubject, statements: list[str], condition: Condition
    ) -> None:
        """What the borrower ran decides, and cleaning ends in a session that is clean again."""
        session = await subject.connect()
        lease = lend(session)
        for statement in statements:
            await lease.execute(statement)
        assert session.take_back(lease) is condition
        recipe = ResetPolicy("auto").recipe(condition)
        if recipe is not None:
            await session.clean(recipe)
        assert session.take_back(lend(session)) is Condition.CLEAN
        await session.close()

    async def test_a_session_somebody_works_on_is_busy(self, subject: DriverSubject) -> None:
        """Another task's statement must not meet the next borrower's."""
        session = await subject.connect()
        lease = lend(session)
        task = asyncio.ensure_future(lease.execute(subject.slow))
        await subject.running(session)
        assert session.take_back(lease) is Condition.BUSY
        session.abort()
        await asyncio.gather(task, return_exceptions=True)

    async def test_a_cancelled_statement_leaves_a_usable_session(
        self, subject: DriverSubject
    ) -> None:
        """Whether it winds down before or after the release."""
        session = await subject.connect()
        lease = lend(session)
        task = asyncio.ensure_future(lease.execute(subject.slow))
        await subject.running(session)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert session.take_back(lease) in {
            Condition.CLEAN,
            Condition.UNFINISHED,
            Condition.DIRTY,
        }
        await session.clean(ROLLBACK_ONLY)
        lease = lend(session)
        await lease.execute("SELECT 1")
        assert session.take_back(lease) is Condition.CLEAN
        await session.close()

    async def test_a_lease_refuses_every_use_after_its_release(
        self, subject: DriverSubject
    ) -> None:
        """It says what happened and what to do, and sends nothing."""
        session = await subject.connect()
        lease = lend(session)
        session.take_back(lease)
        with pytest.raises(PoolUsageError, match=r"released back to the pool\. Suggestion: "):
            await lease.execute("SELECT 1")
        assert session.take_back(lend(session)) is Condition.CLEAN
        await session.close()

    async def test_the_last_statement_of_a_borrower_is_known(self, subject: DriverSubject) -> None:
        """Leak reports name it."""
        session = await subject.connect()
        lease = lend(session)
        await lease.execute("SELECT 1")
        assert session.describe_use(lease) == "SELECT 1"
        await session.close()

    async def test_a_cancelled_connect_leaves_nothing_open(self, subject: DriverSubject) -> None:
        """At whichever step of dialling and login the cancellation comes."""
        turns = 0
        while True:
            task = asyncio.ensure_future(subject.connect())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            (result,) = await asyncio.gather(task, return_exceptions=True)
            if not isinstance(result, BaseException):
                result.abort()
                break
            # Real logins spend most turns waiting for the server, which has a pace of its own.
            turns = turns * 2 + 1
            assert turns < 1_000_000
        await eventually(lambda: _none(subject))


async def _none(subject: DriverSubject) -> bool:
    return await subject.sessions() == 0


@pytest.mark.asyncio
class KeeperContract:
    """One start and stop for every background duty.

    The fixture ``keeper`` gives a ``Keeper`` not started, on an open pool, whose ``interval`` is
    short.
    """

    async def test_it_runs_between_start_and_stop(self, keeper: Keeper) -> None:
        """And only then."""
        seen = [keeper.running]
        keeper.start()
        seen.append(keeper.running)
        await keeper.stop()
        seen.append(keeper.running)
        assert seen == [False, True, False]

    async def test_starting_twice_starts_one(self, keeper: Keeper) -> None:
        """The second start changes nothing."""
        before = asyncio.all_tasks()
        keeper.start()
        keeper.start()
        assert len(asyncio.all_tasks() - before) == 1
        await keeper.stop()
        assert asyncio.all_tasks() - before == set()

    async def test_stopping_before_starting_does_nothing(self, keeper: Keeper) -> None:
        """And it can be started afterwards."""
        await keeper.stop()
        keeper.start()
        assert keeper.running
        await keeper.stop()

    async def test_stops_may_run_concurrently(self, keeper: Keeper) -> None:
        """All of them return, and none before the duty has ended."""
        before = asyncio.all_tasks()
        keeper.start()
        await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(keeper.stop() for _ in range(5)))
        assert asyncio.all_tasks() - before == set()

    async def test_it_can_be_started_again(self, keeper: Keeper) -> None:
        """As often as one likes."""
        for _ in range(3):
            keeper.start()
            await asyncio.sleep(0)
            assert keeper.running
            await keeper.stop()
            assert not keeper.running

    async def test_a_cancelled_stop_does_not_bring_it_back(self, keeper: Keeper) -> None:
        """The duty ends all the same."""
        before = asyncio.all_tasks()
        keeper.start()
        await asyncio.sleep(0)
        stopping = asyncio.ensure_future(keeper.stop())
        await asyncio.sleep(0)
        stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)
        await keeper.stop()
        await eventually(lambda: not asyncio.all_tasks() - before)
        assert not keeper.running

    async def test_it_performs_again_and_again(self, keeper: Keeper) -> None:
        """Once per interval, until it is stopped."""
        performed = asyncio.Event()
        count = 0
        original = keeper.perform

        async def counted() -> None:
            nonlocal count
            await original()
            count += 1
            if count == 3:
                performed.set()

        keeper.perform = counted  # type: ignore[method-assign]
        keeper.start()
        async with asyncio.timeout(PATIENCE):
            await performed.wait()
        await keeper.stop()
        seen = count
        await asyncio.sleep(keeper.interval * 2)
        assert count == seen
