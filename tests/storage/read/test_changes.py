"""All records of a learner with thousands of videos: read in slices and shown in pages, both bounded, without missing
any."""

import asyncio
import collections
import random
from collections.abc import Sequence
from typing import Any

import pytest

from playhead.protocol.record import Record, Report
from playhead.storage.connection.pipeline import Command
from playhead.storage.parts import Parts
from playhead.storage.read import changes as changes_module
from playhead.storage.read.changes import (
    KEPT_BYTES,
    PAGE_BYTES,
    PAGE_RECORDS,
    Changes,
    newest_first,
    oldest_change_first,
)
from playhead.storage.read.records import HEADERS, SLICE
from playhead.storage.read.time_slices import TimeSlices
from playhead.storage.store import Store, StoreUnavailable
from playhead.storage.values.damage import DamageLog
from playhead.storage.values.packing import pack_record, unpack_record
from playhead.storage.write.pending import Batch, Delta
from tests.histories import report_of
from tests.inside import keys_of, parts_of
from tests.intact import intact
from tests.storage.conftest import PATIENCE_S, NewStore, PrivateServer

pytestmark = pytest.mark.stores("valkey", "redis7", "cluster")
NOW = 5_000_000
MANY = 1_300
"""More than a few slices, and some pages."""


def nobody(user_id: str) -> bool:
    return False


def video(n: int) -> str:
    return f"7c9e6679-7425-40de-944b-{n:012d}"


def play(seq: int, at: int) -> Report:
    return report_of("a", seq, at, [(seq * 1_000, seq * 1_000 + 1_000)])


async def commit(store: Store, *plays: tuple[int, Report], user: str = "u") -> int:
    """Store plays of these videos, by number; the user's revision."""
    batch = Batch()
    for n, report in plays:
        batch.deltas.setdefault((user, video(n)), Delta()).ops.append(report)
    return (await store.commit(batch, NOW, nobody)).revs[user][1]


async def filled(store: Store, count: int = MANY, user: str = "u") -> int:
    """Store `count` records of a learner, last watched in another order. Returns the revision."""
    rev = 0
    for start in range(0, count, 500):
        numbers = range(start, min(count, start + 500))
        rev = await commit(store, *((n, play(1, 1 + n * 7_919 % 10_007)) for n in numbers), user=user)
    return rev


async def all_pages(changes: Changes, order: changes_module.Order = oldest_change_first) -> list[tuple[str, Record]]:
    return [item async for page in changes.pages(order) for item in page.records]


async def all_of(store: Store) -> list[tuple[str, Record]]:
    return await all_pages(intact(await store.changes("u")))


