"""What a recorded history promises."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from poolkeeper.testing.history import NEMESIS, RESOLVER, Event, History, HistoryError, Type


def ticks():
    """A clock that moves by a second each time it is read."""
    now = iter(range(1_000_000))
    return lambda: float(next(now))


def types(history):
    return [event.type for event in history.events]


@pytest.mark.asyncio
async def test_an_operation_is_an_invoke_and_its_completion():
    """With the times of both, and the value each had."""
    history = History(clock=ticks())
    async with history.operation(history.process(), "read", 1, deadline=2.0) as op:
        op.ok([1, 2], lsn=7)
    (operation,) = history.operations()
    assert types(history) == [Type.INVOKE, Type.OK]
    assert (operation.value, operation.result, operation.type) == (1, [1, 2], Type.OK)
    assert (operation.fact("deadline"), operation.fact("lsn"), operation.fact("x")) == (
        2.0,
        7,
        None,
    )
    assert operation.completion.time - operation.invoke.time == 1.0


@pytest.mark.asyncio
async def test_an_error_is_told_with_its_causes():
    """Drivers hide the reason of a lost connection one level down."""
    history = History()
    async with history.operation(history.process(), "insert", 1) as op:
        try:
            try:
                raise ConnectionResetError(104, "reset")
            except OSError as reset:
                raise RuntimeError("closed in the middle") from reset
        except RuntimeError as error:
            op.fail(error)
    error = history.events[-1].error
    assert error == "RuntimeError: closed in the middle <- ConnectionResetError: [Errno 104] reset"


@pytest.mark.asyncio
async def test_a_process_that_does_not_know_is_retired():
    """Its operation may still take effect: a later one of the same process would overlap it."""
    history = History()
    process = history.process()
    async with history.operation(process, "insert", 1) as op:
        op.info("reset")
    assert history.is_retired(process)
    with pytest.raises(HistoryError, match=r"does not know.*Suggestion: go on as"):
        async with history.operation(process, "insert", 2):
            pass
    assert len(history) == 2
    assert history.process() != process


@pytest.mark.asyncio
async def test_a_process_that_was_told_goes_on():
    """Both ok and fail are certain."""
    history = History()
    process = history.process()
    for end in ("ok", "fail", "ok"):
        async with history.operation(process, "insert", end) as op:
            getattr(op, end)()
    assert [operation.type for operation in history.operations()] == ["ok", "fail", "ok"]


@pytest.mark.asyncio
async def test_a_cancelled_operation_is_unknown_and_the_cancellation_goes_on():
    """Nobody was told what became of it."""
    history = History()
    began = asyncio.Event()

    async def client():
        async with history.operation(history.process(), "insert", 1):
            began.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(client())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert types(history) == [Type.INVOKE, Type.INFO]
    assert history.events[-1].error.startswith("CancelledError")


@pytest.mark.asyncio
async def test_an_exception_nobody_expected_is_unknown_and_goes_on():
    """A mistake of the test must not look like an answer of the database."""
    history = History()
    with pytest.raises(ZeroDivisionError):
        async with history.operation(history.process(), "insert", 1):
            raise ZeroDivisionError
    assert types(history) == [Type.INVOKE, Type.INFO]


@pytest.mark.asyncio
async def test_what_was_said_stands_even_if_the_block_fails_afterwards():
    """An acknowledged write is not unknown because a client tripped later."""
    history = History()
    with pytest.raises(ZeroDivisionError):
        async with history.operation(history.process(), "insert", 1) as op:
            op.ok()
            raise ZeroDivisionError
    assert types(history) == [Type.INVOKE, Type.OK]


@pytest.mark.asyncio
async def test_a_block_that_says_nothing_is_a_mistake():
    """Recorded as unknown, and told to whoever wrote it."""
    history = History()
    with pytest.raises(HistoryError, match="did not say"):
        async with history.operation(history.process(), "insert", 1):
            pass
    assert types(history) == [Type.INVOKE, Type.INFO]


@pytest.mark.asyncio
async def test_nobody_says_twice_how_an_operation_ended():
    """The first word counts."""
    history = History()
    async with history.operation(history.process(), "insert", 1) as op:
        op.ok()
        with pytest.raises(HistoryError, match="say once"):
            op.fail()
    assert types(history) == [Type.INVOKE, Type.OK]


@pytest.mark.asyncio
async def test_a_process_does_one_thing_at_a_time():
    """Two clients under one number could not be told apart."""
    history = History()
    process = history.process()
    async with history.operation(process, "insert", 1) as op:
        with pytest.raises(HistoryError, match="one process per client"):
            await history.operation(process, "insert", 2).__aenter__()
        op.ok()
    assert len(history) == 2


@pytest.mark.asyncio
async def test_fifty_clients_at_once_are_told_apart():
    """Operations overlap; each invoke finds its own completion."""
    history = History()

    async def client():
        process = history.process()
        for number in range(5):
            async with history.operation(process, "insert", [process, number]) as op:
                await asyncio.sleep(0)
                op.ok()

    await asyncio.gather(*(client() for _ in range(50)))
    operations = history.operations()
    assert len(operations) == 250
    assert all(operation.value == operation.result for operation in operations)
    assert any(
        not first.ended_before(second) and not second.ended_before(first)
        for first, second in itertools.pairwise(operations)
    )


@pytest.mark.asyncio
async def test_a_history_reads_back_as_it_was_written(tmp_path):
    """Seed, facts, faults, verdicts and operations that never ended."""
    history = History(seed=17)
    async with history.operation(history.process(), "insert", 1, deadline=5) as op:
        history.fault("crash")
        op.info("lost", transaction="id")
    history.heal(after=0.5)
    history.verdict(history.operations()[0], committed=True)
    await history.operation(history.process(), "insert", 2).__aenter__()
    history.write(tmp_path / "history.jsonl")
    again = History.read(tmp_path / "history.jsonl")
    assert again.seed == 17
    assert [event.to_json() for event in again.events] == [e.to_json() for e in history.events]
    assert [o.type for o in again.operations()] == [Type.INFO, Type.INFO]
    assert again.operations()[1].completion is None
    assert [event.value for event in again.notes(NEMESIS, "fault")] == ["crash"]
    assert [event.value["of"] for event in again.notes(RESOLVER)] == [1]
    assert again.process() == 2


@pytest.mark.asyncio
async def test_a_sink_has_every_event_at_once(tmp_path):
    """A killed process leaves what it knew."""
    path = tmp_path / "history.jsonl"
    with path.open("w", encoding="utf-8") as sink:
        history = History(seed=1, sink=sink)
        async with history.operation(history.process(), "insert", 1) as op:
            assert [event.type for event in History.read(path).events] == ["info", "invoke"]
            op.ok()
            assert [event.type for event in History.read(path).events] == ["info", "invoke", "ok"]


def test_facts_cannot_take_the_name_of_a_field():
    """They stand side by side in a line of the file."""
    with pytest.raises(HistoryError, match="cannot be the name of a fact"):
        History().fault("crash", time=3)


@pytest.mark.parametrize(
    "lines",
    [
        ["not json"],
        ["[]"],
        ['{"index": 0, "process": 0, "type": "invoke"}'],
        ['{"index": 0, "process": 0, "type": "maybe", "f": "insert"}'],
        ['{"index": 0, "process": 0, "type": "ok", "f": "insert"}'],
        ['{"index": 1, "process": 0, "type": "invoke", "f": "insert"}'],
        [
            '{"index": 0, "process": 0, "type": "invoke", "f": "insert"}',
            '{"index": 1, "process": 0, "type": "invoke", "f": "insert"}',
        ],
        [
            '{"index": 0, "process": 0, "type": "invoke", "f": "insert"}',
            '{"index": 1, "process": 0, "type": "info", "f": "insert"}',
            '{"index": 2, "process": 0, "type": "invoke", "f": "insert"}',
        ],
    ],
    ids=[
        "no json", "no object", "no f", "no type", "no invoke", "a line is missing",
        "two at once", "a retired process goes on",
    ],
)  # fmt: skip
def test_what_is_no_history_is_not_judged(tmp_path, lines):
    """A checker that reads half a file would find nothing wrong with the other half."""
    path = tmp_path / "history.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(HistoryError, match="Suggestion: "):
        History.read(path)


def test_an_event_is_one_line():
    """Whatever its value holds."""
    event = Event(0, 1, Type.INVOKE, "insert", "two\nlines", 0.5, None, {"fact": "a\nb"})
    assert "\n" not in event.to_json()
    assert Event.from_json(event.to_json()) == event
