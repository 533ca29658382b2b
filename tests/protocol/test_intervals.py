"""Sets of seconds compared with Python's sets."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playhead.protocol.intervals import cell, coverage, intersection, pairs, size, union
from tests.histories import Play, media_ms, plays

seconds = st.sets(st.integers(0, 40))


def flat(cells: set[int]) -> list[int]:
    """Return the intervals of a set of seconds."""
    out: list[int] = []
    for second in sorted(cells):
        if out and out[-1] == second:
            out[-1] += 1
        else:
            out += (second, second + 1)
    return out


def cells(intervals: list[int]) -> set[int]:
    """Return the seconds of intervals, which have to be complete pairs and strictly increase."""
    assert len(intervals) % 2 == 0
    assert all(a < b for a, b in itertools.pairwise(intervals))
    return {second for start, end in pairs(intervals) for second in range(start, end)}


@given(a=seconds, b=seconds)
def test_union_intersection_and_size_are_those_of_sets(a: set[int], b: set[int]) -> None:
    """And the results are sorted and disjoint, and no two intervals touch."""
    assert union(flat(a), flat(b)) == flat(a | b)
    assert intersection(flat(a), flat(b)) == flat(a & b)
    assert size(flat(a)) == len(a)


@given(a=seconds, b=seconds)
def test_arguments_are_not_changed(a: set[int], b: set[int]) -> None:
    """Records share lists with the records they were derived from."""
    left, right = flat(a), flat(b)
    union(left, right)
    intersection(left, right)
    assert (left, right) == (flat(a), flat(b))


@pytest.mark.parametrize(
    ("a", "b", "both"),
    [
        ([], [], []),
        ([0, 5], [5, 9], [0, 9]),
        ([0, 5], [6, 9], [0, 5, 6, 9]),
        ([0, 9], [3, 4], [0, 9]),
        ([0, 1, 2, 3, 4, 5], [1, 2, 3, 4], [0, 5]),
        ([3, 4], [0, 9], [0, 9]),
    ],
)
def test_union(a: list[int], b: list[int], both: list[int]) -> None:
    """Touching intervals become one, and contained intervals disappear."""
    assert union(a, b) == union(b, a) == both


def played_cells(play: Play) -> set[int]:
    """Apply the rule literally: a second counts when playback passes its midpoint."""
    start, end = play
    return {c for c in range(start // 1_000, end // 1_000 + 1) if start <= c * 1_000 + 500 < end}


@given(given_plays=plays())
def test_coverage_counts_every_second_whose_midpoint_was_passed(given_plays: list[Play]) -> None:
    """It returns these seconds, and those among them that were passed at least twice."""
    counts = [second for play in given_plays for second in played_cells(play)]
    once, twice = coverage(given_plays)
    assert cells(once) == set(counts)
    assert cells(twice) == {second for second in counts if counts.count(second) > 1}


@given(edges=st.tuples(media_ms, media_ms).map(sorted), cuts=st.lists(media_ms, max_size=6))
def test_the_pieces_of_a_cut_play_credit_each_second_once(edges: list[int], cuts: list[int]) -> None:
    """Wherever the play is cut, even exactly at the midpoint of a second."""
    start, end = edges
    points = [start, *sorted(cut for cut in cuts if start <= cut <= end), end]
    pieces = list(itertools.pairwise(points))
    assert coverage(pieces) == coverage([(start, end)])
    assert coverage(pieces)[1] == []


@pytest.mark.parametrize(
    ("ms", "first"), [(0, 0), (1, 0), (500, 0), (501, 1), (999, 1), (1_000, 1), (1_500, 1), (1_501, 2)]
)
def test_cell(ms: int, first: int) -> None:
    """A play that starts exactly at the midpoint credits the second."""
    assert cell(ms) == first


@pytest.mark.parametrize(
    ("play", "credited"),
    [
        ((0, 60_000), [0, 60]),
        ((400, 1_400), [0, 1]),
        ((500, 500), []),
        ((501, 1_500), []),
        ((500, 501), [0, 1]),
        ((500, 1_500), [0, 1]),
        ((89_900, 90_500), []),
        ((89_400, 90_500), [89, 90]),
    ],
)
def test_coverage_of_one_play(play: Play, credited: list[int]) -> None:
    """The midpoint decides: a play around it credits the whole second."""
    assert coverage([play]) == (credited, [])
