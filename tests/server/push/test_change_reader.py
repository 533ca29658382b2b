"""Reads of missing changes in the background: a few at a time, and none that would follow a store that lost data."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from playhead.protocol.record import Report
from playhead.protocol.session import Now
from playhead.server.limits.answer_memory import AnswerMemory
from playhead.server.limits.body_memory import Kind, Payer
from playhead.server.limits.large_reads import LargeRead
from playhead.server.push.change_reader import READS_AT_ONCE, ChangeReader
from playhead.storage.store import Batch, Changes, Delta, Store, StoreUnavailable, open_store
from tests.conftest import StoreServer
from tests.device import PATIENCE_S

NOW = Now(1_764_000_000_000, 5_000_000)


class Waiting:
    """A device that lacks changes."""

    def __init__(self, user_id: str, rev: int) -> None:
        self.user_id = user_id
        self.rev = rev
        self.missed: int | None = 5


@pytest.fixture
async def store(store_server: StoreServer, prefix: str) -> AsyncIterator[Store]:
    store = open_store(store_server.url, worker="w", key_prefix=prefix)
    yield store
    await store.close()


async def stored(store: Store, user_id: str) -> None:
    """One record of the learner."""
    batch = Batch()
    batch.deltas[user_id, str(uuid4())] = Delta([Report(1, 1, "s", 1, 1, seen=[0, 5])])
    await store.commit(batch, NOW.wall, lambda user: False)


def read() -> LargeRead:
    return LargeRead(AnswerMemory(1 << 30, 1 << 30).account(Payer(Kind.USER, "u")))


async def missing(reader: ChangeReader, device: Any) -> Any:
    return await reader.missing(device, read())


async def test_a_device_gets_what_it_lacks(store: Store) -> None:
    reader, device = ChangeReader(store, lambda: NOW), Waiting("u", 0)
    await stored(store, "u")
    changes = await missing(reader, device)
    assert isinstance(changes, Changes)
    assert (len(changes), changes.rev, device.missed) == (1, 1, 0)
    assert reader.now() == NOW.wall


async def test_a_store_that_went_back_in_time_is_unavailable(store: Store) -> None:
    """Otherwise the device would keep what the store has lost."""
    await stored(store, "u")
    with pytest.raises(StoreUnavailable, match="rolled back"):
        await missing(ChangeReader(store, lambda: NOW), Waiting("u", 7))


async def test_another_epoch_is_noted_and_unavailable(store: Store) -> None:
    await stored(store, "u")
    epoch = await store.epoch()
    store.learn_epoch("0" * 32)
    with pytest.raises(StoreUnavailable, match="another epoch"):
        await missing(ChangeReader(store, lambda: NOW), Waiting("u", 0))
    assert store.known_epoch == epoch


async def test_background_work_ends_with_the_reader(store: Store) -> None:
    """Work that is started afterwards, as by a device that leaves late, is dropped."""
    reader, done = ChangeReader(store, lambda: NOW), list[str]()
    began = asyncio.Event()

    async def work(name: str) -> None:
        began.set()
        done.append(name)
        await asyncio.Event().wait()

    async def late() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            task.cancel()

    task = asyncio.create_task(reader.run(late()))
    await asyncio.sleep(0)
    reader.start(work("first"))
    async with asyncio.timeout(PATIENCE_S):
        await began.wait()
        task.cancel()
        await asyncio.wait({task})
    reader.start(work("late"))
    assert done == ["first"]


async def test_few_devices_are_read_for_at_once(store: Store) -> None:
    """When the store comes back, all of them lack something."""
    await stored(store, "u")
    reader, most = ChangeReader(store, lambda: NOW), 0

    async def count() -> None:
        nonlocal most
        async with reader.slots:
            running = READS_AT_ONCE - reader.slots._value
            most = max(most, running)
            await asyncio.sleep(0)

    await asyncio.gather(*(missing(reader, Waiting("u", 0)) for _ in range(50)), *(count() for _ in range(50)))
    assert 1 < most <= READS_AT_ONCE
