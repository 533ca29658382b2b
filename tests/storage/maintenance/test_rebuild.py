"""A rebuild finds and repairs every kind of drift, reports nothing else as drift, and handles concurrent changes
correctly."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, cast

import msgpack
import pytest

from playhead.protocol.record import Guard, Record, Report
from playhead.storage.maintenance import rebuild, recount
from playhead.storage.maintenance.rebuild import Found, Rebuild
from playhead.storage.parts import Parts
from playhead.storage.read import scanning
from playhead.storage.read.totals import Curve, Totals
from playhead.storage.scripts import Script
from playhead.storage.store import Store, StoreUnavailable, open_store
from playhead.storage.values.packing import pack_record
from playhead.storage.write.pending import Batch, Delta
from tests.histories import report_of
from tests.inside import keys_of, parts_of, recounted, redis_of
from tests.intact import intact
from tests.stages import WaitsBetweenStages
from tests.storage.conftest import PATIENCE_S, NewStore, PrivateServer

NOW = 5_000
LONG = "more" + 300 * "x"
"""A userId that no listpack holds: HSCAN then reads the hash in pages, however few entries it has."""
BEHIND = "an entry that lacks its record's last change"
AHEAD = "an entry that is ahead of its record"
UNLIKE = "an entry that differs from its record"
ORPHAN = "an entry without a record"
TOTALS = "totals that differ from the sum of the audience"


def nobody(user_id: str) -> bool:
    return False


async def commit(store: Store, *ops: tuple[str, str, Report | int]) -> None:
    batch = Batch()
    for user_id, video_id, op in ops:
        batch.deltas.setdefault((user_id, video_id), Delta()).ops.append(op)
    await store.commit(batch, NOW, nobody)


def play(seq: int = 1, seconds: int = 5, start: int = 0) -> Report:
    return report_of("a", seq, 100 * seq, [(1_000 * start, 1_000 * (start + seconds))], duration_ms=10_000)


async def rebuilt(store: Store, repair: bool = True, grace_s: float = 0.01, **more: Any) -> Found:
    async with asyncio.timeout(PATIENCE_S):
        return await Rebuild(parts_of(store), repair=repair, grace_s=grace_s, now=lambda: NOW, **more).run()


async def kept(store: Store, video_id: str) -> tuple[Totals, Curve]:
    totals, curve, _ = intact(await store.analytics(video_id, NOW))
    return totals, curve


async def fill(store: Store, more: int = 0) -> None:
    """Store plays of two videos by four learners: one has deleted, one has completed, one has replayed; and by `more`
    others."""
    await commit(store, *((f"u{n}", "v", play(1, n + 2)) for n in range(4)))
    await commit(store, ("u0", "v", 200), ("u1", "v", play(2, 2)), ("u3", "v", play(2, 6, 4)), ("u1", "w", play()))
    await commit(store, *((f"more{n}", "v", play(1, 1 + n % 9, n % 2)) for n in range(more - 1)))
    if more:
        await commit(store, (LONG, "v", play()))
        assert await redis_of(store).object("encoding", keys_of(store).audience("v")) == b"hashtable"


async def whole(store: Store) -> dict[str, Any]:
    """Everything that the store holds for this test, except live viewers."""
    keys = sorted(cast(list[bytes], await redis_of(store).keys(f"{keys_of(store).prefix}:{{*")))
    hashes = [key for key in keys if b":live:" not in key and b":before:" not in key]
    return {key.decode(): await redis_of(store).hgetall(key) for key in hashes}


async def test_no_drift_is_reported_without_any(store: Store) -> None:
    """Neither in an empty store nor in one with records, including deleted ones."""
    assert (await rebuilt(store, repair=False)) == Found()
    await fill(store)
    before = await whole(store)
    assert (await rebuilt(store)) == Found(records=5, audiences=2)
    assert await whole(store) == before
    assert await kept(store, "v") == (
        Totals(3, 1, 3 + 4 + 10),
        Curve([3, 3, 3, 2, 1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 1, 0, 0, 0, 0, 0]),
    )


Plant = Callable[[Store], list[tuple[Any, ...]]]
GARBAGE = b"\xc1 not an entry"


def entry(rev: int, watched: int, seen: list[int]) -> bytes:
    packed: bytes = msgpack.packb(rev) + msgpack.packb([watched, 0, seen, []])
    return packed


PLANTED: dict[str, tuple[Plant, dict[str, int]]] = {
    "an entry is lost": (lambda s: [("HDEL", keys_of(s).audience("v"), "u2")], {BEHIND: 1, TOTALS: 1}),
    "the audience is lost": (lambda s: [("DEL", keys_of(s).audience("v"))], {BEHIND: 4, TOTALS: 1}),
    "all but the records is lost": (lambda s: [("DEL", *keys_of(s).of_shard("v"))], {BEHIND: 4}),
    "the summary is lost": (lambda s: [("DEL", keys_of(s).summary("v"))], {TOTALS: 1}),
    "the curve is lost": (lambda s: [("DEL", keys_of(s).curve("v"))], {TOTALS: 1}),
    "a total is off": (lambda s: [("HINCRBY", keys_of(s).summary("v"), "viewers", 7)], {TOTALS: 1}),
    "a total is no number": (lambda s: [("HSET", keys_of(s).summary("v"), "watched", "many")], {TOTALS: 1}),
    "a total that nobody asked for": (lambda s: [("HSET", keys_of(s).summary("v"), "likes", 7)], {TOTALS: 1}),
    "a point of the curve is off": (lambda s: [("HINCRBY", keys_of(s).curve("v"), "s2", -1)], {TOTALS: 1}),
    "a point that nobody saw": (lambda s: [("HSET", keys_of(s).curve("v"), "a77", 1)], {TOTALS: 1}),
    "a point that is none": (lambda s: [("HSET", keys_of(s).curve("v"), "b1", 1)], {TOTALS: 1}),
    "totals of a video that nobody watched": (
        lambda s: [
            ("HSET", keys_of(s).summary("x"), "viewers", 1),
            ("HSET", keys_of(s).curve("x"), "s0", 1),
        ],
        {TOTALS: 1},
    ),
    "a curve alone": (lambda s: [("HSET", keys_of(s).curve("x"), "s0", 1)], {TOTALS: 1}),
    "an entry is of an older record": (
        lambda s: [("HSET", keys_of(s).audience("v"), "u2", entry(0, 0, []))],
        {BEHIND: 1, TOTALS: 1},
    ),
    "an entry is of a later record": (
        lambda s: [("HSET", keys_of(s).audience("v"), "u2", entry(99, 50, [0, 50]))],
        {AHEAD: 1, TOTALS: 1},
    ),
    "an entry is another": (
        lambda s: [("HSET", keys_of(s).audience("v"), "u2", entry(1, 9, [0, 3, 5, 11]))],
        {UNLIKE: 1, TOTALS: 1},
    ),
    "an entry is garbage": (
        lambda s: [("HSET", keys_of(s).audience("v"), "u2", GARBAGE)],
        {BEHIND: 1, TOTALS: 1},
    ),
    "a learner is lost": (lambda s: [("DEL", keys_of(s).progress("u1"))], {ORPHAN: 2}),
    "a record is lost": (lambda s: [("HDEL", keys_of(s).progress("u2"), "v")], {ORPHAN: 1}),
    "an orphan is garbage": (lambda s: [("HSET", keys_of(s).audience("v"), "nobody", GARBAGE)], {ORPHAN: 1}),
}


@pytest.mark.parametrize("more", [0, 60], ids=["summed at once", "summed in slices"])
@pytest.mark.parametrize(("plant", "drift"), PLANTED.values(), ids=PLANTED)
async def test_drift_is_found_and_repaired(
    store: Store, monkeypatch: pytest.MonkeyPatch, plant: Plant, drift: dict[str, int], more: int
) -> None:
    """For each kind of key: --check reports it and changes nothing, a rebuild repairs it, and the next one finds
    nothing."""
    monkeypatch.setattr(recount, "SLICE_BYTES", 1_000)
    await fill(store, more)
    sound = await whole(store)
    await parts_of(store).run(plant(store))
    planted = await whole(store)
    looked = await rebuilt(store, repair=False)
    assert looked.drift.keys() == drift.keys()
    if not more:
        assert (looked.drift, len(looked.examples)) == (drift, sum(drift.values()))
    assert await whole(store) == planted, "--check changes nothing"
    repaired = await rebuilt(store)
    assert set(repaired.drift) <= set(drift) | {TOTALS}
    again = await rebuilt(store, repair=False)
    assert again == Found(looked.records, again.audiences)
    for video_id in ("v", "w", "x"):
        assert await kept(store, video_id) == await recounted(store, video_id)
    if ORPHAN not in drift:
        assert await whole(store) == sound


# While others write


class Interfering(Parts):
    """Parts with a callback that runs after every script call of a rebuild."""

    scripts: frozenset[str] = frozenset(("forget", "recount", "adjust"))

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.hashes: set[str] = set()
        self.calls = 0
        self.interfere: Callable[[], Awaitable[None]] | None = None
        self.twice = False

    def script(self, name: str) -> Script:
        script = super().script(name)
        if name in self.scripts:
            self.hashes.add(script.sha)
        return script

    async def run(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        replies = await super().run(commands)
        if self.hashes & {str(command[1]) for command in commands if command[0] == "EVALSHA"}:
            self.calls += 1
            if self.twice:
                replies = await super().run(commands)
            if self.interfere is not None:
                await self.interfere()
        return replies


@pytest.mark.parametrize("twice", [False, True], ids=["", "every script twice"])
@pytest.mark.parametrize("repair", [False, True], ids=["check", "repair"])
async def test_a_recount_in_slices_during_concurrent_changes(
    new_store: NewStore, monkeypatch: pytest.MonkeyPatch, repair: bool, twice: bool
) -> None:
    """After each slice, entries change that were already summed and that were not, learners come (more than the hash
    had room for) and delete: exactly the planted drift is found, and only that is repaired."""
    monkeypatch.setattr(recount, "SLICE_BYTES", 6_000)
    interfering, other = new_store(Interfering), new_store()
    store = Store(interfering)
    await fill(store, 700)
    await interfering.run(
        [
            ("HINCRBY", interfering.keys.summary("v"), "watched", 1_000),
            ("HINCRBY", interfering.keys.curve("v"), "s2", 3),
        ]
    )
    numbers = itertools.count(2)

    async def interfere() -> None:
        turn = next(numbers)
        await commit(
            other,
            *((f"more{n}", "v", play(turn, 3, turn % 6)) for n in range(0, 700, 50)),
            *((f"new{turn}-{n}", "v", play()) for n in range(90)),
            (f"more{turn}", "v", 10_000 * turn),
        )

    interfering.interfere, interfering.twice = interfere, twice
    found = await rebuilt(store, repair=repair)
    assert (found.drift, found.failed) == ({TOTALS: 1}, {})
    assert interfering.calls > 4
    interfering.interfere, interfering.twice = None, False
    kept_totals, kept_curve = await kept(store, "v")
    totals, curve = await recounted(store, "v")
    assert kept_totals.watched - totals.watched == (0 if repair else 1_000)
    assert (kept_curve == curve) is repair
    assert (await rebuilt(store, repair=False)).drift == ({} if repair else {TOTALS: 1})
    assert await redis_of(store).hlen(interfering.keys.before("v")) == 1, "and that expires"
    assert not await redis_of(store).hexists(keys_of(store).summary("v"), "recount")


async def test_entries_that_a_resized_hash_returns_twice_are_not_counted_twice(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recount notices that it summed more entries than there are, and starts again."""
    await fill(store, 700)
    real, twice = recount._Count.add, 2

    def add(count: Any, summed: int, totals: list[int], *more: Any) -> None:
        nonlocal twice
        if twice and not more[2:]:
            twice -= 1
            real(count, 1, [1, 0, 5], [0, 1, 5, -1], [])
        real(count, summed, totals, *more)

    monkeypatch.setattr(recount._Count, "add", add)
    sound = await whole(store)
    found = await rebuilt(store)
    assert (found.drift, found.failed, twice) == ({}, {}, 0)
    assert await whole(store) == sound


