"""A damaged value affects only its own record or its own video, whatever its bytes are: at each script and reader."""

import asyncio
import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ResponseError

from playhead.protocol.intervals import MAX_INTERVALS
from playhead.protocol.record import MAX_SESSIONS, Guard, Outcome, Record, Report
from playhead.protocol.scalars import MAX_INSTANT, MAX_MEDIA_S
from playhead.storage.guarantees.epoch import GENERATION, MAX_GENERATIONS, parse_epoch
from playhead.storage.read.changes import Changes
from playhead.storage.read.totals import Totals
from playhead.storage.store import Store, open_store
from playhead.storage.values.damage import KINDS, LINES, Damaged, DamageLog, is_foreign
from playhead.storage.values.packing import MAX_VALUE, pack_record, unpack_record
from playhead.storage.values.push_messages import unpack_push
from playhead.storage.write.ended_sessions import parse_ending
from playhead.storage.write.pending import Batch, Committed, Delta
from tests.conftest import StoreServer
from tests.histories import report_of
from tests.inside import keys_of, parts_of, records_in, recounted, redis_of
from tests.storage.conftest import NewStore

NOW = 5_000
SEEN = [0, 5, 8, 12]
SOUND = Record(3, 0, 400, 2, 9_000, 20_000, 0, 5_000, 400, -1, 0, SEEN, [1, 2], [Guard("a", 4, 400, 9_000)])


def play(session: str = "new", seq: int = 1, at: int = 1_000) -> Report:
    return report_of(session, seq, at, [(20_000, 25_000)], 25_000)


async def commit(store: Store, *ops: tuple[str, str, Report | int]) -> Committed:
    batch = Batch()
    for user_id, video_id, op in ops:
        batch.deltas.setdefault((user_id, video_id), Delta()).ops.append(op)
    return await store.commit(batch, NOW, lambda user_id: False)


async def changes_of(store: Store, user_id: str, since: int | None = None) -> tuple[dict[str, Record], list[str]]:
    """Records by videoId, and the videoIds of the damaged ones."""
    changes = await store.changes(user_id, since)
    assert isinstance(changes, Changes)
    records = {video_id: record async for page in changes.pages() for video_id, record in page.records}
    return records, changes.damaged


# Records


def body(*numbers: Any, seen: Any = (), again: Any = (), guards: Any = ()) -> bytes:
    """A value with these as its first numbers, and 0 for the others."""
    packed: bytes = msgpack.packb([*numbers, *[0] * (10 - len(numbers)), seen, again, guards])
    return b"\x03" + packed


def with_guard(*five: Any) -> bytes:
    return body(0, 400, guards=five)


INSTANTS = (0, 1, 5, 7, 9)
"""Places of the numbers that are instants: one that is later than now is taken for an earlier one anyway."""