class Recording(Store):
    """A store that records the reply of each script call of a read, and calls back after each."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(Parts(*args, **more))
        link, reading = self._parts.link, self._parts.reader
        self.slices: list[list[Any]] = []
        ask = link.ask

        async def watched(commands: Sequence[Command], *more: Any) -> Any:
            replies = await ask(list(commands), *more)
            for command, reply in zip(commands, replies, strict=True):
                if command[:2] == ("EVALSHA", reading._changes.sha) and not isinstance(reply, Exception):
                    self.slices += reply
                    await self.after_slice()
            return replies

        link.ask = watched  # type: ignore[method-assign, assignment]

    async def after_slice(self) -> None: ...


@pytest.mark.parametrize("count", [0, 1, SLICE - 1, SLICE + 1, MANY])
async def test_all_records_are_read_once_and_in_slices(new_store: NewStore, count: int) -> None:
    """Whether one slice holds them or many; also by revision, beyond the trail."""
    store = new_store(Recording)
    assert isinstance(store, Recording)
    rev = await filled(store, count)
    changes = intact(await store.changes("u"))
    assert (changes.rev, len(changes)) == (rev, count)
    assert sorted(dict(await all_pages(changes))) == [video(n) for n in range(count)]
    assert all(len(found[HEADERS:]) / 2 <= 1.2 * SLICE for found in store.slices)
    assert len(store.slices) >= count / (1.2 * SLICE)
    half = intact(await store.changes("u", rev // 2))
    assert {record.rev for _, record in await all_pages(half)} == set(range(rev // 2 + 1, rev + 1))


async def test_pages_are_sorted_and_bounded(store: Store) -> None:
    await filled(store)
    changes = intact(await store.changes("u"))
    pages = [page async for page in changes.pages(oldest_change_first)]
    assert [record.rev for page in pages for _, record in page.records] == list(range(1, MANY + 1))
    assert all(len(page.records) <= PAGE_RECORDS for page in pages)
    assert [page.last for page in pages] == [page.records[-1][1].rev for page in pages]
    by_age = [(-record.last_watched, name) for name, record in await all_pages(changes, newest_first(NOW))]
    assert by_age == sorted(by_age)
    assert len(by_age) == MANY


async def test_changes_between_two_slices_are_never_missed(new_store: NewStore) -> None:
    """Records that were read already, were not read yet, or are new change. Any that are not current in the answer have
    a higher revision than the answer's, so the next read since that revision returns them."""
    dice = random.Random(7)

    class Busy(Recording):
        busy = False
        changed = 0

        async def after_slice(self) -> None:
            if self.busy:
                self.changed += 3
                plays = [(dice.randrange(MANY), play(1_000 + self.changed, NOW - 1_000 + self.changed))]
                plays += [(MANY + self.changed + n, play(1, 5_000)) for n in range(2)]
                await commit(writer, *plays)

    writer, store = new_store(), new_store(Busy)
    assert isinstance(store, Busy)
    rev = await filled(writer)
    store.busy = True
    changes = intact(await store.changes("u"))
    store.busy = False
    assert store.changed > 9, "in between"
    assert changes.rev == rev
    seen = dict(await all_pages(changes))
    assert seen.keys() >= {video(n) for n in range(MANY)}
    later = intact(await writer.changes("u", changes.rev))
    seen |= dict(await all_pages(later))
    assert seen == dict(await all_pages(intact(await writer.changes("u"))))


