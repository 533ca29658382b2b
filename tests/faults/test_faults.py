"""Each fault, in short: whatever is killed, stopped, cut off or refused, no acked heartbeat is lost, and every record,
summary and curve is what the pure model makes of the heartbeats that were sent. `make faults` runs them in full."""

import os

import pytest

from tests.faults.effort import Effort
from tests.faults.places import Missing
from tests.faults.registry import CASES, Case


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_nothing_is_lost_and_nothing_is_wrong(case: Case) -> None:
    try:
        rows = await case.run(case.short, Effort(short=True))
    except Missing as missing:
        if os.environ.get("CI"):
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    assert rows
    for row in rows:
        assert (row.lost, row.wrong) == ([], []), row.fault
        assert row.runs > 0
        assert row.acked == row.sent > 0
