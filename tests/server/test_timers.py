"""Deadlines that share one timer of the event loop."""

import asyncio

import pytest

from poolkeeper.server.timers import Timers


@pytest.mark.asyncio
async def test_a_call_comes_at_its_time_and_not_before():
    """Within what the shared timer promises."""
    loop = asyncio.get_running_loop()
    called = loop.create_future()
    when = loop.time() + 0.05
    Timers().call_at(when, lambda: called.set_result(loop.time()))
    assert await called >= when


@pytest.mark.asyncio
async def test_calls_come_in_the_order_of_their_times():
    """Also when the first to be set is the last to come, and one comes while others are open."""
    loop = asyncio.get_running_loop()
    timers, order, last = Timers(), [], loop.create_future()
    timers.call_later(0.2, lambda: last.set_result(None))
    timers.call_later(0.1, lambda: order.append("second"))
    timers.call_later(0.01, lambda: order.append("first"))
    await last
    assert order == ["first", "second"]


@pytest.mark.asyncio
async def test_a_cancelled_call_never_comes():
    """Not even when another call, due at the same moment, cancels it."""
    loop = asyncio.get_running_loop()
    timers, called, last = Timers(), [], loop.create_future()
    when = loop.time() + 0.02
    others = []
    timers.call_at(when, lambda: [other.cancel() for other in others])
    others.append(timers.call_at(when, lambda: called.append("cancelled by the first")))
    timers.call_at(when, lambda: called.append("cancelled at once")).cancel()
    timers.call_later(0.1, lambda: last.set_result(None))
    await last
    assert called == []


@pytest.mark.asyncio
async def test_an_error_in_one_call_does_not_keep_the_others_from_coming():
    """The event loop hears of it, as with timers of its own."""
    loop = asyncio.get_running_loop()
    errors, last = [], loop.create_future()
    loop.set_exception_handler(lambda _loop, facts: errors.append(facts["exception"]))
    timers, when = Timers(), loop.time() + 0.02
    mistake = ZeroDivisionError("mistake")

    def fail():
        raise mistake

    timers.call_at(when, fail)
    timers.call_at(when, lambda: last.set_result(None))
    await last
    assert errors == [mistake]


@pytest.mark.asyncio
async def test_a_call_can_be_set_from_within_a_call():
    """What is due later than now waits for its own time."""
    loop = asyncio.get_running_loop()
    timers, last = Timers(), loop.create_future()
    timers.call_later(
        0.01, lambda: timers.call_later(0.01, lambda: last.set_result("the inner one"))
    )
    assert await last == "the inner one"