REFUSED: dict[str, bytes] = {
    "no msgpack": b"\xc1",
    "text": b"nonsense",
    "cut off": pack_record(SOUND)[:-1],
    "more behind it": pack_record(SOUND) + b"\x00",
    "rev alone": b"\x03",
    "rev text": b"\xa13" + pack_record(SOUND)[1:],
    "rev negative": b"\xff" + pack_record(SOUND)[1:],
    "rev a fraction": msgpack.packb(0.5) + pack_record(SOUND)[1:],
    "rev NaN": msgpack.packb(float("nan")) + pack_record(SOUND)[1:],
    "rev nil": b"\xc0" + pack_record(SOUND)[1:],
    "one field less": b"\x03" + msgpack.packb([0] * 9 + [[], [], []]),
    "a later version": b"\x03" + msgpack.packb([*[0] * 10, [], [], [], 0]),
    "a map": b"\x03" + msgpack.packb({n: 0 for n in range(13)}, use_bin_type=False),
    "too long": body(0, 400, seen=SEEN, guards=["a" * MAX_VALUE, 1, 1, 1, 0]),
    "nested": b"\x03" + b"\x91" * 2_000 + b"\x00",
    "array without end": b"\x03\xdd\xff\xff\xff\xff",
    **{
        f"number {place} {name}": body(*[0, 400, *[0] * 8][:place], value)
        for place in range(10)
        for name, value in {
            "text": "5", "nil": None, "true": True, "a list": [5], "NaN": float("nan"), "infinite": float("inf"),
            "a fraction": 2.5, "too negative": -2, "too large": 2**60,
        }.items()
        if place not in INSTANTS or name not in ("infinite", "too large")
    },
    "fractions that make a whole": body(0, 400, 0.5, 0.5),
    "seen nil": body(0, 400, seen=None),
    "seen text": body(0, 400, seen="abcd"),
    "seen a number": body(0, 400, seen=5),
    "seen a map": body(0, 400, seen={"a": 1}),
    "seen odd": body(0, 400, seen=[1, 2, 3]),
    "seen not sorted": body(0, 400, seen=[5, 9, 0, 3]),
    "seen touching": body(0, 400, seen=[0, 5, 5, 9]),
    "seen negative": body(0, 400, seen=[-5, 9]),
    "seen fractions": body(0, 400, seen=[0.5, 9]),
    "seen NaN": body(0, 400, seen=[0, float("nan")]),
    "seen texts": body(0, 400, seen=["0", "5"]),
    "seen lists": body(0, 400, seen=[[0], [5]]),
    "seen beyond any video": body(0, 400, seen=[0, MAX_MEDIA_S + 1]),
    "seen too many": body(0, 400, seen=list(range(2 * MAX_INTERVALS + 2))),
    "again not sorted": body(0, 400, seen=SEEN, again=[5, 1]),
    "again a map": body(0, 400, seen=SEEN, again={"a": 1}),
    "guards text": body(0, 400, guards="abcde"),
    "guards a map": body(0, 400, guards={"a": 1}),
    "guards cut": with_guard("a", 1, 1, 1),
    "guards too many": with_guard(*["a", 1, 1, 1, 0] * (MAX_SESSIONS + 1)),
    "guard's name a number": with_guard(5, 1, 1, 1, 0),
    "guard's name a list": with_guard(["a"], 1, 1, 1, 0),
    "guard's name nil": with_guard(None, 1, 1, 1, 0),
    **{
        f"guard's number {place} {name}": with_guard("a", *[1] * place, value, *[0] * (3 - place))
        for place in range(4)
        for name, value in {"text": "1", "NaN": float("nan"), "negative": -1, "a fraction": 0.5}.items()
    },
}  # fmt: skip
"""Values that no reader takes."""


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED)
async def test_reports_to_a_damaged_record_fail(store: Store, value: bytes) -> None:
    """The value is kept for a repair. The learner's other records, and others', are stored and read in the same round
    trips."""
    assert isinstance(unpack_record(value), Damaged)
    key = keys_of(store).progress("bad")
    await parts_of(store).run([("HSET", key, "v", value, "rev", 3)])
    committed = await commit(
        store, ("good", "v", play()), ("bad", "v", play()), ("bad", "w", play()), ("fine", "v", play())
    )
    assert committed.results["bad", "v"].outcomes == (0, Outcome.FAILED)
    assert await parts_of(store).run([("HGET", key, "v")]) == [value]
    for user_id, video_id in (("good", "v"), ("bad", "w"), ("fine", "v")):
        assert committed.results[user_id, video_id].outcomes == ()
        record = await store.record(user_id, video_id)
        assert isinstance(record, Record)
        assert record.seen == [20, 25]
    assert isinstance(await store.record("bad", "v"), Damaged)
    records, damaged = await changes_of(store, "bad")
    assert [(video_id, record.seen) for video_id, record in records.items()] == [("w", [20, 25])]
    assert damaged == ["v"]
    assert await store.totals("v") == Totals(2, 0, 10)
    found = await store.records(["good", "bad", "nobody"], "v")
    assert [type(record) for record in found] == [Record, Damaged, Record]
    assert store.damaged_values["record"] > 0


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED)
async def test_a_deletion_resets_a_damaged_record(store: Store, value: bytes) -> None:
    """Reports before it have failed, later ones count, and older ones are deleted."""
    await parts_of(store).run([("HSET", keys_of(store).progress("bad"), "v", value, "rev", 3)])
    reports = play("s", 1, 900), 1_000, play("s", 2, 1_100), play("t", 1, 950)
    committed = await commit(store, *(("bad", "v", op) for op in reports))
    assert committed.results["bad", "v"].outcomes == (0, Outcome.FAILED, 3, Outcome.DELETED)
    record = await store.record("bad", "v")
    assert isinstance(record, Record)
    assert (record.rev, record.deleted_at, record.last_watched, record.seen) == (4, 1_000, 1_100, [20, 25])
    assert committed.record(("bad", "v")) == record
    assert await store.totals("v") == Totals(1, 0, 5)


