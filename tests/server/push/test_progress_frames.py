"""Large changes for many devices: every device receives everything, and nothing else waits for long."""

import asyncio
import collections
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import pytest

from playhead.protocol.rest import record_view
from playhead.server.push import progress_frames
from playhead.server.push.learner import MAX_PUSHED
from playhead.storage.events import EventStream
from playhead.storage.read.changes import PAGE_RECORDS
from tests.conftest import StoreServer
from tests.device import device
from tests.rest import iso, ok, rest
from tests.server.push.test_hub import paired, until_sent
from tests.serving import START_MS

ITEMS, DEVICES = 450, 6


def items(count: int) -> list[dict[str, Any]]:
    return [{"videoId": str(uuid4()), "watchedDuration": 9, "lastWatched": iso(START_MS - 1_000)} for _ in range(count)]


@pytest.mark.parametrize("two", [False, True], ids=["one-process", "two-processes"])
async def test_a_long_sync_reaches_all_devices_in_pages(
    store_server: StoreServer, prefix: str, two: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one iteration of the event loop at most one page of records is converted, for all devices together."""
    turn = 0
    made: collections.Counter[int] = collections.Counter()
    view = record_view

    def counted(*args: Any) -> Any:
        made[turn] += 1
        return view(*args)

    monkeypatch.setattr(progress_frames, "record_view", counted)
    loop = asyncio.get_running_loop()
    over = False

    def next_round() -> None:
        nonlocal turn
        turn += 1
        if not over:
            loop.call_soon(next_round)

    user = str(uuid4())
    async with paired(store_server.url, prefix, two=two) as pair, rest(pair.here) as api, AsyncExitStack() as stack:
        devices = [await stack.enter_async_context(device(pair.there, user)) for _ in range(DEVICES)]
        loop.call_soon(next_round)
        body = ok(await api.post("/progress/sync", json={"userId": user, "progressData": items(ITEMS)}))
        for each in devices:
            await until_sent(each, ITEMS)
            assert each.records.keys() == {record["videoId"] for record in body["progressData"]}
        over = True
    assert sum(made.values()) >= DEVICES * ITEMS
    assert max(made.values()) <= max(MAX_PUSHED, PAGE_RECORDS)


async def test_no_push_between_processes_is_large(
    store_server: StoreServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store sends a push to every subscribed process; a large change is announced without its records."""
    sizes: list[int] = []
    received = EventStream._received

    def measured(self: EventStream, name: str, data: bytes) -> None:
        sizes.append(len(data))
        received(self, name, data)

    monkeypatch.setattr(EventStream, "_received", measured)
    user = str(uuid4())
    async with paired(store_server.url, prefix) as pair, rest(pair.here) as api, device(pair.there, user) as listener:
        for count in (5, 190):
            ok(await api.post("/progress/sync", json={"userId": user, "progressData": items(count)}))
        await until_sent(listener, 195)
        assert len(listener.records) == 195
    assert 200 < max(sizes) < 5_000, "the push of five records is the largest"
