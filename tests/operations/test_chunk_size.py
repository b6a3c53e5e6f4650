"""The size of chunks follows the speed of the server, within its limits."""

from hypothesis import given
from hypothesis import strategies as st

from poolkeeper.operations.chunk_size import TARGET_SECONDS, ChunkSize
from poolkeeper.operations.kind import Sizing

LIMITS = Sizing(initial=1000, smallest=10, largest=100_000)
SECONDS = st.floats(min_value=1e-6, max_value=1e4, allow_nan=False)


@given(st.lists(st.one_of(st.none(), SECONDS)))
def test_whatever_happens_the_size_stays_within_its_limits(history):
    """None stands for a failure."""
    size = ChunkSize(LIMITS)
    for seconds in history:
        if seconds is None:
            size.failed()
        else:
            size.took(size.size, seconds)
        assert LIMITS.smallest <= size.size <= LIMITS.largest


@given(st.floats(min_value=1_000, max_value=1_000_000))
def test_at_a_steady_speed_chunks_come_to_take_the_wanted_time(rows_per_second):
    """Whatever the initial size was."""
    size = ChunkSize(LIMITS)
    for _ in range(40):
        size.took(size.size, size.size / rows_per_second)
    wanted = min(LIMITS.largest, rows_per_second * TARGET_SECONDS)
    assert abs(size.size - wanted) <= 0.05 * wanted + 1


def test_a_chunk_that_was_cut_short_says_little_of_full_ones():
    """The last rows of a source take no time and must not shrink or blow up anything."""
    size = ChunkSize(LIMITS)
    size.took(3, 2.0)
    assert size.size == LIMITS.initial


def test_chunks_that_fail_get_smaller_until_they_are_the_smallest():
    """So that a server that cannot digest a chunk is not given it again and again."""
    size = ChunkSize(LIMITS)
    seen = []
    for _ in range(10):
        size.failed()
        seen.append(size.size)
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] == LIMITS.smallest


def test_growth_is_twofold_at_the_most():
    """One lucky measurement must not make a giant chunk."""
    size = ChunkSize(LIMITS)
    size.took(size.size, 1e-6)
    assert size.size == 2 * LIMITS.initial