@pytest.mark.parametrize("place", INSTANTS)
@pytest.mark.parametrize("value", [MAX_INSTANT + 1, 2**60, float("inf")])
async def test_an_invalid_instant_is_repaired_by_the_next_report(store: Store, place: int, value: float) -> None:
    """No reader accepts it; the script treats it as an instant later than now, which is not believed."""
    await parts_of(store).run(
        [("HSET", keys_of(store).progress("u"), "v", body(*[0, 400, *[0] * 8][:place], value), "rev", 3)]
    )
    committed = await commit(store, ("u", "v", play(at=NOW)))
    assert committed.results["u", "v"].outcomes == ()
    record = await store.record("u", "v")
    assert isinstance(record, Record)
    assert record.last_watched == NOW


async def test_a_record_is_checked_now_and_then_during_a_session(store: Store) -> None:
    """It was intact when the session began. If it is damaged later, some reports are still added: a rebuild
    keeps them."""
    key = keys_of(store).progress("u")
    await commit(store, ("u", "v", play("a", 1)))
    record = unpack_record((await parts_of(store).run([("HGET", key, "v")]))[0])
    assert isinstance(record, Record)
    record.seen = [9, 9]
    await parts_of(store).run([("HSET", key, "v", pack_record(record))])
    refused = []
    for seq in range(2, 20):
        if (await commit(store, ("u", "v", play("a", seq)))).results["u", "v"].outcomes:
            refused.append(seq)
    assert refused == [8, 16]
    assert (await commit(store, ("u", "v", play("b", 1)))).results["u", "v"].outcomes == (0, Outcome.FAILED)


@dataclass
class Bench:
    """A store, and one event loop for all examples of a test."""

    runner: asyncio.Runner
    store: Store
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def fresh(self) -> str:
        return f"x{next(self._numbers)}"


@pytest.fixture(scope="module")
def bench(store_server: StoreServer) -> Iterator[Bench]:
    with asyncio.Runner() as runner:

        async def opened() -> Store:
            return open_store(store_server.url, worker="w", key_prefix=f"t{uuid4().hex}")

        store = runner.run(opened())
        yield Bench(runner, store)
        runner.run(store.close())


@st.composite
def mangled(draw: st.DrawFn, sound: bytes) -> bytes:
    """A value with some bytes changed, removed or inserted, or unchanged."""
    value = bytearray(sound)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(value)))
        cut, put = draw(st.integers(0, 3)), draw(st.binary(max_size=4))
        value[at : at + cut] = put
    return bytes(value) if draw(st.integers(0, 9)) else draw(st.binary(max_size=60))


@given(value=mangled(pack_record(SOUND)))
def test_readers_accept_what_the_script_accepts(bench: Bench, value: bytes) -> None:
    """For any bytes: the report fails and nothing changes, or the resulting record can be read."""
    user, other, video, store = bench.fresh(), bench.fresh(), bench.fresh(), bench.store

    async def tried() -> None:
        key = keys_of(store).progress(user)
        await parts_of(store).run([("HSET", key, video, value, "rev", 3)])
        committed = await commit(store, (user, video, play()), (other, video, play()))
        (after,) = await parts_of(store).run([("HGET", key, video)])
        if committed.results[user, video].outcomes == (0, Outcome.FAILED):
            assert after == value
        else:
            assert isinstance(unpack_record(after), Record)
            assert isinstance(await store.record(user, video), Record)
        record = await store.record(other, video)
        assert isinstance(record, Record)
        assert record.seen == [20, 25]

    bench.runner.run(tried())


