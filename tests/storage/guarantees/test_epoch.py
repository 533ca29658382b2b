"""The store's epoch: created once, replaced after a loss, with revisions that continue above the lost ones."""

import asyncio
from typing import Any

import pytest

from playhead.storage.guarantees.epoch import GENERATION, MAX_GENERATIONS, Epoch, parse_epoch
from playhead.storage.parts import Parts
from playhead.storage.values.damage import Damaged
from tests.storage.conftest import NewStore

pytestmark = pytest.mark.stores("valkey")
FIRST = "0123456789abcdef" * 2


@pytest.fixture
def parts(new_store: NewStore) -> Parts:
    made: Parts = new_store(Parts)
    return made


@pytest.mark.parametrize("stored", [FIRST, f"{FIRST}.1", f"{FIRST}.{MAX_GENERATIONS}"])
def test_an_epoch_is_parsed(stored: str) -> None:
    assert parse_epoch(stored.encode()) == stored


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "é",
        FIRST[1:],
        FIRST.upper(),
        f"{FIRST}.",
        f"{FIRST}.-1",
        f"{FIRST}.{MAX_GENERATIONS + 1}",
        f"{FIRST}.99999999",
        f"{FIRST}.1\n",
    ],
)
def test_another_value_is_damaged(stored: str) -> None:
    assert isinstance(parse_epoch(stored.encode()), Damaged)


def test_damage_stays_damage() -> None:
    assert parse_epoch(Damaged("why")) == Damaged("why")


async def test_all_processes_agree_on_the_first_epoch(new_store: NewStore) -> None:
    stores: list[Parts] = [new_store(Parts) for _ in range(4)]
    epochs = await asyncio.gather(*(parts.epoch.current() for parts in stores))
    assert len(set(epochs)) == 1
    assert {parts.epoch.known for parts in stores} == set(epochs)
    assert {parts.epoch.floor for parts in stores} == {0}


async def test_a_store_that_lost_its_epoch_gets_the_next_generation(parts: Parts) -> None:
    """New revisions are above all that the lost generation could have counted."""
    first = await parts.epoch.current()
    await parts.run([("DEL", parts.keys.epoch)])
    second = await parts.epoch.after_commit(None, rolled_back=False)
    assert second.endswith(".1")
    assert second != first
    assert parts.epoch.floor == GENERATION
    assert await parts.run([("GET", parts.keys.epoch)]) == [second.encode()]


async def test_a_rollback_renews_the_epoch_once_for_all_processes(new_store: NewStore) -> None:
    """The process that finds the loss second meets the new generation already, and keeps it."""
    one, other = new_store(Parts), new_store(Parts)
    first = await one.epoch.current()
    assert await other.epoch.current() == first
    second = await one.epoch.after_commit(first.encode(), rolled_back=True)
    assert second.endswith(".1")
    assert await other.epoch.after_commit(second.encode(), rolled_back=True) == second
    assert (one.epoch.floor, other.epoch.floor) == (GENERATION, GENERATION)


async def test_a_commit_without_a_loss_keeps_the_epoch(parts: Parts) -> None:
    first = await parts.epoch.current()
    assert await parts.epoch.after_commit(first.encode(), rolled_back=False) == first
    assert await parts.epoch.found(first.encode()) == first


@pytest.mark.parametrize("stored", [b"text", Damaged("its key holds another Redis type")], ids=["text", "type"])
async def test_a_damaged_epoch_is_replaced_and_counted(parts: Parts, stored: Any) -> None:
    await parts.epoch.current()
    renewed = await parts.epoch.after_commit(stored, rolled_back=False)
    assert renewed.endswith(".1")
    assert parts.damage.counts["epoch"] == 1


@pytest.mark.parametrize("made", [("SET", "text"), ("RPUSH", "a")], ids=["text", "list"])
async def test_a_read_that_finds_a_damaged_epoch_replaces_it(parts: Parts, made: tuple[str, str]) -> None:
    command, value = made
    await parts.run([(command, parts.keys.epoch, value)])
    found = await parts.epoch.found(b"text")
    assert await parts.run([("GET", parts.keys.epoch)]) == [found.encode()]


async def test_a_read_without_an_epoch_creates_it(parts: Parts) -> None:
    found = await parts.epoch.found(None)
    assert await parts.run([("GET", parts.keys.epoch)]) == [found.encode()]


def test_only_a_change_of_a_known_epoch_is_a_change(parts: Parts) -> None:
    changes: list[str] = []
    epoch: Epoch = parts.epoch
    epoch.on_change = lambda: changes.append(epoch.known)
    for known in (FIRST, FIRST, f"{FIRST}.1", f"{FIRST}.1"):
        epoch.learn(known)
    assert changes == [f"{FIRST}.1"]
