"""Token buckets and reconnect slots: a caller's requests cost only that caller, and the remembered state is bounded."""

import pytest

from playhead.server.limits import rates as limits
from playhead.server.limits.rates import LONGEST_WAIT_S, SLOT_EARLY_S, SLOT_KEPT_S, Buckets, ReconnectSlots, TooFast

NOW = 1_000.0


def drained(per_s: float = 10.0) -> ReconnectSlots:
    """Slots whose burst is used up."""
    slots = ReconnectSlots(per_s, 1, NOW)
    assert slots.take("first", NOW) == 0.0
    return slots


def test_a_caller_that_repeats_keeps_its_slot_and_delays_no_other() -> None:
    slots, calm = drained(), drained()
    own = slots.take("eager", NOW)
    assert {slots.take("eager", NOW) for _ in range(10_000)} == {own}
    calm.take("eager", NOW)
    assert slots.take("stranger", NOW) == calm.take("stranger", NOW)


def test_waits_are_bounded_however_many_callers_arrive() -> None:
    """So is the number of remembered slots."""
    slots = drained()
    waits = [slots.take(n, NOW) for n in range(10_000)]
    assert max(waits) <= LONGEST_WAIT_S
    assert len(set(waits)) > 9_000, "the callers do not all return at once"
    assert len(slots) <= LONGEST_WAIT_S * 10


def test_slots_of_callers_that_never_return_expire() -> None:
    slots = drained()
    last = max(slots.take(n, NOW) for n in range(100))
    later = NOW + last + SLOT_KEPT_S + 1
    assert slots.take("stranger", later) == 0.0
    assert len(slots) == 0


def test_unused_slots_delay_no_one_beyond_their_time() -> None:
    slots = drained()
    last = max(slots.take(n, NOW) for n in range(100))
    assert slots.take("stranger", NOW + last + 0.2) == 0.0


def test_a_slot_admits_its_caller_even_if_the_bucket_is_empty() -> None:
    """Others then wait longer, so the rate is the same in the long run."""
    slots = drained()
    wait_s = slots.take("patient", NOW)
    then = NOW + wait_s
    assert slots.take("early bird", then) == 0.0
    assert slots.take("another", then) > 0.0
    assert slots.take("patient", then) == 0.0
    assert slots.take("patient", then) > 0.0, "a slot is used once"


@pytest.mark.parametrize("seconds", [-SLOT_EARLY_S / 2, 0.0, SLOT_KEPT_S / 2])
def test_a_slot_may_be_used_a_little_early_or_late(seconds: float) -> None:
    slots = drained()
    then = NOW + slots.take("caller", NOW) + seconds
    while slots.take(object(), then) == 0.0:
        pass
    assert slots.take("caller", then) == 0.0


def test_full_buckets_are_forgotten() -> None:
    buckets = Buckets(10, 10, "requests")
    for n in range(1_000):
        buckets.take(n, NOW)
    assert len(buckets) == 1_000
    for n in range(1_000):
        buckets.take(f"later {n}", NOW + 2)
    assert len(buckets) == 1_000


def test_many_callers_do_not_evict_the_bucket_of_an_active_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The bucket that was idle longest is forgotten, not the one that was created first."""
    monkeypatch.setattr(limits, "MAX_BUCKETS", 100)
    buckets = Buckets(0.001, 2, "requests")
    for _ in range(2):
        buckets.take("greedy", NOW)
    for n in range(1_000):
        buckets.take(f"stranger {n}", NOW)
        with pytest.raises(TooFast) as refused:
            buckets.take("greedy", NOW)
        assert refused.value.retry_after_s <= LONGEST_WAIT_S
    assert len(buckets) <= 100