ENTRY = msgpack.packb(1) + msgpack.packb([5, 0, [0, 5], []])


@given(entry=mangled(ENTRY), recounted=st.booleans())
def test_an_entry_of_any_bytes_affects_only_itself(bench: Bench, entry: bytes, recounted: bool) -> None:
    """The record is stored, the video's other viewers are counted, and the totals can be recounted."""
    user, other, video, store = bench.fresh(), bench.fresh(), bench.fresh(), bench.store

    async def tried() -> None:
        audience, _, _, _ = keys_of(store).of_shard(video)
        await parts_of(store).run([("HSET", audience, user, entry)])
        if recounted:
            await parts_of(store).run([("HSET", keys_of(store).before(video), "", "token 0")])
            await parts_of(store).run([("HSET", keys_of(store).summary(video), "recount", "token")])
        committed = await commit(store, (other, video, play()), (user, video, play()))
        assert [committed.results[name, video].outcomes for name in (user, other)] == [(), ()]
        totals = await store.totals(video)
        assert isinstance(totals, Totals)
        assert totals.viewers in (1, 2)

    bench.runner.run(tried())


# Keys of learners


@pytest.mark.parametrize(
    "rev", ["", "abc", "nan", "inf", "-1", "1.5", "1e300", "9007199254740991", "1" * 400], ids=lambda rev: rev[:8]
)
async def test_a_revision_of_any_text_affects_only_its_learner(store: Store, rev: str) -> None:
    await parts_of(store).run([("HSET", keys_of(store).progress("bad"), "rev", rev)])
    committed = await commit(store, ("good", "v", play()), ("bad", "v", play()))
    assert committed.results["bad", "v"].outcomes == (0, Outcome.FAILED)
    assert committed.results["good", "v"].outcomes == ()
    assert isinstance(await store.changes("bad"), Damaged)
    assert isinstance(await store.changes("good"), Changes)
    await parts_of(store).events(lambda event: None).announce("bad")
    assert store.damaged_values["learner"] == 1


@pytest.mark.parametrize(
    "trail", [b"\xff\xfe", b",;,;", b"v,9;", b"v,1;w,2;", b"v,x;", b"v,2", b"v" * 100_000, b"v,1;" * 9_999]
)
async def test_a_trail_of_any_bytes_hides_no_change(store: Store, trail: bytes) -> None:
    """All records are read instead, and the trail is written again."""
    for seq, video_id in enumerate("vwv", 1):
        await commit(store, ("u", video_id, play("s", seq)))
    await parts_of(store).run([("HSET", keys_of(store).progress("u"), "trail", trail)])
    assert (await changes_of(store, "u", 1))[0].keys() == {"v", "w"}
    await commit(store, ("u", "x", play()))
    assert (await changes_of(store, "u", 3))[0].keys() == {"x"}


async def test_a_field_name_that_is_not_utf_8_affects_only_itself(store: Store) -> None:
    await commit(store, ("u", "v", play()))
    await parts_of(store).run(
        [
            ("HSET", keys_of(store).progress("u"), b"\xff\x00", b"x"),
            ("HSET", keys_of(store).progress("u"), "w", b""),
        ]
    )
    changes = await store.changes("u")
    assert isinstance(changes, Changes)
    assert dict(records_in(changes)).keys() == {"v", "w"}
    assert changes.damaged == ["\ufffd\x00"]


# Keys of videos

OTHER = {"text": ("SET", "text"), "list": ("RPUSH", "text"), "set": ("SADD", "text"), "stream": ("XADD", "*", "a", "b")}


