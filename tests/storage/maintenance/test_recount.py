"""Recounts: totals that differ from the sum of their audience are found, and corrected while others write."""

import msgpack
import pytest

from playhead.protocol.record import Record
from playhead.storage.maintenance import recount
from playhead.storage.maintenance.recount import REPAIRS, SLICE_BYTES, Disturbed, Recount
from playhead.storage.parts import Parts
from playhead.storage.read.totals import Totals
from playhead.storage.values.packing import pack_record
from tests.storage.conftest import NewStore

pytestmark = pytest.mark.stores("valkey")
NOW = 5_000
LARGE = 3 * SLICE_BYTES // 50
"""Viewers whose entries take several slices."""


@pytest.fixture
def parts(new_store: NewStore) -> Parts:
    made: Parts = new_store(Parts)
    return made


async def watch(parts: Parts, viewers: int, seconds: int = 5) -> None:
    value = pack_record(Record(rev=1, last_watched=9, seen=[0, seconds]))
    await parts.commits.update_videos({"v": [(f"u{n}", value) for n in range(viewers)]}, NOW)


@pytest.mark.parametrize("viewers", [0, 3, LARGE])
async def test_sound_totals_have_not_drifted(parts: Parts, viewers: int) -> None:
    await watch(parts, viewers)
    for repair in (False, True):
        assert await Recount(parts, repair=repair).drifted("v") is False
    assert await parts.totals.read("v") == Totals(viewers, 0, 5 * viewers)


@pytest.mark.parametrize("viewers", [3, LARGE])
@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("summary", "viewers", "99"),
        ("summary", "watched", "many"),
        ("summary", "likes", "5"),
        ("curve", "s0", "0"),
        ("curve", "a9", "1"),
        ("curve", "x1", "1"),
    ],
)
async def test_drift_is_reported_and_corrected(parts: Parts, viewers: int, kind: str, field: str, value: str) -> None:
    await watch(parts, viewers)
    summary, curve = parts.keys.summary("v"), parts.keys.curve("v")
    sound = await parts.run([("HGETALL", summary), ("HGETALL", curve)])
    await parts.run([("HSET", getattr(parts.keys, kind)("v"), field, value)])
    assert await Recount(parts, repair=False).drifted("v") is True
    assert await parts.run([("HGET", getattr(parts.keys, kind)("v"), field)]) == [value.encode()], "only reported"
    assert await Recount(parts, repair=True).drifted("v") is True
    repaired = await parts.run([("HGETALL", summary), ("HGETALL", curve)])
    assert [{name: by for name, by in each.items() if by != b"0"} for each in repaired] == [
        {name: by for name, by in each.items() if by != b"0"} for each in sound
    ]
    assert await Recount(parts, repair=False).drifted("v") is False


async def test_more_fields_than_one_call_repairs(parts: Parts) -> None:
    await watch(parts, 3)
    wrong = [word for second in range(2 * REPAIRS) for word in (f"s{1_000 + second}", 1)]
    await parts.run([("HSET", parts.keys.curve("v"), *wrong)])
    assert await Recount(parts, repair=True).drifted("v") is True
    assert await Recount(parts, repair=False).drifted("v") is False


class Interrupted(Parts):
    """Another recount of the same video begins between any two calls."""

    other: Recount | None = None

    async def run(self, commands: list[tuple[object, ...]]) -> list[object]:
        replies = await super().run(commands)
        if self.other is not None and commands[0][0] == "EVALSHA":
            other, self.other = self.other, None
            await other._summed("v", "another recount", True)
            self.other = other
        return replies


async def test_a_recount_that_others_take_over_again_and_again_gives_up(new_store: NewStore) -> None:
    parts: Interrupted = new_store(Interrupted)
    await watch(parts, LARGE)
    await parts.run([("HINCRBY", parts.keys.summary("v"), "viewers", 1)])
    parts.other = Recount(parts, repair=True)
    with pytest.raises(Disturbed):
        await Recount(parts, repair=True).drifted("v")
    parts.other = None
    assert await Recount(parts, repair=True).drifted("v") is True
    assert await parts.totals.read("v") == Totals(LARGE, 0, 5 * LARGE)


async def test_a_repair_whose_mark_is_gone_is_not_applied(parts: Parts) -> None:
    """It expires with a recount that pauses for too long; the repair would be of another moment."""
    await watch(parts, 3)
    own = Recount(parts, repair=True)
    count = await own._summed("v", "token", True)
    assert count is not None
    assert count.marked
    repair = (recount.SUMMARY, b"viewers", 1)
    assert await own._adjusted("v", "another token", [repair]) is False
    assert await parts.totals.read("v") == Totals(3, 0, 15)
    assert await own._adjusted("v", "token", [repair]) is True
    assert await parts.totals.read("v") == Totals(2, 0, 15)


def test_a_slice_is_packed_as_the_script_answers_it() -> None:
    """The first slice has the audience's size and the stored totals as well."""
    count = recount._Count()
    stored = [b"viewers", b"2", b"watched", b"10", b"recount", b"token"]
    count.add(1, [1, 0, 5], [0, 1, 5, -1], [], 2, stored, [b"s0", b"2", b"s5", b"-2"])
    assert count.missing == 1
    count.add(*msgpack.unpackb(msgpack.packb([1, [1, 0, 5], [0, 1, 5, -1], []])))
    assert (count.missing, count.repairs()) == (0, [])