async def test_a_commit_between_its_stages_is_not_drift(new_store: NewStore) -> None:
    """Its entry is behind until stage 2, which comes within the grace period."""
    store, slow = new_store(), new_store(WaitsBetweenStages)
    await fill(store)
    commits = asyncio.create_task(commit(slow, ("u1", "v", play(3, 3, 3)), ("someone", "v", play())))
    await slow.reached.wait()
    looking = asyncio.create_task(rebuilt(store, repair=False, grace_s=1.0))
    await asyncio.wait({looking}, timeout=0.2)
    assert not looking.done(), "it waits before it judges"
    slow.go_on.set()
    await commits
    assert (await looking).drift == {}


async def test_repairing_a_commit_between_its_stages_is_harmless(new_store: NewStore) -> None:
    """A commit slower than the grace period is reported as drift and repaired; its own stage 2 then changes nothing."""
    store, slow = new_store(), new_store(WaitsBetweenStages)
    await fill(store)
    commits = asyncio.create_task(commit(slow, ("u1", "v", play(3, 3, 3))))
    await slow.reached.wait()
    assert (await rebuilt(store)).drift == {BEHIND: 1}
    repaired = await whole(store)
    slow.go_on.set()
    await commits
    assert await whole(store) == repaired
    assert await kept(store, "v") == await recounted(store, "v")