@pytest.mark.parametrize("make", OTHER.values(), ids=OTHER)
@pytest.mark.parametrize("kind", ["audience", "summary", "curve", "live", "before", "catalogue", "released"])
async def test_a_videos_key_of_another_type_affects_only_that_video(
    store: Store, kind: str, make: tuple[Any, ...]
) -> None:
    """All reports are stored; the totals of all other videos are unaffected, in the same calls."""
    key = getattr(keys_of(store), kind)("bad")
    await parts_of(store).run([(make[0], key, *make[1:])])
    if kind == "before":
        await parts_of(store).run([("HSET", keys_of(store).summary("bad"), "recount", "token")])
    videos = ["good", "bad", "fine"]
    for round_ in range(2):
        committed = await commit(store, *((user, video, play("s", 1 + round_)) for video in videos for user in "uv"))
        assert all(result.outcomes == () for result in committed.results.values())
    for video in ("good", "fine"):
        assert await store.totals(video) == Totals(2, 0, 10)
        found = await store.analytics(video, NOW)
        assert not isinstance(found, Damaged)
        assert found == (*await recounted(store, video), 2)
    for user in "uv":
        record = await store.record(user, "bad")
        assert isinstance(record, Record)
        assert record.seen == [20, 25]
    await store.analytics("bad", NOW)
    await recounted(store, "bad")
    await store.released_totals("bad", 5)
    assert [users async for users in store.viewers("bad")] in ([["u", "v"]], [["v", "u"]], [], [[]])
    if kind in ("audience", "summary", "curve", "live"):
        assert store.damaged_values["totals"] > 0
        assert isinstance(await store.analytics("bad", NOW), Damaged) is (kind != "audience")
    if kind == "catalogue":
        assert isinstance(await store.video("bad"), Damaged)
        assert store.damaged_values["catalogue"] > 0


@pytest.mark.parametrize("value", ["many", "", "nan", "inf", "1.5", "9e300", "1" * 5_000], ids=lambda value: value[:8])
async def test_a_total_of_any_text_affects_only_its_video(store: Store, value: str) -> None:
    """Readers of the totals get Damaged; viewers are still added to the audience."""
    await commit(store, ("u", "bad", play()), ("u", "good", play()))
    await parts_of(store).run(
        [
            ("HSET", keys_of(store).summary("bad"), "watched", value),
            ("HSET", keys_of(store).curve("bad"), "s20", value),
        ]
    )
    assert isinstance(await store.totals("bad"), Damaged)
    assert isinstance(await store.analytics("bad", NOW), Damaged)
    assert isinstance(await store.released_totals("bad", 2), Damaged)
    await commit(store, ("v", "bad", play()), ("v", "good", play()))
    assert await store.totals("good") == Totals(2, 0, 10)
    assert (await recounted(store, "bad"))[0] == Totals(2, 0, 10)


@pytest.mark.parametrize("name", [b"s999999999999", b"s-1", b"x1", b"s1.5", b"\xff", b"s", b""])
async def test_a_point_of_any_name_affects_only_its_video(store: Store, name: bytes) -> None:
    """However late its second is: no list of that length is created."""
    await commit(store, ("u", "bad", play()))
    await parts_of(store).run([("HSET", keys_of(store).curve("bad"), name, 1)])
    assert isinstance(await store.analytics("bad", NOW), Damaged)


@pytest.mark.parametrize(
    "duration", ["90.5", "-1", "abc", "", "1e3", "nan", "9" * 30, str(MAX_MEDIA_S * 1_000 + 1), b"\xff"]
)
async def test_a_duration_of_any_text_is_unknown(store: Store, duration: str | bytes) -> None:
    """Reports to the video count as for a video without a catalogue entry; putting the entry again repairs it."""
    await parts_of(store).run([("HSET", keys_of(store).catalogue("bad"), "title", "t", "duration_ms", duration)])
    assert await parts_of(store).catalogue.durations({"bad", "good"}) == {"bad": 0, "good": 0}
    committed = await commit(store, ("u", "bad", play()), ("u", "good", play()))
    assert all(result.outcomes == () for result in committed.results.values())
    assert isinstance(await store.video("bad"), Damaged)
    assert await store.totals("bad") == Totals(1, 0, 5)
    assert not isinstance(await store.analytics("bad", NOW), Damaged)


async def test_a_title_that_is_not_utf_8_affects_only_the_title(store: Store) -> None:
    await parts_of(store).run([("HSET", keys_of(store).catalogue("v"), "title", b"\xff", "duration_ms", 22_000)])
    assert isinstance(await store.video("v"), Damaged)
    assert await parts_of(store).catalogue.durations({"v"}) == {"v": 22_000}


