"""The short form of each fault: no acked heartbeat is lost, and every record, summary and curve equals the model of the
heartbeats that were sent. `make faults` runs the full form."""

import contextlib
from collections.abc import Iterator

import pytest

from tests.faults.effort import Effort
from tests.faults.place import Missing
from tests.faults.registry import CASES, Case
from tests.missing import missing


@contextlib.contextmanager
def missing_store_skips() -> Iterator[None]:
    """Skip the test if its store is not installed; with CI set it fails."""
    try:
        yield
    except Missing as store:
        missing(str(store))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_nothing_is_lost_and_nothing_is_wrong(case: Case) -> None:
    with missing_store_skips():
        rows = await case.run(case.short, Effort(short=True))
    assert rows
    for row in rows:
        assert (row.lost, row.wrong) == ([], []), row.fault
        assert row.runs > 0
        assert row.acked == row.sent > 0