async def test_a_rebuild_can_be_interrupted_anywhere_and_run_again(
    private_server: PrivateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store goes away before each round trip in turn, including those between two repairs of one video; the next
    rebuild repairs the rest."""
    monkeypatch.setattr(recount, "REPAIRS", 2)
    monkeypatch.setattr(scanning, "HASHES_AT_ONCE", 1_000)
    store, dying = open_store(private_server.url, worker="w"), Dying(private_server.url, worker="d")
    monkeypatch.setattr(recount, "SLICE_BYTES", 1_000)
    await fill(store, 60)
    sound = await whole(store)
    trips = 0
    names = ("an entry is lost", "a point of the curve is off", "a total is off", "an orphan is garbage")
    for stop_after in itertools.count():
        await parts_of(store).run([command for name in names for command in PLANTED[name][0](store)])
        dying.left = stop_after
        try:
            await rebuilt(Store(dying))
        except StoreUnavailable:
            trips += 1
            await rebuilt(store)
            assert await whole(store) == sound
        else:
            break
    assert trips > 20
    await store.close()
    await dying.link.aclose()


class Dying(Parts):
    """Parts that fail after a number of round trips."""

    left = 0

    async def run(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        if not self.left:
            raise StoreUnavailable("gone")
        self.left -= 1
        return await super().run(commands)


async def test_concurrent_rebuilds_repair_once(new_store: NewStore) -> None:
    """Some of several rebuilds of a large video may start again or give the video up; no repair is made twice."""
    store = new_store()
    await fill(store, 700)
    await parts_of(store).run(
        [("HINCRBY", keys_of(store).summary("v"), "viewers", 5), ("DEL", keys_of(store).curve("v"))]
    )
    await asyncio.gather(*(rebuilt(new_store()) for _ in range(3)))
    await rebuilt(store)
    assert await kept(store, "v") == await recounted(store, "v")


async def test_what_a_killed_recount_leaves_behind_expires(store: Store) -> None:
    """The kept entries have a time to live, and a commit after that removes the mark."""
    await fill(store, 700)
    await parts_of(store).run(
        [
            ("HSET", keys_of(store).summary("v"), "recount", "dead"),
            ("HSET", keys_of(store).before("v"), "", 0),
        ]
    )
    await commit(store, ("u1", "v", play(3, 1)))
    assert await redis_of(store).hkeys(keys_of(store).before("v")) == [b"", b"u1"]
    await redis_of(store).delete(keys_of(store).before("v"))
    await commit(store, ("u1", "v", play(4, 1)))
    assert not await redis_of(store).hexists(keys_of(store).summary("v"), "recount")
    assert not await redis_of(store).exists(keys_of(store).before("v"))


NO_RECORD = "a record that can't be read"
NO_REV = "a learner's revision that can't be read, or is lower than a record's"
FOREIGN = "a key of another Redis type"


async def test_an_unreadable_record_is_restored_from_its_entry(store: Store) -> None:
    """The seconds seen are known from the entry; the other fields are lost, and are named. The next report is merged
    into it."""
    await fill(store)
    await parts_of(store).run([("HSET", keys_of(store).progress("u1"), "v", GARBAGE)])
    before = intact(await store.totals("v"))
    looked = await rebuilt(store, repair=False)
    assert (looked.drift, looked.failed) == ({NO_RECORD: 1}, {})
    assert looked.examples == [
        f"{NO_RECORD}: user u1, video v; lost: deletedAt, lastWatched, claimed, playedDuration, duration, completedAt, "
        "position, sessions"
    ]
    assert await parts_of(store).run([("HGET", keys_of(store).progress("u1"), "v")]) == [GARBAGE]
    assert NO_RECORD in (await rebuilt(store)).drift
    record = await sound_record(store, "u1", "v")
    assert (record.seen, record.again, record.last_watched, record.guards) == ([0, 3], [0, 2], 1, [])
    assert intact(await store.totals("v")) == before
    assert (await rebuilt(store, repair=False)).drift == {}
    await commit(store, ("u1", "v", play(3, 9)))
    assert (await sound_record(store, "u1", "v")).seen == [0, 9]


async def test_an_unreadable_record_without_an_entry_is_reported_and_kept(store: Store) -> None:
    """The finding says what helps; all other records are checked."""
    await fill(store)
    await parts_of(store).run(
        [
            ("HSET", keys_of(store).progress("u1"), "v", GARBAGE),
            ("HDEL", keys_of(store).audience("v"), "u1"),
        ]
    )
    found = await rebuilt(store)
    assert (found.failed, found.drift) == ({NO_RECORD: 1}, {TOTALS: 1})
    assert found.examples[0] == f"{NO_RECORD}: user u1, video v; DELETE /progress/u1/v resets it"
    assert await parts_of(store).run([("HGET", keys_of(store).progress("u1"), "v")]) == [GARBAGE]


async def sound_record(store: Store, user_id: str, video_id: str) -> Record:
    record = intact(await store.record(user_id, video_id))
    assert isinstance(record, Record)
    return record


def damaged(record: Record, **fields: Any) -> bytes:
    """Encode a record with some fields of wrong types."""
    return pack_record(replace(record, **fields))


SOUND = Record(
    rev=7, last_watched=400, claimed=3, played_ms=9_000, duration_ms=10_000, position_ms=5_000, position_at=400,
    seen=[0, 5, 7, 9], again=[1, 2], guards=[Guard("a", 4, 400, 9_000)],
)  # fmt: skip

NOWHERE = replace(SOUND, position_ms=-1, position_at=0)

SAVED: dict[str, tuple[bytes, Record, str]] = {
    "seconds not sorted": (damaged(SOUND, seen=[7, 9, 0, 5]), SOUND, "nothing"),
    "seconds that overlap": (damaged(SOUND, seen=[0, 4, 2, 5, 7, 9]), SOUND, "nothing"),
    "half an interval": (damaged(SOUND, seen=[0, 5, 7, 9, 11]), SOUND, "nothing"),
    "floats that are whole": (damaged(SOUND, claimed=3.0, seen=[0.0, 5, 7, 9]), SOUND, "nothing"),
    "a float that is not": (damaged(SOUND, claimed=2.5), replace(SOUND, claimed=0), "claimed"),
    "not a number": (damaged(SOUND, played_ms=float("nan")), replace(SOUND, played_ms=0), "playedDuration"),
    "text": (damaged(SOUND, duration_ms="10000"), replace(SOUND, duration_ms=0), "duration"),
    "a later year": (damaged(SOUND, completed_at=2**52), SOUND, "completedAt"),
    "a position of no time": (damaged(SOUND, position_at="x"), NOWHERE, "position"),
    "cut off": (damaged(SOUND)[:-9], replace(SOUND, guards=[]), "sessions"),
    "cut off early": (
        damaged(SOUND)[:9],
        replace(NOWHERE, played_ms=0, duration_ms=0, again=[], seen=[0, 5], guards=[]),
        "playedDuration, duration, completedAt, position, sessions",
    ),
    "a session without a name": (damaged(SOUND, guards=[Guard(5, 4, 400, 1), *SOUND.guards]), SOUND, "sessions"),  # type: ignore[arg-type]
    "more behind it": (damaged(SOUND) + b"\x00", SOUND, "nothing"),
    "a revision that is text": (b"\xa17" + damaged(SOUND)[1:], SOUND, "nothing"),
    "a revision that is too high": (damaged(SOUND, rev=2**53 - 1), SOUND, "nothing"),
}  # fmt: skip


@pytest.mark.parametrize(("value", "left", "lost"), SAVED.values(), ids=SAVED)
async def test_the_intact_fields_of_a_damaged_record_are_kept(
    store: Store, value: bytes, left: Record, lost: str
) -> None:
    """It gets a new revision, so that devices receive it, and the totals of its video follow."""
    await commit(store, ("u", "v", play(1, 5)), ("other", "v", play(1, 3)))
    await parts_of(store).run([("HSET", keys_of(store).progress("u"), "v", value)])
    found = await rebuilt(store)
    assert NO_RECORD in found.drift
    assert not found.failed
    assert found.examples[0] == f"{NO_RECORD}: user u, video v; lost: {lost}"
    record = await sound_record(store, "u", "v")
    assert replace(record, rev=0) == replace(left, rev=0)
    assert record.rev == 2
    assert await kept(store, "v") == await recounted(store, "v")
    assert (await rebuilt(store, repair=False)).drift == {}


async def test_a_record_of_a_later_version_is_kept(store: Store) -> None:
    """It has more fields than this version knows, which a repair would lose."""
    await commit(store, ("u", "v", play(1, 5)))
    value = msgpack.packb(7) + msgpack.packb([*[0] * 10, [], [], [], "new"])
    await parts_of(store).run([("HSET", keys_of(store).progress("u"), "v", value)])
    assert (await rebuilt(store)).failed == {NO_RECORD: 1}
    assert await parts_of(store).run([("HGET", keys_of(store).progress("u"), "v")]) == [value]


@pytest.mark.parametrize("rev", ["abc", "", "nan", "-1", "1.5", "9" * 30, "0", None])
async def test_a_damaged_revision_is_restored_from_the_records(store: Store, rev: str | None) -> None:
    """If it cannot be read, or is lower than a record's; then the learner's reports are stored again."""
    await commit(store, ("u", "v", play(1, 5)), ("u", "w", play(1, 5)))
    await parts_of(store).run(
        [
            ("HDEL", keys_of(store).progress("u"), "rev")
            if rev is None
            else ("HSET", keys_of(store).progress("u"), "rev", rev)
        ]
    )
    assert (await rebuilt(store, repair=False)).drift == {NO_REV: 1}
    assert (await rebuilt(store)).drift == {NO_REV: 1}
    assert (await rebuilt(store)).drift == {}
    await commit(store, ("u", "v", play(2, 7)))
    assert (await sound_record(store, "u", "v")).rev == 3


OTHER_TYPES = (("SET", "text"), ("RPUSH", "text"), ("ZADD", 1, "text"), ("HSET", "a", "b"))
FOREIGN_KEYS = [
    (kind, make)
    for kind in ("audience", "summary", "curve", "live", "before", "released")
    for make in OTHER_TYPES
    if make[0] != ("ZADD" if kind == "live" else "HSET")
]


@pytest.mark.parametrize(("kind", "make"), FOREIGN_KEYS, ids=[f"{kind}, {make[0]}" for kind, make in FOREIGN_KEYS])
async def test_a_derived_key_of_another_type_is_created_again(store: Store, kind: str, make: tuple[Any, ...]) -> None:
    """All of its contents, except live viewers and released totals, can be derived from records."""
    await fill(store)
    sound, key = await whole(store), getattr(keys_of(store), kind)("v")
    await parts_of(store).run([("DEL", key), (make[0], key, *make[1:])])
    looked = await rebuilt(store, repair=False)
    assert looked.drift[FOREIGN] == 1
    assert (await parts_of(store).run([("TYPE", key)]))[0] != (b"zset" if kind == "live" else b"hash")
    await rebuilt(store)
    assert await whole(store) == sound
    assert (await rebuilt(store, repair=False)) == Found(looked.records, looked.audiences)


async def test_damaged_source_data_is_reported_and_kept(store: Store) -> None:
    """Keys of learners and of the catalogue are the source of truth, whatever their type; everything else is
    checked."""
    await fill(store)
    learner, ours = keys_of(store).progress("bad"), keys_of(store).catalogue("v")
    await parts_of(store).run([("SET", learner, "text"), ("HSET", ours, "title", "t", "duration_ms", "90.5")])
    await parts_of(store).run(
        [
            ("HSET", keys_of(store).progress("u1"), b"\xff", b"x"),
            ("SET", keys_of(store).catalogue("w"), "text"),
        ]
    )
    await parts_of(store).run(
        [("HSET", f"{keys_of(store).prefix}:{{u00}}:progress:\udcff".encode(errors="surrogateescape"), "v", "x")]
    )
    found = await rebuilt(store)
    assert found.failed == {
        "a learner's key of another Redis type": 1,
        "a catalogue entry that can't be read": 2,
        "a record whose videoId is not UTF-8": 1,
    }
    assert (found.records, found.audiences, found.drift) == (5, 2, {})
    assert await parts_of(store).run([("GET", learner)]) == [b"text"]
    assert store.damaged_values["key"] >= 1


async def test_memory_does_not_grow_with_the_amount_of_drift(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most MAX_SUSPECTS names wait for their grace period."""
    monkeypatch.setattr(rebuild, "MAX_SUSPECTS", 100)
    monkeypatch.setattr(rebuild, "PAGE", 30)
    await fill(store, 700)
    await parts_of(store).run([("DEL", *keys_of(store).of_shard("v"))])
    work = Rebuild(parts_of(store), repair=True, grace_s=0, now=lambda: NOW)
    most = 0
    real = work._judge

    async def judged() -> None:
        nonlocal most
        most = max(most, len(work._suspects))
        await real()

    monkeypatch.setattr(work, "_judge", judged)
    assert (await work.run()).drift == {BEHIND: 704}
    assert 100 <= most < 130
    assert await kept(store, "v") == await recounted(store, "v")