# Keys of the store


NO_EPOCH = ("nonsense", b"\xff\xfe", "", "0" * 32 + ".99999999")
NO_COUNT = ("abc", "1.5", "nan", "", "9" * 30)


@pytest.mark.parametrize("make", [*(("SET", value) for value in NO_EPOCH), *OTHER.values()], ids=repr)
async def test_an_invalid_epoch_is_replaced(store: Store, new_store: NewStore, make: tuple[Any, ...]) -> None:
    """Devices reconnect once; revisions continue where scripts can count, and all processes agree."""
    key = keys_of(store).epoch
    await commit(store, ("u", "v", play("s", 1)))
    await parts_of(store).run([("DEL", key), (make[0], key, *make[1:])])
    committed = await commit(store, ("u", "v", play("s", 2)))
    assert committed.revs["u"][1] < 2 * GENERATION
    again = await commit(store, ("u", "v", play("s", 3)))
    other = new_store()
    assert (
        again.epoch == committed.epoch == await other.epoch() == (await commit(other, ("u", "v", play("s", 4)))).epoch
    )
    changes = await store.changes("u")
    assert isinstance(changes, Changes)
    assert changes.epoch == committed.epoch
    assert store.damaged_values["epoch"] > 0


@pytest.mark.parametrize("make", [*(("SET", value) for value in NO_COUNT), *OTHER.values()], ids=repr)
async def test_an_invalid_count_of_commits_is_not_a_loss(store: Store, make: tuple[Any, ...]) -> None:
    """The store still has its data, so no device reconnects; the count continues."""
    before = await commit(store, ("u", "v", play("s", 1)))
    (key,) = [key for key in await redis_of(store).keys(f"{keys_of(store).prefix}:fence:*")]
    await parts_of(store).run([("DEL", key), (make[0], key, *make[1:])])
    for seq in range(2, 5):
        after = await commit(store, ("u", "v", play("s", seq)))
        assert after.epoch == before.epoch
        assert after.results["u", "v"].outcomes == ()
    assert store.damaged_values["fence"] == 1


@pytest.mark.parametrize("make", OTHER.values(), ids=OTHER)
async def test_ended_sessions_of_another_type_end_no_session(store: Store, make: tuple[Any, ...]) -> None:
    await parts_of(store).run([(make[0], keys_of(store).ended, *make[1:])])
    assert await parts_of(store).ended_sessions.recent() == []
    assert isinstance(await store.end_sessions("u", NOW), Damaged)


async def test_an_ended_session_of_any_bytes_affects_only_itself(store: Store) -> None:
    await parts_of(store).run([("ZADD", keys_of(store).ended, "inf", "a", 5, b"\xff", 7, "b", "-inf", "c")])
    assert await parts_of(store).ended_sessions.recent() == [("b", 7)]


@given(data=st.binary(max_size=200))
def test_a_message_of_any_bytes_is_read_or_damaged(data: bytes) -> None:
    for parse in (unpack_push, parse_epoch, parse_ending):
        parse(data)  # raises nothing


RECORD = pack_record(Record(9, 0, 5))
PUSHES: dict[str, tuple[Any, bool]] = {
    "a push": ((b"w", 3, 9, [(b"v", RECORD)]), True),
    "an announcement": ((b"w", 9, 9, []), True),
    "no record, and yet a change": ((b"w", 3, 9, []), False),
    "a revision that no record has": ((b"w", 3, 10, [(b"v", RECORD)]), False),
    "backwards": ((b"w", 10, 9, [(b"v", RECORD)]), False),
    "far ahead": ((b"w", 3, 2**60, []), False),
    "negative": ((b"w", -1, 9, [(b"v", RECORD)]), False),
    "true": ((b"w", True, 9, [(b"v", RECORD)]), False),
    "a damaged record": ((b"w", 3, 9, [(b"v", RECORD[:-1])]), False),
    "an empty record": ((b"w", 3, 9, [(b"v", b""), (b"w", RECORD)]), False),
    "a worker that is no text": ((b"\xff", 3, 9, [(b"v", RECORD)]), False),
    "records that are none": ((b"w", 3, 9, 5), False),
    "pairs that are none": ((b"w", 3, 9, [5]), False),
    "a map": ({b"w": 1}, False),
}


