"""The small pure functions: backoff, sizing, availability, life cycle, legal moves."""

from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from poolkeeper.core.availability import (
    HIGH_UTILIZATION,
    RECENT_FAILURE_SECONDS,
    SLOW_PROBE_SECONDS,
    Availability,
    Evidence,
    judge,
)
from poolkeeper.core.backoff import Backoff
from poolkeeper.core.lifecycle import NEXT, Phase, advance
from poolkeeper.core.sizing import connections_to_open, expected_wait
from poolkeeper.core.slots import CLOSED, CONNECTING, LEGAL, Slot, SlotState
from poolkeeper.exceptions import InvariantViolated

seconds = st.floats(0.001, 100.0)
counts = st.integers(0, 60)
ages = st.none() | st.floats(0.0, 1e6)

# Backoff


@given(
    initial=seconds, factor=st.floats(1.0, 100.0), failures=st.integers(1, 80), seed=st.integers()
)
def test_a_delay_is_between_zero_and_its_doubling_ceiling(initial, factor, failures, seed):
    """The n-th delay is at most initial * 2**n and never more than the maximum."""
    maximum = initial * factor
    backoff = Backoff(initial, maximum, Random(seed))
    for number in range(failures):
        assert 0.0 <= backoff.next_delay() <= min(maximum, initial * 2.0**number)
    assert backoff.attempts == failures


def test_an_outage_of_days_does_not_overflow():
    """At one attempt a second, 2**n leaves the floats after 17 minutes."""
    backoff = Backoff(0.05, 1.0, Random(1))
    for _ in range(100_000):
        assert backoff.next_delay() <= 1.0


def test_delays_are_spread_over_the_whole_range():
    """Full jitter: clients that failed together do not come back together."""
    backoff = Backoff(1.0, 1.0, Random(1))
    delays = [backoff.next_delay() for _ in range(1000)]
    assert min(delays) < 0.05
    assert max(delays) > 0.95
    assert 0.45 < sum(delays) / len(delays) < 0.55


def test_a_success_starts_the_backoff_anew():
    """The first delay after it is a short one again."""
    backoff = Backoff(0.05, 1.0, Random(1))
    for _ in range(20):
        backoff.next_delay()
    backoff.reset()
    assert backoff.next_delay() <= 0.05


# Sizing


@given(
    min_size=counts,
    max_size=counts,
    total=counts,
    leaving=counts,
    waiting=counts,
    coming=counts,
    connecting=counts,
    window=counts,
)
def test_opening_never_exceeds_room_window_or_need(
    min_size, max_size, total, leaving, waiting, coming, connecting, window
):
    """Opens what is needed as far as room and slow start allow; exactly that."""
    number = connections_to_open(
        min_size=min_size,
        max_size=max_size,
        total=total,
        leaving=leaving,
        waiting=waiting,
        coming=coming,
        connecting=connecting,
        window=window,
    )
    room, free_window = max_size - total, window - connecting
    need = max(waiting - coming, min_size - (total - leaving))
    assert number >= 0
    if number:
        assert number <= room
        assert number <= free_window
        assert number <= need
    else:
        assert room <= 0 or free_window <= 0 or need <= 0
    if number < need:
        assert number == max(0, min(room, free_window))


@given(ahead=counts, max_size=st.integers(1, 60), mean_use=seconds)
def test_the_expected_wait_grows_with_the_queue_and_shrinks_with_the_pool(
    ahead, max_size, mean_use
):
    """A full pool moves its queue by max_size places per mean use."""
    wait = expected_wait(ahead=ahead, max_size=max_size, mean_use=mean_use)
    assert wait > 0.0
    assert wait < expected_wait(ahead=ahead + 1, max_size=max_size, mean_use=mean_use)
    assert wait > expected_wait(ahead=ahead, max_size=max_size + 1, mean_use=mean_use)
    whole_pool = expected_wait(ahead=max_size - 1, max_size=max_size, mean_use=mean_use)
    assert whole_pool == pytest.approx(mean_use)


# Availability


@given(
    st.builds(
        Evidence,
        down_since=ages,
        connected=counts,
        min_size=counts,
        used_fraction=st.floats(0.0, 1.0),
        last_failure_age=ages,
        probe_latency=st.none() | st.floats(0.0, 5.0),
    )
)
@example(Evidence(None, 2, 2, HIGH_UTILIZATION, RECENT_FAILURE_SECONDS, SLOW_PROBE_SECONDS))
@example(Evidence(None, 2, 2, 0.0, None, None))
def test_anything_less_than_up_comes_with_its_reasons(evidence):
    """Down if and only if no connection is left; degraded once per thing that is wrong."""
    word, reasons = judge(evidence)
    if evidence.down_since is not None:
        assert word is Availability.DOWN
        assert len(reasons) == 1
        return
    age, latency = evidence.last_failure_age, evidence.probe_latency
    wrong = [
        evidence.connected < evidence.min_size,
        evidence.used_fraction > HIGH_UTILIZATION,
        latency is not None and latency > SLOW_PROBE_SECONDS,
        age is not None and age < RECENT_FAILURE_SECONDS,
    ]
    assert len(reasons) == sum(wrong)
    assert word is (Availability.DEGRADED if any(wrong) else Availability.UP)
    assert all(reasons)


# Life cycle and legal moves


@given(st.lists(st.sampled_from(Phase)))
def test_life_goes_forward_only(path):
    """A phase is never entered twice, and an impossible step changes nothing."""
    order = list(Phase)
    current = Phase.NEW
    for target in path:
        if target in NEXT[current]:
            assert order.index(target) > order.index(current)
            current = advance(current, target)
            assert current is target
        else:
            with pytest.raises(InvariantViolated, match=f"from {current.name} to {target.name}"):
                advance(current, target)


def reachable(start, moves):
    seen, frontier = {start}, [start]
    while frontier:
        new = moves[frontier.pop()] - seen
        seen |= new
        frontier += new
    return seen


def test_every_phase_and_every_slot_state_can_be_entered_and_ends():
    """No state without an arrow to it, and none that cannot reach the end."""
    assert reachable(CONNECTING, LEGAL) == set(SlotState) == set(LEGAL)
    assert reachable(Phase.NEW, NEXT) == set(Phase) == set(NEXT)
    assert all(CLOSED in reachable(state, LEGAL) for state in SlotState)
    assert all(Phase.CLOSED in reachable(phase, NEXT) for phase in Phase)
    assert LEGAL[CLOSED] == NEXT[Phase.CLOSED] == frozenset()


@pytest.mark.parametrize("state", SlotState)
@pytest.mark.parametrize("target", SlotState)
def test_a_slot_moves_by_the_table_only(state, target):
    """What the table does not list is refused and leaves the slot as it was."""
    slot = Slot(7, generation=0)
    slot.state = state
    if target in LEGAL[state]:
        slot.move(target)
        assert slot.state is target
    else:
        with pytest.raises(InvariantViolated, match=f"slot 7 .*{state.name} to {target.name}"):
            slot.move(target)
        assert slot.state is state
