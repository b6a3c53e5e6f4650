"""How far standbys are behind is measured by what they have replayed."""

from poolkeeper.operations.backfill.standbys import MOST_SAMPLES, Behind, Standby, Standbys


def test_a_standby_that_has_all_is_not_behind():
    """Whatever the primary has measured before: that stays until something new is replayed."""
    standbys = Standbys()
    for now in range(10):
        assert standbys.observe(float(now), now, [Standby("a", now, 99.0)]) is None


def test_a_standby_is_behind_since_the_wal_went_past_it():
    """To the time between two looks."""
    standbys = Standbys()
    standbys.observe(0.0, 100, [Standby("a", 100)])
    standbys.observe(1.0, 200, [Standby("a", 100)])
    assert standbys.observe(5.0, 300, [Standby("a", 100)]) == Behind("a", 4.0)
    assert standbys.observe(6.0, 400, [Standby("a", 250)]) == Behind("a", 1.0)
    assert standbys.observe(7.0, 500, [Standby("a", 400)]) is None


def test_the_slowest_counts():
    """However many there are, and however many have come or gone."""
    standbys = Standbys()
    standbys.observe(0.0, 100, [])
    standbys.observe(1.0, 200, [Standby("a", 200), Standby("b", 50)])
    seen = standbys.observe(3.0, 300, [Standby("a", 200), Standby("b", 50)])
    assert seen == Behind("b", 3.0)
    assert standbys.observe(4.0, 300, [Standby("a", 300)]) is None


def test_a_standby_that_is_late_from_the_beginning_is_believed_to_be():
    """By what the primary says, until there is a measure of one's own."""
    assert Standbys().observe(0.0, 100, [Standby("a", 50, 60.0)]) == Behind("a", 60.0)
    assert Standbys().observe(0.0, 100, [Standby("a", 100, 60.0)]) is None


def test_a_standby_that_stands_still_costs_no_memory():
    """The oldest sample, which says how far it is behind, is kept."""
    standbys = Standbys()
    standbys.observe(0.0, 1, [Standby("a", 1)])
    for now in range(1, 10 * MOST_SAMPLES):
        behind = standbys.observe(float(now), now + 1, [Standby("a", 1)])
    assert behind == Behind("a", 10 * MOST_SAMPLES - 1 - 1.0)
    assert len(standbys._samples) <= MOST_SAMPLES