@pytest.mark.parametrize(("message", "sound"), PUSHES.values(), ids=PUSHES)
def test_a_push_spans_the_revisions_of_its_records(message: Any, sound: bool) -> None:
    """Otherwise a device would take itself for up to date."""
    assert isinstance(unpack_push(msgpack.packb(message, use_bin_type=False)), Damaged) is not sound


def test_an_epochs_generation_is_bounded() -> None:
    """Lua counts exactly up to 2**53: no epoch may make it start near there."""
    name = "0" * 32
    assert parse_epoch(f"{name}.{MAX_GENERATIONS}".encode()) == f"{name}.{MAX_GENERATIONS}"
    assert isinstance(parse_epoch(f"{name}.{MAX_GENERATIONS + 1}".encode()), Damaged)
    assert MAX_GENERATIONS * GENERATION < 2**52 + 1


# What is said of it


def test_each_damaged_value_is_counted_each_time_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever its name; many at once do not fill the log, and a value without a line is logged when it is
    read later."""
    now = 0.0
    log = DamageLog(lambda: now)
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            log.found("record", "user u, video v", Damaged("cut off"))
        assert (log.counts["record"], len(caplog.records)) == (5, 1)
        assert "record of user u, video v can't be read (cut off)" in caplog.text
        for n in range(1_000):
            log.found("entry", f"user {n}", Damaged("x"))
        assert (log.counts["entry"], len(caplog.records)) == (1_000, LINES)
        now = 3_600.0
        for n in range(1_000):
            log.found("entry", f"user {n}", Damaged("x"))
        assert len(caplog.records) == 2 * LINES
        assert len(set(caplog.messages)) == 2 * LINES
    assert log.counts.keys() == set(KINDS)


def test_only_a_key_of_another_type_is_foreign() -> None:
    """Temporary refusals and missing permissions are errors of the store, not damage."""
    assert is_foreign(ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"))
    for said in ("OOM command not allowed", "NOPERM this user has no permissions", "READONLY", "ERR not WRONGTYPE"):
        assert not is_foreign(ResponseError(said))
    assert not is_foreign(b"WRONGTYPE")


@pytest.mark.parametrize("command", ["hmget", "hset", "hget", "hdel", "zadd"])
async def test_a_refusal_of_the_store_fails_the_commit_and_no_record(store: Store, command: str) -> None:
    """A missing permission is not damage: no report is rejected for good, and the batch is committed again."""
    user = f"u{uuid4().hex}"
    admin = redis_of(store)
    await admin.execute_command("ACL", "SETUSER", user, "on", "nopass", "~*", "&*", "+@all", f"-{command}")  # type: ignore[no-untyped-call] # redis-py has no types here
    url = redis_of(store).connection_pool.connection_kwargs["path"]
    limited = open_store(f"unix://{user}:x@{url}", worker="limited", key_prefix=keys_of(store).prefix)
    try:
        await commit(store, ("u", "v", play("s", 1)))
        batch = Batch()
        batch.deltas["u", "v"] = Delta([play("s", 2), NOW] if command == "hdel" else [play("s", 2)])
        with pytest.raises(Exception, match=r"(?i)permission|can't run this command"):
            await limited.commit(batch, NOW, lambda user_id: False)
        assert parts_of(limited).damage.counts["totals"] == 0
    finally:
        await limited.close()
        await admin.execute_command("ACL", "DELUSER", user)  # type: ignore[no-untyped-call] # redis-py has no types here


def test_the_logged_values_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is forgotten, so it is logged once more if it is found again."""
    monkeypatch.setattr("playhead.storage.values.damage.MAX_KNOWN", 3)
    now = itertools.count(0.0, 3_600.0)
    log = DamageLog(lambda: next(now))
    for number in range(5):
        log.found("record", str(number), Damaged("why"))
    assert [what for _, what in log._known] == ["2", "3", "4"]
    assert log.counts["record"] == 5
