"""Retries wait longer each time, at most a little longer than the bound, and not all at the same moment."""

from playhead.storage.backoff import Backoff


def test_delays_double_up_to_their_bound_and_start_again_after_a_success() -> None:
    """Each is between half of its maximum and all of it; every retry is counted."""
    backoff, bounds = Backoff(0.5, 3.0), [0.5, 1.0, 2.0, 3.0, 3.0]
    for bound in bounds:
        assert bound / 2 <= backoff.next_s() <= bound
    backoff.reset()
    assert backoff.next_s() <= 0.5
    assert backoff.retries == len(bounds) + 1, "a success does not undo the count"


def test_delays_are_spread() -> None:
    assert len({Backoff(1.0, 1.0).next_s() for _ in range(20)}) > 10
