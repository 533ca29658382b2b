"""Commits: two stages that may be repeated, with damage that costs its own record or video and nothing else."""

from collections.abc import Iterable
from typing import Any

import pytest

from playhead.protocol.record import Outcome, Record
from playhead.storage.errors import StoreUnavailable
from playhead.storage.guarantees.epoch import GENERATION
from playhead.storage.parts import Parts
from playhead.storage.read.totals import Totals
from playhead.storage.values.packing import pack_record
from playhead.storage.write.pending import Batch, Committed, Delta, Key
from tests.histories import Op, report_of
from tests.storage.conftest import NewStore

pytestmark = pytest.mark.stores("valkey")
NOW = 5_000
GARBAGE = b"\xc1"


@pytest.fixture
def parts(new_store: NewStore) -> Parts:
    made: Parts = new_store(Parts)
    return made


def play(seq: int = 1, seconds: int = 5) -> Op:
    return report_of("a", seq, 100 + seq, [(0, seconds * 1_000)])


async def commit(parts: Parts, ops: Iterable[tuple[Key, Op]], wanted: bool = True) -> Committed:
    batch = Batch()
    for key, op in ops:
        batch.deltas.setdefault(key, Delta()).ops.append(op)
    return await parts.commits.commit(batch, NOW, lambda user: False, lambda user, reporters: wanted)


async def test_a_commit_changes_records_and_totals(parts: Parts) -> None:
    committed = await commit(parts, [(("u", "v"), play()), (("w", "v"), play(1, 7))])
    assert committed.revs == {"u": (0, 1), "w": (0, 1)}
    record = committed.record(("u", "v"))
    assert isinstance(record, Record)
    assert record == await parts.reader.record("u", "v")
    assert record.seen == [0, 5]
    assert await parts.totals.read("v") == Totals(2, 0, 12)


async def test_a_repeated_commit_changes_nothing(parts: Parts) -> None:
    """As after a commit whose answer was lost."""
    ops = [(("u", "v"), play()), (("u", "w"), play(2))]
    first = await commit(parts, ops)
    second = await commit(parts, ops)
    assert first.revs == {"u": (0, 2)}
    assert second.revs == {"u": (2, 2)}
    assert await parts.totals.read("v") == Totals(1, 0, 5)


async def test_an_empty_batch_knows_the_epoch(parts: Parts) -> None:
    committed = await parts.commits.commit(Batch(), NOW, lambda user: False, lambda user, reporters: True)
    assert committed.epoch == parts.epoch.known != ""
    assert (committed.results, committed.revs) == ({}, {})


async def test_values_come_only_where_they_are_wanted_or_something_was_not_joined(parts: Parts) -> None:
    await commit(parts, [(("u", "deleted"), play()), (("u", "deleted"), 4_000)])
    committed = await commit(parts, [(("u", "v"), play()), (("u", "deleted"), play())], wanted=False)
    assert committed.results.keys() == {("u", "deleted")}
    assert committed.results["u", "deleted"].outcomes == (0, Outcome.DELETED)


async def test_many_records_of_one_learner_have_one_span_of_revisions(parts: Parts) -> None:
    """They take several script calls."""
    ops = [(("u", f"v{n}"), play(n + 1)) for n in range(450)]
    committed = await commit(parts, ops)
    assert committed.revs == {"u": (0, 450)}
    assert len(committed.results) == 450


async def test_a_damaged_record_fails_alone_and_is_counted(parts: Parts) -> None:
    await parts.run([("HSET", parts.keys.progress("u"), "rev", 1, "v", GARBAGE)])
    committed = await commit(parts, [(("u", "v"), play()), (("u", "w"), play(2)), (("other", "v"), play())])
    assert committed.results["u", "v"].outcomes == (0, Outcome.FAILED)
    assert parts.damage.counts["record"] == 1
    assert isinstance(committed.record(("u", "w")), Record)
    assert await parts.run([("HGET", parts.keys.progress("u"), "v")]) == [GARBAGE]
    assert await parts.totals.read("v") == Totals(1, 0, 5)


@pytest.mark.parametrize(
    ("kind", "command", "value"),
    [
        ("entry", "HSET audience", ("u", GARBAGE)),
        ("totals", "SET audience", ("text",)),
        ("totals", "SET live", ("text",)),
    ],
    ids=["an entry", "the audience", "the live viewers"],
)
async def test_a_damaged_video_costs_its_totals_and_no_record(
    parts: Parts, kind: str, command: str, value: tuple[Any, ...]
) -> None:
    name, key = command.split()
    await parts.run([(name, getattr(parts.keys, key)("v"), *value)])
    committed = await commit(parts, [(("u", "v"), play()), (("u", "w"), play(2))])
    assert {key for key in committed.results if isinstance(committed.record(key), Record)} == {("u", "v"), ("u", "w")}
    assert parts.damage.counts[kind] >= 1
    assert await parts.totals.read("w") == Totals(1, 0, 5)


async def test_a_lost_epoch_moves_new_revisions_above_the_lost_ones(parts: Parts) -> None:
    """The commit is repeated in the new generation, so that videos do not skip its states as too old."""
    first = await commit(parts, [(("u", "v"), play())])
    await parts.run([("DEL", parts.keys.epoch, parts.keys.progress("u"))])
    second = await commit(parts, [(("u", "v"), play(2))])
    assert second.epoch != first.epoch
    assert second.revs["u"][1] > GENERATION
    assert await parts.totals.read("v") == Totals(1, 0, 5)


async def test_stage_2_alone_skips_values_that_cannot_be_read(parts: Parts) -> None:
    value = pack_record(Record(rev=3, last_watched=9, seen=[0, 5]))
    await parts.commits.update_videos({"v": [("u", value), ("x", GARBAGE)], "w": [("u", value)]}, NOW)
    assert await parts.totals.read("v") == await parts.totals.read("w") == Totals(1, 0, 5)
    assert parts.damage.counts["record"] == 1
    await parts.commits.update_videos({"v": [("u", value)]}, NOW)
    assert await parts.totals.read("v") == Totals(1, 0, 5), "repeating it changes nothing"


async def test_a_rollback_between_the_stages_fails_the_commit(new_store: NewStore) -> None:
    """Its first stage is lost, so it does not count as stored."""
    parts: Parts = new_store(Parts)
    await commit(parts, [(("u", "v"), play())])
    finish = parts.commits.finish

    async def after_a_rollback(commands: list[tuple[Any, ...]], written: set[str]) -> None:
        (fence,) = parts.commits._fences.at("")
        await parts.run([("SET", fence.key, 0)])
        await finish(commands, written)

    parts.commits.finish = after_a_rollback  # type: ignore[method-assign]  # the moment between two round trips
    with pytest.raises(StoreUnavailable, match="lost data during a commit"):
        await commit(parts, [(("u", "v"), play(2))])
