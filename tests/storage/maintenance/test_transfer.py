"""Export and import: a whole store is merged into another one; this may be repeated, interrupted and concurrent with
commits."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any, cast
from uuid import UUID

import msgpack
import pytest

from playhead.protocol.export import EndedLine, record_line, write_line
from playhead.protocol.merge import merge
from playhead.protocol.record import Guard, Record, Report, join
from playhead.protocol.scalars import MAX_INSTANT, format_instant
from playhead.storage.maintenance.rebuild import Rebuild
from playhead.storage.maintenance.transfer import MAX_ROUNDS, Export, Import
from playhead.storage.parts import Parts
from playhead.storage.read.catalogue import Video
from playhead.storage.scripts import Script
from playhead.storage.store import Store, StoreUnavailable, open_store
from playhead.storage.values.packing import pack_record
from playhead.storage.write.pending import Batch, Delta
from tests.clustered import everywhere
from tests.conftest import StoreServer
from tests.histories import report_of
from tests.inside import keys_of, parts_of, records_in, recounted, redis_of
from tests.intact import intact
from tests.storage.conftest import PATIENCE_S, NewStore, PrivateServer

NOW = 1_764_000_000_000
THRESHOLD = 900


def uuid(n: int) -> str:
    return str(UUID(int=n))


U, V = [uuid(n) for n in range(300)], [uuid(1_000 + n) for n in range(3)]


def nobody(user_id: str) -> bool:
    return False


async def commit(store: Store, *ops: tuple[str, str, Report | int]) -> None:
    batch = Batch()
    for user_id, video_id, op in ops:
        batch.deltas.setdefault((user_id, video_id), Delta()).ops.append(op)
    await store.commit(batch, NOW, nobody)


def play(session: str, seq: int, start: int, end: int, at: int = NOW) -> Report:
    return report_of(session, seq, at + seq, [(1_000 * start, 1_000 * end)], 1_000 * end, duration_ms=60_000)


async def fill(store: Store) -> None:
    """Store learners with one video or several, deleted records, ended sessions and a catalogue."""
    await store.put_video(V[0], Video("Ein Film über „Lua“\n", 61_500))
    await store.put_video(V[1], Video("no duration", 0))
    await commit(store, *((user, V[0], play("a", 1, n % 50, 50 + n % 9)) for n, user in enumerate(U)))
    await commit(store, *((U[0], video, play("b", 1, 0, 20)) for video in V), (U[1], V[0], play("c", 1, 0, 60)))
    await commit(store, (U[2], V[0], NOW + 10), (U[3], V[0], NOW + 10))
    await commit(store, (U[3], V[0], play("d", 20, 3, 9)), (U[4], V[1], Report(NOW, NOW, claimed=12)))
    await store.end_sessions(U[5], NOW - 1_000)


async def lines_of(store: Store, after: str = "") -> list[bytes]:
    return [line async for page in Export(parts_of(store)).pages(NOW, after) for line in page.lines]


async def imported(store: Store, lines: list[bytes], size: int = 100) -> tuple[Import, list[str]]:
    work = Import(parts_of(store), threshold_permille=THRESHOLD, now=lambda: NOW + 1_000)
    refused = []
    numbered = list(enumerate(lines, 1))
    async with asyncio.timeout(PATIENCE_S):
        for start in range(0, len(lines), size):
            refused += await work.take(numbered[start : start + size])
    return work, refused


async def records(store: Store) -> dict[tuple[str, str], bytes]:
    """All records, without their revs."""
    found = {}
    for user in U:
        for video, record in records_in(intact(await store.changes(user))):
            found[user, video] = pack_record(replace(record, rev=0))
    return found


async def sound(store: Store) -> bool:
    """Whether audiences, totals and curves match the records."""
    found = await Rebuild(parts_of(store), repair=False, grace_s=0, now=lambda: NOW).run()
    return not (found.drift or found.failed)


async def whole(store: Store) -> dict[bytes, Any]:
    """Every hash that the store holds under this prefix."""
    keys = cast(list[bytes], await redis_of(store).keys(f"{keys_of(store).prefix}:{{*"))
    return {key: await redis_of(store).hgetall(key) for key in keys if b":live:" not in key}


@pytest.fixture
async def other(store_server: StoreServer, prefix: str) -> AsyncIterator[Store]:
    """Another store, with another prefix."""
    store = open_store(store_server.url, worker="other", key_prefix=f"{prefix}other")
    yield store
    await store.close()


async def test_an_import_into_an_empty_store_is_complete(store: Store, other: Store) -> None:
    """It has the records with guards and tombstones, the catalogue and the ended sessions; and the totals follow."""
    await fill(store)
    work, refused = await imported(other, await lines_of(store))
    assert refused == []
    assert await records(other) == await records(store)
    assert work.end is not None
    assert (work.end.records, work.end.videos, work.end.ended) == (work.imported["record"], 2, 1)
    assert work.changed == work.imported["record"] == len(await records(store)) == 303
    for video in V:
        assert await other.video(video) == await store.video(video)
        kept = intact(await other.analytics(video, NOW))[:2]
        assert kept == intact(await store.analytics(video, NOW))[:2] == await recounted(other, video)
    assert await parts_of(other).ended_sessions.recent() == [(U[5], NOW - 1_000)]
    assert await sound(other)
    await commit(other, (U[0], V[0], play("a", 1, 0, 50)))
    assert intact(await other.record(U[0], V[0])).played_ms == intact(await store.record(U[0], V[0])).played_ms, (
        "guards came along"
    )


async def test_importing_twice_changes_nothing(store: Store, other: Store) -> None:
    """Not the same export again, nor its lines in another order, nor twice in one batch, nor an import into its own
    store."""
    await fill(store)
    lines = await lines_of(store)
    original = await whole(store)
    await imported(other, lines)
    first = await whole(other)
    for again in (lines, lines[::-1], lines + lines):
        work, refused = await imported(other, again, size=1_000)
        assert (work.changed, refused) == (0, [])
        assert await whole(other) == first
    assert (await imported(store, lines))[0].changed == 0
    assert await whole(store) == original


async def test_an_older_export_changes_nothing(store: Store) -> None:
    """The store has changed since: plays of old and new sessions, deletions, another duration in the catalogue."""
    await fill(store)
    lines = await lines_of(store)
    await commit(store, *((user, V[0], play("a", 2, 0, 9)) for user in U[:9]), *((u, V[0], NOW + 99) for u in U[20:40]))
    await commit(store, (U[30], V[0], play("e", 500, 0, 5)), (U[0], V[1], play("new", 3, 20, 30)))
    await store.put_video(V[0], Video("Ein Film", 60_000))
    await commit(store, *((user, V[0], Report(NOW + 900, NOW + 900)) for user in U))  # the new duration reaches all
    now = await whole(store)
    work, refused = await imported(store, lines)
    assert (work.changed, refused) == (0, [])
    assert await whole(store) == now


async def test_records_imported_after_a_loss_are_newer_than_the_lost_ones(private_server: PrivateServer) -> None:
    """Audiences on other primaries of a cluster may still know the lost ones."""
    store = open_store(private_server.url, worker="w")
    await fill(store)
    lines, before = await lines_of(store), intact(await store.changes(U[0])).rev
    await everywhere(store, "FLUSHALL")
    await commit(store, (U[1], V[1], play("e", 1, 0, 9)))  # which notices it
    await imported(store, lines)
    assert all(record.rev > before for _, record in records_in(intact(await store.changes(U[0]))))
    assert await sound(store)
    await store.close()


async def test_two_stores_merge(store: Store, other: Store) -> None:
    """With sessions in each, in either direction: the result is as if one store had had them all."""
    here = [play("h1", 1, 0, 30), play("h1", 2, 30, 40), play("h2", 9, 5, 9)]
    there = [play("t1", 1, 35, 60), play("t2", 2, 0, 6)]
    both = Record()
    for report in here + there:
        both = join(both, report, 0, THRESHOLD)[0]
    await commit(store, *((U[0], V[0], report) for report in here), (U[1], V[0], play("x", 1, 0, 5)))
    await commit(other, *((U[0], V[0], report) for report in there), (U[2], V[0], play("y", 1, 0, 5)))
    one_way, other_way = await lines_of(store), await lines_of(other)
    for target, lines in ((store, other_way), (other, one_way)):
        await imported(target, lines)
        got = intact(await target.record(U[0], V[0]))
        assert pack_record(replace(got, rev=0, completed_at=0)) == pack_record(replace(both, completed_at=0))
        assert got.completed_at
        assert await sound(target)
    assert await records(store) == await records(other)


class Racing(Parts):
    """Parts with a callback that runs between reading a record and swapping it."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.swaps = ""
        self.race: Callable[[], Awaitable[None]] | None = None

    def script(self, name: str) -> Script:
        script = super().script(name)
        self.swaps = script.sha if name == "swap" else ""
        return script

    async def run(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        if self.race and any(command[:2] == ("EVALSHA", self.swaps) for command in commands):
            await self.race()
        return await super().run(commands)


async def test_concurrent_reports_are_neither_lost_nor_counted_twice(store: Store, new_store: NewStore) -> None:
    """Each time a record was read, its learner plays on before the result is written."""
    await fill(store)
    lines = [line for line in await lines_of(store) if U[7].encode() in line]
    raced = new_store(Racing)
    await commit(store, (U[7], V[0], NOW + 50))
    await redis_of(store).delete(keys_of(store).progress(U[7]))
    seqs = itertools.count(100)

    async def race() -> None:
        seq = next(seqs)
        if seq < 105:
            await commit(store, (U[7], V[0], play("live", seq, seq - 100, seq - 99)))

    raced.race = race
    work, _ = await imported(Store(raced), lines)
    assert work.retrying.retries == 5
    record = intact(await store.record(U[7], V[0]))
    assert record.seen == [0, 5, 7, 57]
    assert (record.played_ms, record.again, record.rev) == (55_000, [], 6)
    rev = await redis_of(store).hget(keys_of(store).progress(U[7]), "rev")
    assert rev == b"6", "every change has one of its own"


async def test_a_record_that_keeps_changing_fails_after_a_number_of_rounds(store: Store, new_store: NewStore) -> None:
    """After MAX_ROUNDS; the concurrent reports are stored, and so is the rest of the batch."""
    await fill(store)
    lines = [line for line in await lines_of(store) if U[7].encode() in line or U[8].encode() in line]
    raced = new_store(Racing)
    await commit(store, (U[7], V[0], NOW + 50), (U[8], V[0], NOW + 50))
    await redis_of(store).delete(keys_of(store).progress(U[7]), keys_of(store).progress(U[8]))
    seqs = itertools.count(1)

    async def race() -> None:
        seq = next(seqs)
        await commit(store, (U[7], V[0], play("live", seq, 0, seq)))

    raced.race = race
    work = Import(raced, threshold_permille=THRESHOLD, now=lambda: NOW)
    with pytest.raises(StoreUnavailable, match="a record changes too often"):
        await work.take(list(enumerate(lines, 1)))
    assert work.retrying.retries == MAX_ROUNDS - 1
    assert work.changed == 1
    assert intact(await store.record(U[7], V[0])).seen == [0, MAX_ROUNDS]
    assert intact(await store.record(U[8], V[0])).seen


async def test_a_repeated_swap_changes_nothing(store: Store, other: Store) -> None:
    """redis-py repeats a command that got no reply: the second one swaps nothing, and the next round finds the new
    record."""
    await fill(store)
    lines = await lines_of(store)
    real = parts_of(other).run

    async def run(commands: list[tuple[Any, ...]]) -> list[Any]:
        if commands[0][0] == "EVALSHA":
            await real(commands)
        return await real(commands)

    parts_of(other).run = run  # type: ignore[method-assign]
    _, refused = await imported(other, lines)
    assert refused == []
    assert await records(other) == await records(store)
    assert await sound(other)


async def test_an_import_is_pushed_to_devices(store: Store, other: Store) -> None:
    """By a push without records at the learner's new revision, only for learners with changes."""
    await commit(store, (U[0], V[0], play("a", 1, 0, 5)), (U[0], V[1], play("a", 2, 0, 5)))
    lines = await lines_of(store)
    async with redis_of(other).pubsub() as listening:
        await listening.ssubscribe(keys_of(other).push(U[0]))
        await listening.get_message(timeout=PATIENCE_S)
        await imported(other, lines)
        message = await listening.get_message(timeout=PATIENCE_S)
        assert message is not None
        assert msgpack.unpackb(message["data"]) == ["other", 2, 2, []]
        await imported(other, lines)
        assert await listening.get_message(timeout=0) is None


async def test_an_import_can_be_interrupted_anywhere_and_run_again(private_server: PrivateServer, prefix: str) -> None:
    """It fails before each round trip in turn, also between the stages; the next import completes it."""
    source = open_store(private_server.url, worker="s", key_prefix=f"{prefix}s")
    dying = Dying(private_server.url, worker="t", key_prefix=f"{prefix}t")
    target = Store(dying)
    await fill(source)
    lines, want = await lines_of(source), await records(source)
    trips = 0
    for stop_after in itertools.count():
        if left_over := await redis_of(target).keys(f"{prefix}t:*"):
            await redis_of(target).delete(*left_over)
        parts_of(target).catalogue.forget_all()
        dying.left = stop_after
        try:
            await imported(target, lines)
        except StoreUnavailable:
            trips += 1
            dying.left = 10_000
            await imported(target, lines)
            assert await records(target) == want
            assert await sound(target)
        else:
            break
    assert trips >= 12
    await source.close()
    await target.close()


class Dying(Parts):
    """Parts that fail after a number of round trips."""

    left = 10_000

    async def run(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        if not self.left:
            raise StoreUnavailable("gone")
        self.left -= 1
        return await super().run(commands)


async def test_an_export_can_be_continued_from_any_place(store: Store) -> None:
    """Continued after any page, it has all lines that were not written yet. Twenty places are tried."""
    await fill(store)
    pages = [page async for page in Export(parts_of(store)).pages(NOW)]
    everything = {line for page in pages for line in page.lines[:] if b'"end"' not in line}
    places = [n for n, page in enumerate(pages) if page.place]
    assert len(places) > 2
    for n in places[:: -(-len(places) // 20)]:
        rest = await lines_of(store, pages[n].place)
        assert everything <= {line for page in pages[: n + 1] for line in page.lines} | set(rest)
        assert not any(b"playhead export" in line for line in rest)


async def test_a_place_of_another_server_restarts_the_export(store: Store) -> None:
    """Its cursors mean nothing here, so there are more lines than needed, never fewer."""
    await fill(store)
    everything = set(await lines_of(store))
    assert {line for line in everything if b'"record"' in line} <= set(await lines_of(store, "u:elsewhere:77"))


async def test_bad_lines_are_refused_by_number_and_field_and_the_others_merged(store: Store, other: Store) -> None:
    """Nothing of a bad line is stored."""
    await fill(store)
    lines = [line for line in await lines_of(store) if V[0].encode() in line and b"record" in line][:4]
    lines[1] = lines[1].replace(b'"lastWatched":"2', b'"lastWatched":"x')
    lines[2] = lines[2][:40]
    _, refused = await imported(other, lines)
    assert [sentence[: sentence.index(":", 9)] for sentence in refused] == ["line 2: lastWatched", "line 3: not JSON"]
    assert len(await records(other)) == 2


async def test_a_damaged_stored_record_is_kept(store: Store, other: Store) -> None:
    """The line is refused with that reason; an export of such a store reports what it left out."""
    await fill(store)
    lines = await lines_of(store)
    await redis_of(other).hset(keys_of(other).progress(U[9]), V[0], b"garbage")
    _, refused = await imported(other, lines)
    assert [sentence.partition(": ")[2] for sentence in refused] == ["the record that is stored can't be read"]
    assert await redis_of(other).hget(keys_of(other).progress(U[9]), V[0]) == b"garbage"
    export = Export(parts_of(other))
    assert len([line async for page in export.pages(NOW) for line in page.lines if b'"record"' in line]) == 302
    assert export.failed == [f"user {U[9]}, video {V[0]}"]


async def test_an_import_into_a_damaged_store_merges_what_it_can(store: Store, other: Store) -> None:
    """Each line that cannot be merged is refused by its number; an export leaves damaged values out, names them, and
    completes."""
    await fill(store)
    lines = await lines_of(store)
    keys = keys_of(other)
    await parts_of(other).run(
        [
            ("SET", keys.progress(U[9]), "text"),
            ("HSET", keys.progress(U[8]), "rev", "nan"),
            ("RPUSH", keys.catalogue(V[0]), "text"),
            ("SET", keys.ended, "text"),
            ("HSET", keys.progress(U[7]), b"\xff", b"x"),
            ("SET", keys.audience(V[1]), "text"),
        ]
    )
    _, refused = await imported(other, lines)
    assert sorted(sentence.partition(": ")[2] for sentence in refused) == [
        "the catalogue entry that is stored can't be read",
        "the ended sessions that are stored can't be read",
        "the learner's revision that is stored can't be read",
        "the record that is stored can't be read",
    ]
    assert all(sentence.startswith("line ") for sentence in refused)
    export = Export(parts_of(other))
    told = [line async for page in export.pages(NOW) for line in page.lines if b'"record"' in line]
    assert len(told) == len([line for line in lines if b'"record"' in line]) - 2
    assert sorted(export.failed) == sorted(
        [
            f"the catalogue entry of video {V[0]}",
            f"user {U[9]}, all videos: {keys.progress(U[9])} is not a hash",
            f"user {U[7]}, video \ufffd",
        ]
    )


async def test_a_shared_past_undercounts_as_in_merge(store: Store, other: Store) -> None:
    """As protocol/merge.py documents it."""
    await commit(store, (U[0], V[0], play("old", 1, 0, 30)))
    await imported(other, await lines_of(store))
    await commit(store, (U[0], V[0], play("s", 1, 30, 40)))
    await commit(other, (U[0], V[0], play("o", 1, 40, 60)))
    want = merge(intact(await other.record(U[0], V[0])), intact(await store.record(U[0], V[0])), 0, THRESHOLD)
    await imported(other, await lines_of(store))
    got = intact(await other.record(U[0], V[0]))
    assert replace(got, rev=0) == replace(want, rev=0)
    assert (got.played_ms, got.seen) == (50_000, [0, 60])


@pytest.mark.parametrize("exported_at", [0, NOW - 5_000, MAX_INSTANT], ids=["not told", "just now", "in 9999"])
async def test_a_hostile_file_blocks_nobody(store: Store, exported_at: int) -> None:
    """With all instants in the year 9999: each is reported by line and name, and none is stored, whatever the header
    says. A learner can play and delete immediately, and stays connected. A second import changes nothing."""
    far = Guard("page", 9, MAX_INSTANT, 10_000, 9)
    watched = Record(
        last_watched=MAX_INSTANT,
        completed_at=MAX_INSTANT,
        position_ms=5_000,
        position_at=MAX_INSTANT,
        unsettled_ms=9_000,
        unsettled_at=MAX_INSTANT,
        claimed=50,
        guards=[far],
    )
    lines = [
        record_line(U[0], V[0], watched),
        record_line(U[1], V[0], Record(deleted_at=MAX_INSTANT, guards=[far])),
        write_line(EndedLine(userId=U[2], at="9999-12-31T23:59:59.999Z")),  # type: ignore[call-arg, arg-type] # as on a line
    ]
    past = min(exported_at or NOW, NOW)
    for _ in range(2):
        work = Import(parts_of(store), threshold_permille=THRESHOLD, now=lambda: NOW, exported_at=exported_at)
        assert await work.take(list(enumerate(lines, 2))) == []
        assert (work.corrected, [told.split(":")[0] for told in work.corrections]) == (
            3,
            ["line 2", "line 3", "line 4"],
        )
        assert (
            "lastWatched, completedAt, position/at, strayPosition/at, sessions/0/at: later than" in work.corrections[0]
        )
        assert f"replaced by {format_instant(past)}" in work.corrections[1]
    assert work.changed == 0
    assert await parts_of(store).ended_sessions.recent() == [(U[2], past)]
    for user in U[:2]:
        record = intact(await store.record(user, V[0]))
        assert max(record.last_watched, record.deleted_at) <= NOW
        await commit(store, (user, V[0], play("new", 1, 20, 30, at=NOW)))
        record = intact(await store.record(user, V[0]))
        assert (record.position, record.seen, record.last_watched) == (30_000, [20, 30], NOW + 1)
        await commit(store, (user, V[0], NOW + 2))
        assert intact(await store.record(user, V[0])).deleted_at == NOW + 2


async def test_strict_refuses_future_instants(store: Store) -> None:
    """By line and name; lines with past instants are merged, and nothing of the others."""
    lines = [
        record_line(U[0], V[0], Record(last_watched=NOW + 60_000, claimed=5)),
        record_line(U[1], V[0], Record(last_watched=NOW, claimed=5)),
    ]
    work = Import(parts_of(store), threshold_permille=THRESHOLD, now=lambda: NOW, strict=True)
    assert await work.take(list(enumerate(lines, 2))) == ["line 2: lastWatched: should not be later than now"]
    assert (work.imported, work.corrected) == ({"record": 1}, 0)
    assert not intact(await store.record(U[0], V[0])).exists


async def test_an_import_corrects_stored_instants_as_well(store: Store) -> None:
    """A record of a clock that is ahead meets one of a correct clock: the newest position is the file's."""
    await commit(store, (U[0], V[0], play("fast", 1, 0, 50, at=NOW + 86_400_000)))
    line = record_line(U[0], V[0], Record(last_watched=NOW, position_ms=7_000, position_at=NOW, seen=[0, 7]))
    for changed in (1, 0):
        work = Import(parts_of(store), threshold_permille=THRESHOLD, now=lambda: NOW)
        assert (await work.take([(2, line)]), work.changed, work.corrected) == ([], changed, 0)
    record = intact(await store.record(U[0], V[0]))
    assert (record.position, record.last_watched, record.seen) == (7_000, NOW, [0, 50])
