"""Curves of long videos: read in pages, with the same result as a single read."""

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playhead.protocol.record import Report
from playhead.storage.read.curves import Curve, Points
from playhead.storage.read.totals import POINTS_PAGE, Totals
from playhead.storage.store import Store
from playhead.storage.values.damage import Damaged
from playhead.storage.write.pending import Batch, Delta
from tests.inside import parts_of

pytestmark = pytest.mark.stores("valkey", "redis7", "cluster")
NOW = 5_000_000
END = 12
plays = st.lists(st.tuples(st.sampled_from("sa"), st.integers(0, 20), st.integers(1, 9)), max_size=12)


def counted(played: list[tuple[str, int, int]], end: int) -> Curve:
    """Count viewers second by second."""
    ends = [min(start + length, end) for letter, start, length in played if letter == "s" and start < end]
    viewers, replays = ([0] * max(ends, default=0) for _ in range(2))
    for letter, start, length in played:
        for second in range(start, min(start + length, len(viewers))):
            (viewers if letter == "s" else replays)[second] += 1
    return Curve(viewers, replays)


@given(shards=st.lists(plays, min_size=1, max_size=3), known=st.booleans(), data=st.data())
def test_any_points_in_any_pages_give_the_same_curve(
    shards: list[list[tuple[str, int, int]]], known: bool, data: st.DataObject
) -> None:
    """Also if a scan returns some points twice; seconds beyond the end of the video do not count."""
    points = Points()
    for shard, played in enumerate(shards):
        steps: dict[str, int] = {}
        for letter, start, length in played:
            steps[f"{letter}{start}"] = steps.get(f"{letter}{start}", 0) + 1
            steps[f"{letter}{start + length}"] = steps.get(f"{letter}{start + length}", 0) - 1
        pages = data.draw(st.permutations(list(steps))), data.draw(st.lists(st.sampled_from(list(steps) or [""])))
        for page in pages:
            assert points.add(shard, {name.encode(): b"%d" % steps[name] for name in page if name}) is None
    everything = [play for played in shards for play in played]
    assert points.curve(1_000 * END if known else 0) == counted(everything, END if known else 1_000)


@pytest.mark.parametrize(
    ("name", "step"), [(b"x1", b"1"), (b"s", b"1"), (b"s172801", b"1"), (b"s-1", b"1"), (b"s1", b"1.5"), (b"a2", b"")]
)
def test_a_field_that_is_not_a_point_is_damage(name: bytes, step: bytes) -> None:
    assert isinstance(Points().add(0, {b"s1": b"1", name: step}), Damaged)


async def test_a_long_curve_is_read_in_pages(store: Store) -> None:
    """In more than one page, from any number of shards; other tasks run between two pages."""
    most = 2_000
    for start in range(8):
        batch = Batch()
        for user in range(2):
            seen = [edge for n in range(most) for edge in (3 * (most * start + n), 3 * (most * start + n) + 1 + user)]
            batch.deltas[f"u{start}-{user}", "v"] = Delta([Report(9, 9, "page", 1, 1, seen, [], 9)])
        await store.commit(batch, NOW, lambda user_id: False)
    replies: list[int] = []
    run = parts_of(store).totals._run_each

    async def watched(commands: list[tuple[object, ...]]) -> list[object]:
        found = await run(commands)
        replies.append(
            sum(len(reply[1]) for command, reply in zip(commands, found, strict=True) if command[0] == "HSCAN")
        )
        return list(found)

    parts_of(store).totals._run_each = watched
    found = await store.analytics("v", NOW)
    assert not isinstance(found, Damaged)
    totals, curve, _ = found
    assert totals == Totals(16, 0, 8 * most * 3)
    steps = [second % 3 for second in range(3 * 8 * most)]
    assert curve.viewers == [{0: 2, 1: 1, 2: 0}[step] for step in steps[: len(curve.viewers)]]
    assert len(curve.viewers) == 3 * 8 * most - 1
    assert not any(accumulate(curve.replays))
    assert len(replies) > 5
    assert max(replies) <= 1.5 * POINTS_PAGE
