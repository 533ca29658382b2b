"""The totals for callers who may not see single viewers are released by whole batches of viewers."""

import random
from typing import Any

import pytest

from playhead.storage.read.totals import Totals
from tests.inside import keys_of, parts_of
from tests.storage.conftest import NewStore

pytestmark = pytest.mark.stores("valkey", "redis7", "cluster")
BATCH = 5


@pytest.mark.parametrize("own", [1, BATCH - 2])
async def test_two_released_totals_always_differ_by_several_viewers(new_store: NewStore, own: int) -> None:
    """An attacker's accounts and others come and go in any order. All released totals include at least a batch less
    `own` more other viewers than the previous ones, unless nobody was left in between."""
    store, dice, now = new_store(), random.Random(7), Totals()

    async def read(video_id: str) -> Totals:
        return now

    parts_of(store).totals.read = read  # type: ignore[method-assign]
    changes = 0
    for run in range(20):
        others = owned = 0
        of_others: int | None = None
        shown = Totals()
        for step in range(150):
            others = max(0, others + dice.choice((-1, 1, 1)))
            owned = min(own, max(0, owned + dice.choice((-own, 0, own))))
            if run % 5 == 0 and step % 50 == 49:
                others = owned = 0
            now = Totals(others + owned, 0, 1_000 * step + others + owned)
            answer = await store.released_totals(f"video{run}", BATCH)
            if now.viewers == 0:
                of_others, shown = None, Totals()
            if answer == Totals():
                assert now.viewers < BATCH
            elif answer != shown:
                assert answer == now
                assert others >= (of_others or 0) + BATCH - own
                of_others, shown, changes = others, answer, changes + 1
    assert changes > 50


@pytest.mark.parametrize("damage", [("SET", b"text"), ("HSET", "viewers", "many"), ("HSET", "viewers", 1)])
async def test_damaged_released_totals_affect_only_themselves(new_store: NewStore, damage: tuple[Any, ...]) -> None:
    """No totals are shown, or a batch is released again; and no error is raised."""
    store, now = new_store(), Totals(BATCH, 1, 100)

    async def read(video_id: str) -> Totals:
        return now

    parts_of(store).totals.read = read  # type: ignore[method-assign]
    command, *rest_of_it = damage
    await parts_of(store).run([(command, keys_of(store).released("video"), *rest_of_it)])
    assert await store.released_totals("video", BATCH) in (Totals(), now)
    assert await store.released_totals("another", BATCH) == now
