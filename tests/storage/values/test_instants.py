"""The instants of stored records that a commit accepts: neither the future, nor later than what it is about to join."""

import pytest

from playhead.storage.values.instants import CLOCKS_APART_MS, RECEIPT_MS, Instants

NOW = 1_764_000_000_000


@pytest.mark.parametrize(
    ("since", "latest", "now", "expected"),
    [
        (NOW - 500, NOW, NOW, (NOW + CLOCKS_APART_MS, NOW - 500 - RECEIPT_MS)),
        (NOW - 500, NOW + 60_000, NOW, (NOW + 60_000 + CLOCKS_APART_MS, NOW - 500 - RECEIPT_MS)),
        (NOW + 60_000, NOW + 60_000, NOW, (NOW + 60_000 + CLOCKS_APART_MS, NOW - RECEIPT_MS)),
        (0, 0, NOW, (NOW + CLOCKS_APART_MS, NOW - RECEIPT_MS)),
        (0, 0, 0, (CLOCKS_APART_MS, 2)),
        (1, 1, 5, (5 + CLOCKS_APART_MS, 2)),
    ],
    ids=["usual", "a report from the future", "the clock was set back", "no reports", "1970", "just after 1970"],
)
def test_bounds_of_stored_instants(since: int, latest: int, now: int, expected: tuple[int, int]) -> None:
    assert Instants.of(since, latest, now) == expected


def test_a_retry_uses_the_time_of_the_retry() -> None:
    """A batch may wait long for its store. Records that others wrote in the meantime are not from the future."""
    first, retried = (Instants.of(NOW, NOW, now) for now in (NOW, NOW + 3_600_000))
    assert retried.latest == first.latest + 3_600_000
    assert retried.before == first.before
