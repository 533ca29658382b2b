"""The log of a retry loop: one line when it fails, one when it succeeds again."""

import logging

import pytest

from playhead.storage.outage import Outage

logger = logging.getLogger("playhead.storage.outage.test")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outage(clock: Clock) -> Outage:
    return Outage(logger, "The store is lost", "The store is back", clock)


@pytest.mark.parametrize("failures", [1, 2, 400])
def test_an_outage_is_two_lines_however_many_attempts_fail(
    outage: Outage, clock: Clock, caplog: pytest.LogCaptureFixture, failures: int
) -> None:
    """The first has the reason, the second the duration and the number of failures; both are logged at every level."""
    for number in range(failures):
        outage.failed(f"reason {number}")
        clock.now += 0.5
        assert outage.is_ongoing
    outage.worked()
    outage.worked()
    assert not outage.is_ongoing
    took = f"after {failures / 2:.1f} s and {failures} failure{'s' if failures > 1 else ''}"
    assert caplog.messages == ["The store is lost: reason 0", f"The store is back ({took})"]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_each_outage_is_logged(outage: Outage, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """The second one has its own duration and number of failures."""
    outage.failed("a")
    clock.now += 60
    outage.worked()
    outage.failed("b")
    clock.now += 1
    outage.worked()
    assert caplog.messages[2:] == ["The store is lost: b", "The store is back (after 1.0 s and 1 failure)"]


def test_an_operation_that_never_failed_logs_nothing(outage: Outage, caplog: pytest.LogCaptureFixture) -> None:
    outage.worked()
    assert caplog.messages == []
