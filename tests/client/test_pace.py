"""Rates and delays in isolation: time and randomness are arguments."""

import pytest

from playhead.client.pace import Backoff, Pace, steady_clock


def test_a_burst_then_a_rate() -> None:
    """The burst at once, then the rate; a new connection has a full burst again."""
    pace = Pace(per_s=10, burst=20)
    pace.start(100.0)
    assert pace.room(100.0) == 20
    pace.sent(20)
    assert pace.room(100.0) == 0
    assert pace.wait_s() == pytest.approx(0.1)
    assert pace.room(100.5) == 5
    assert pace.room(1_000.0) == 20
    pace.sent(20)
    pace.start(1_000.0)
    assert pace.room(1_000.0) == 20


def test_a_rate_that_was_too_fast_is_lowered_for_good() -> None:
    """Refused soon after connecting, the burst is halved, later the rate, and neither to zero."""
    pace = Pace(per_s=10, burst=20)
    pace.start(0.0)
    pace.slow_down(1.0)
    pace.start(1.0)
    assert pace.room(1.0) == 10
    pace.slow_down(60.0)
    pace.sent(10)
    assert pace.room(1.3) == 1
    for _ in range(50):
        pace.slow_down(61.0)
        pace.start(61.0)
        pace.slow_down(1_000.0)
    pace.start(0.0)
    assert pace.room(0.0) == 1
    pace.sent(1)
    assert pace.wait_s() == 1.0


@pytest.mark.parametrize("uniform", [0.0, 0.5, 0.999])
def test_full_jitter_below_a_bound_that_doubles(uniform: float) -> None:
    """A random part of 1, 2, 4, 8, 8 … s, added to the time that the server asks for; reset by a success."""
    backoff = Backoff(1.0, 8.0, lambda: uniform)
    assert [backoff.next_s() for _ in range(6)] == [uniform * bound for bound in (1, 2, 4, 8, 8, 8)]
    assert backoff.next_s(30.0) == 30.0 + 8 * uniform
    backoff.reset()
    assert backoff.next_s() == uniform
    for _ in range(5_000):
        assert backoff.next_s() <= 8.0


def test_the_clock_does_not_go_back() -> None:
    """It gives increasing ms since 1970."""
    clock = steady_clock()
    moments = [clock() for _ in range(1_000)]
    assert moments == sorted(moments)
    assert 1_700_000_000_000 < moments[0] < 10_000_000_000_000
