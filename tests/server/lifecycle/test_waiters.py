"""REST requests that wait until a flusher has stored their reports."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from playhead.protocol.record import Outcome, Report
from playhead.server.clock import system_clock
from playhead.server.lifecycle import waiters
from playhead.server.lifecycle.waiters import OpsWaiter, barrier
from playhead.storage.store import Store, StoreUnavailable, open_store
from playhead.storage.write.flusher import Flusher
from tests.conftest import StoreServer

AT = 1_714_557_600_000
USER = "7d1a0e7c-0b1f-4b7e-9f6e-3f0a52a4c001"


@pytest.fixture
async def store(store_server: StoreServer, prefix: str) -> AsyncIterator[Store]:
    opened = open_store(store_server.url, worker=uuid4().hex, key_prefix=prefix)
    yield opened
    await opened.close()


async def nothing(*_: object) -> None:
    """The callback that a flusher calls after a commit; it does nothing."""


def flusher(store: Store, interval_s: float = 0) -> Flusher:
    return Flusher(
        store,
        lane="requests",
        interval_s=interval_s,
        max_reports=1_000,
        now=system_clock,
        subscribed=lambda user_id: False,
        after=nothing,
    )


def claim(seconds: int) -> Report:
    return Report(first_at=AT, at=AT, claimed=seconds)


async def test_a_request_waits_for_its_commit_and_gets_each_outcome(store: Store) -> None:
    lane, gone = flusher(store), str(uuid4())
    running = asyncio.create_task(lane.run())
    try:
        deletion = OpsWaiter(USER, [(gone, AT + 1)])
        await OpsWaiter(USER, [(gone, claim(5))]).commit(lane)
        await deletion.commit(lane)
        mixed = OpsWaiter(USER, [("v", claim(60)), (gone, claim(9))])
        await mixed.commit(lane)
        assert (deletion.outcomes, mixed.outcomes) == ([Outcome.JOINED], [Outcome.JOINED, Outcome.DELETED])
        record = await store.record(USER, "v")
        assert getattr(record, "watched", None) == 60
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_barrier_waits_for_what_was_added_before_it(store: Store) -> None:
    """Without waiting for the interval."""
    lane = flusher(store, interval_s=3_600)
    running = asyncio.create_task(lane.run())
    try:
        await barrier(lane)
        assert lane.waiting == 0
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_the_wait_is_bounded_and_the_report_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing flushes here, as in an outage: the request gives up, and its report still waits for the store."""
    monkeypatch.setattr(waiters, "PATIENCE_S", 0.02)
    lane = flusher(store)
    with pytest.raises(StoreUnavailable):
        await OpsWaiter(USER, [("v", claim(5))]).commit(lane)
    assert lane.waiting == 1