async def test_a_record_that_changes_before_its_page_is_newer_never_older(store: Store) -> None:
    """The bound of a page is that of its sort order, so no device takes itself for more up to date than it is."""
    changes = Changes("u", "e", 10, fetch_nothing, TimeSlices(), DamageLog())
    big = {n: pack_record(Record(rev=n, last_watched=n, seen=[0, 5])) for n in range(1, 11)}

    async def fetch(videos: Sequence[str]) -> list[bytes | None]:
        return [pack_record(Record(rev=99, last_watched=99)) for _ in videos]

    changes._fetch = fetch
    changes.add([part for n in big for part in (video(n).encode(), [big[n][:32], PAGE_BYTES // 3 + 1])])
    pages = [page async for page in changes.pages(oldest_change_first)]
    assert [page.last for page in pages] == [3, 6, 9, 10]
    assert {record.rev for page in pages for _, record in page.records} == {99}


async def fetch_nothing(videos: Sequence[str]) -> list[bytes | None]:
    return [None] * len(videos)


async def test_large_records_are_neither_kept_nor_sent_together(new_store: NewStore) -> None:
    """With as many intervals as possible: no reply of the store and no page has more than a few of them."""
    store = new_store(Recording)
    assert isinstance(store, Recording)
    comb = [second for n in range(2_048) for second in (70_000 + 2 * n, 70_001 + 2 * n)]
    value = pack_record(Record(rev=1, last_watched=9, seen=comb, again=comb, duration_ms=100_000_000))
    assert len(value) > 40_000
    key = keys_of(store).progress("u")
    for start in range(0, 300, 20):
        await parts_of(store).run(
            [("HSET", key, "rev", 1, *(w for n in range(start, start + 20) for w in (video(n), value)))]
        )
    changes = intact(await store.changes("u"))
    assert len(changes) == 300
    assert changes._kept <= KEPT_BYTES
    assert all(sum(map(weight, found[HEADERS:])) < 100_000 for found in store.slices)
    assert all(len(found[HEADERS:]) / 2 < 50 for found in store.slices), "looked at in steps of 25"
    count = 0
    async for page in changes.pages():
        count += len(page.records)
        assert len(page.records) <= 2
    assert count == 300


def weight(part: Any) -> int:
    return len(part) if isinstance(part, bytes) else len(part[0])


async def test_values_that_are_not_kept_are_read_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """If all together exceed the limit; one that no longer exists is left out."""
    monkeypatch.setattr(changes_module, "KEPT_BYTES", 2_000)
    await filled(store, 400)
    changes = intact(await store.changes("u"))
    assert changes._kept <= 2_000
    gone = next(name for name, value in changes._values.items() if not isinstance(value, bytes))
    await parts_of(store).run([("HDEL", keys_of(store).progress("u"), gone)])
    assert [name for name, _ in await all_pages(changes)] == [video(n) for n in range(400) if video(n) != gone]


async def test_slices_of_different_servers_are_not_combined(new_store: NewStore) -> None:
    """A cursor means nothing to a server that took over: the read starts again, and gives up after some attempts."""

    class Moving(Recording):
        moves = 1

        async def after_slice(self) -> None:
            if self.moves and len(self.slices) > 1 and self.slices[-1][3]:
                self.moves -= 1
                self.slices[-1][3] = b"%d" % self.moves

    await filled(new_store())
    store = new_store(Moving)
    assert isinstance(store, Moving)
    assert len(intact(await store.changes("u"))) == MANY
    assert store.moves == 0
    store.moves = 1_000_000
    with pytest.raises(StoreUnavailable, match="took over"):
        await store.changes("u")


async def test_a_restart_of_the_store_restarts_a_read(private_server: PrivateServer) -> None:
    """Its cursors are invalid then."""

    class Restarted(Recording):
        restarts = 1

        async def after_slice(self) -> None:
            if self.restarts and self.slices[-1][1] != b"0":
                self.restarts -= 1
                await asyncio.to_thread(private_server.kill)
                await asyncio.to_thread(private_server.start)

    store = Restarted(private_server.url, worker="w")
    try:
        await filled(store)
        assert len(intact(await store.changes("u"))) == MANY
        assert store.restarts == 0
    finally:
        await store.close()


async def test_a_large_read_must_be_admitted(new_store: NewStore) -> None:
    """With the approximate number of records; an exception ends the read after one slice. Small reads are not
    checked."""
    store = new_store(Recording)
    assert isinstance(store, Recording)
    await filled(store)
    await filled(store, 100, user="few")
    asked: list[int] = []

    def refuse(records: int) -> None:
        asked.append(records)
        raise PermissionError

    with pytest.raises(PermissionError):
        await store.changes("u", admit=refuse)
    assert len(store.slices) == 1
    assert MANY <= asked[0] <= MANY + 2
    assert len(intact(await store.changes("few", admit=refuse))) == 100
    assert len(asked) == 1


async def test_concurrent_readers_decode_one_page_per_iteration_of_the_loop(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So other tasks wait for at most one page, however many readers there are."""
    await filled(store)
    turn = 0
    decoded: collections.Counter[int] = collections.Counter()
    unpack = unpack_record

    def counted(value: bytes) -> Any:
        decoded[turn] += 1
        return unpack(value)

    monkeypatch.setattr(changes_module, "unpack_record", counted)
    loop = asyncio.get_running_loop()
    over = False

    def next_round() -> None:
        nonlocal turn
        turn += 1
        if not over:
            loop.call_soon(next_round)

    loop.call_soon(next_round)
    async with asyncio.timeout(PATIENCE_S):
        read = await asyncio.gather(*(all_of(store) for _ in range(10)))
    over = True
    assert [len(found) for found in read] == [MANY] * 10
    assert max(decoded.values()) <= PAGE_RECORDS
