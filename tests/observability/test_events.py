import asyncio
import dataclasses
import json
import logging

import pytest

from poolkeeper import observability
from poolkeeper.exceptions import PoolConfigurationError
from poolkeeper.observability import events
from poolkeeper.observability.events import Event, EventBus, PoolClosed, PoolInitialized

CLOSED = PoolClosed(
    pool="shop", elapsed_seconds=0.5, connections_closed=3, connections_terminated=1
)

KINDS = sorted(
    (kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)),
    key=lambda kind: getattr(kind, "name", ""),
)
KINDS.remove(Event)


def example(kind):
    """An event of that kind; the text fields hold text, the others a number."""
    values = {
        field.name: "text" if "str" in field.type else 1 for field in dataclasses.fields(kind)
    }
    return kind(**values)


def test_every_name_that_people_search_for_is_there():
    """Log searches and alerts are written on these names."""
    assert [kind.name for kind in KINDS] == [
        "connection_leak_resolved",
        "connection_leak_suspected",
        "connection_recycled",
        "database_connection_lost",
        "database_reconnected",
        "failover_detected",
        "operation_claimed",
        "operation_ended",
        "operation_resumed",
        "pool_closed",
        "pool_exhausted",
        "pool_initialized",
        "pool_utilization_high",
        "reconnect_attempt",
        "transaction_resolved",
    ]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_event_is_a_fact_that_fits_into_json(kind):
    """Nobody can change an event, and its dictionary survives JSON."""
    event = example(kind)
    assert event.level in {"debug", "info", "warning", "error"}
    assert event.to_dict()["pool"] == "text"
    assert json.loads(json.dumps(event.to_dict())) == event.to_dict()
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.pool = "other"
    assert not hasattr(event, "__dict__")


def test_initialized_event_masks_the_password_it_was_given():
    """An event cannot carry the password, not even by mistake of its maker."""
    event = PoolInitialized(
        pool="shop",
        min_size=1,
        max_size=2,
        connections=1,
        elapsed_seconds=0.1,
        database_url="postgresql://app:s3cret@db.example/shop",
    )
    assert "s3cret" not in repr(event)
    assert "app" in event.database_url
    assert "db.example/shop" in event.database_url


def test_listeners_hear_every_event_in_the_order_they_came():
    bus, heard = EventBus(), []
    bus.add(lambda event: heard.append(("first", event)))
    bus.add(lambda event: heard.append(("second", event)))
    bus.emit(CLOSED)
    assert heard == [("first", CLOSED), ("second", CLOSED)]


def test_listener_added_twice_hears_once_and_removed_hears_nothing():
    bus, heard = EventBus(), []
    bus.add(heard.append)
    bus.add(heard.append)
    bus.emit(CLOSED)
    assert heard == [CLOSED]
    bus.remove(heard.append)
    bus.remove(heard.append)
    bus.emit(CLOSED)
    assert heard == [CLOSED]


@pytest.mark.parametrize("error", [ValueError("boom"), asyncio.CancelledError()], ids=repr)
def test_failing_listener_is_reported_and_harms_nobody(error, caplog):
    """The pool and the other listeners do not notice; the log and the count do."""
    bus, heard = EventBus(), []

    def broken(_):
        raise error

    bus.add(broken)
    bus.add(heard.append)
    bus.emit(CLOSED)
    assert heard == [CLOSED]
    assert bus.listener_failures == 1
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "pool_closed" in record.message
    assert record.exc_info[1] is error


def test_request_to_end_the_process_passes_through():
    bus = EventBus()

    def interrupted(_):
        raise KeyboardInterrupt

    bus.add(interrupted)
    with pytest.raises(KeyboardInterrupt):
        bus.emit(CLOSED)


def test_listener_may_leave_while_it_is_called():
    bus, heard = EventBus(), []

    def once(event):
        heard.append(event)
        bus.remove(once)

    bus.add(once)
    bus.add(heard.append)
    bus.emit(CLOSED)
    bus.emit(CLOSED)
    assert len(heard) == 3


def test_coroutine_listener_is_refused_with_advice():
    """It would never be awaited; better said at once than lost in silence."""

    async def listener(event): ...

    with pytest.raises(PoolConfigurationError, match="Suggestion: pass a plain function"):
        EventBus().add(listener)


def test_every_event_can_be_imported_from_the_package():
    for kind in (Event, *KINDS):
        assert getattr(observability, kind.__name__) is kind
        assert kind.__name__ in observability.__all__
