"""What a schedule promises: its seed decides everything, and it leaves the network whole."""

from __future__ import annotations

import asyncio
from itertools import islice

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolkeeper.testing.schedule import FAULTS, Schedule, Step

QUICKLY = {"every": (0.0, 0.01), "lasting": (0.0, 0.01)}


@given(st.integers(), st.integers())
def test_the_same_seed_gives_the_same_sequence(seed, other) -> None:
    """In every iteration, and another seed gives another."""
    schedule = Schedule(seed)
    steps = list(islice(schedule, 20))
    assert steps == list(islice(schedule, 20)) == list(islice(Schedule(seed), 20))
    if abs(seed) != abs(other):
        assert steps != list(islice(Schedule(other), 20))


@given(st.integers())
def test_steps_keep_to_what_was_asked_for(seed) -> None:
    """Delays, durations, names and shares."""
    schedule = Schedule(seed, every=(0.2, 0.3), lasting=(1.0, 2.0))
    for step in islice(schedule, 50):
        assert 0.2 <= step.delay <= 0.3
        assert 1.0 <= step.lasting <= 2.0
        assert step.fault in FAULTS
        assert 0 < step.share <= 1


def test_every_fault_comes_up() -> None:
    """Sooner or later."""
    assert {step.fault for step in islice(Schedule(1), 500)} == set(FAULTS)


@given(st.floats(0, 1, exclude_min=True), st.integers(0, 2**32), st.integers(0, 30))
def test_a_step_hits_its_share_of_the_links(share, pick, count) -> None:
    """At least one where there is one, the same ones each time, oldest first."""
    step = Step(0.0, "reset", 0.0, share, pick)
    links = list(range(count))
    chosen = step.choose(links)
    assert chosen == step.choose(links) == sorted(set(chosen))
    assert len(chosen) == min(count, max(1, round(share * count)))


def test_flapping_is_regular() -> None:
    """Up, then down, and so on."""
    steps = list(islice(Schedule.flapping(up=0.5, down=0.25), 3))
    assert [(step.delay, step.fault, step.lasting) for step in steps] == [(0.5, "cut", 0.25)] * 3


def test_a_schedule_without_faults_is_refused() -> None:
    """It says what to do."""
    with pytest.raises(ValueError, match="Suggestion: "):
        Schedule(1, faults={})


async def is_whole(proxy) -> bool:
    connection = await asyncpg.connect(proxy.url)
    try:
        return await connection.fetchval("SELECT 1") == 1
    finally:
        await connection.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_comes_and_goes(fault, fault_proxy) -> None:
    """While it is there something is wrong for a connection; afterwards nothing is."""
    connection = await asyncpg.connect(fault_proxy.url)
    schedule = Schedule(1, faults={fault: FAULTS[fault]}, every=(0, 0), lasting=(30, 30))
    begun: list[Step] = []
    there = asyncio.Event()

    def note(step) -> None:
        begun.append(step)
        there.set()

    running = asyncio.ensure_future(schedule.run(fault_proxy, steps=1, begun=note))
    await there.wait()
    assert [step.fault for step in begun] == [fault]
    wrong = False
    try:
        if fault == "refuse":
            wrong = not await connection.fetchval("SELECT 0")
            with pytest.raises(ConnectionRefusedError):
                await asyncpg.connect(fault_proxy.url)
        else:
            begin = asyncio.get_running_loop().time()
            await connection.fetchval("SELECT 1", timeout=0.5)
            wrong = asyncio.get_running_loop().time() - begin >= 0.04
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        wrong = True
    assert wrong
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert await is_whole(fault_proxy)
    connection.terminate()


@pytest.mark.asyncio
async def test_faults_of_ones_own_are_called_and_awaited(fault_proxy) -> None:
    """With the proxy and the links chosen; as many as there are steps."""
    calls: list[object] = []

    async def waiting(proxy, links) -> None:
        await asyncio.sleep(0)
        calls.append(proxy)

    schedule = Schedule(3, faults={"plain": lambda *seen: calls.append(seen), "a": waiting},
                        **QUICKLY)  # fmt: skip
    await schedule.run(fault_proxy, steps=20)
    assert len(calls) == 20
    assert fault_proxy in calls
    assert (fault_proxy, []) in calls


@pytest.mark.asyncio
async def test_chaos_leaves_the_network_whole(fault_proxy) -> None:
    """Whatever came, under clients that go on trying."""
    stop = asyncio.Event()
    done = 0

    async def client() -> None:
        nonlocal done
        while not stop.is_set():
            try:
                connection = await asyncpg.connect(fault_proxy.url, timeout=0.2)
                try:
                    await connection.fetchval("SELECT 1", timeout=0.2)
                    done += 1
                finally:
                    connection.terminate()
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                await asyncio.sleep(0.001)

    clients = [asyncio.ensure_future(client()) for _ in range(5)]
    await Schedule(7, every=(0.01, 0.05), lasting=(0.01, 0.05)).run(fault_proxy, steps=40)
    assert await is_whole(fault_proxy)
    stop.set()
    await asyncio.gather(*clients)
    assert done > 0


def test_the_representation_tells_the_seed() -> None:
    """A failing run can be repeated."""
    assert repr(Schedule(42)) == f"<Schedule seed=42, {len(FAULTS)} faults>"
