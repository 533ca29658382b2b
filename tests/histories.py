"""Strategies for the histories of a record: reports that players may send, their orders and their repeats."""

from collections.abc import Sequence

from hypothesis import strategies as st

from playhead.protocol.intervals import coverage
from playhead.protocol.record import ABSENT, SETTLE_MS, Report
from playhead.protocol.scalars import MAX_MEDIA_S, MAX_SEQ

Op = Report | int
"""A report, or the instant of a deletion."""
Play = tuple[int, int]

DURATION_MS = 60_500
"""The duration in histories whose order must not matter: a minute, so that random plays fill the video."""
LAST_INSTANT = 253_402_300_799_999
"""9999-12-31T23:59:59.999Z, the last effective time."""

media_ms = st.one_of(
    st.integers(0, DURATION_MS),
    st.builds(lambda s, by: s * 1_000 + 500 + by, st.integers(0, 60), st.integers(-1, 1)),
)
positions_ms = st.one_of(
    st.sampled_from([ABSENT, 0, 1, SETTLE_MS - 1, SETTLE_MS, SETTLE_MS + 1, MAX_MEDIA_S * 1_000]), media_ms
)
near_ms = st.integers(0, DURATION_MS)
"""Media time within DURATION_MS."""
instants = st.one_of(st.integers(1, 60), st.sampled_from([1_764_000_000_000, LAST_INSTANT]))
"""Effective times, mostly a few ms, so that ties and neighbours are frequent."""
near_instants = st.integers(1, 60)


@st.composite
def plays(draw: st.DrawFn, at: st.SearchStrategy[int] = media_ms, most: int = 4) -> list[Play]:
    """The plays of a heartbeat; some overlap, are empty or are out of order."""
    edges = draw(st.lists(st.tuples(at, at), max_size=most))
    return [(min(edge), max(edge)) for edge in edges]


def report_of(
    session: str,
    seq: int,
    at: int,
    played: Sequence[Play] = (),
    position_ms: int = ABSENT,
    seek: bool = False,
    claimed: int = 0,
    duration_ms: int = 0,
) -> Report:
    """The report of one heartbeat, as `protocol.session` makes it."""
    seen, again = coverage(played)
    return Report(
        first_at=at,
        at=at,
        session=session,
        first_seq=seq,
        seq=seq,
        seen=seen,
        again=again,
        played_ms=sum(end - start for start, end in played),
        position_ms=position_ms,
        position_at=0 if position_ms == ABSENT else at,
        seek=seek,
        claimed=claimed,
        duration_ms=duration_ms,
    )


@st.composite
def reports(draw: st.DrawFn, session: str, seq: int, durations: Sequence[int] = (0, DURATION_MS)) -> Report:
    """One heartbeat of a video of DURATION_MS."""
    return report_of(
        session,
        seq,
        draw(near_instants),
        draw(plays(near_ms, most=3)),
        draw(st.one_of(st.just(ABSENT), near_ms, st.sampled_from([0, SETTLE_MS, 2 * SETTLE_MS]))),
        seek=draw(st.integers(0, 7)) == 7,
        claimed=draw(st.sampled_from([0, 0, 0, 1, 30, 54, 61])),
        duration_ms=draw(st.sampled_from(durations)),
    )


@st.composite
def rest_reports(draw: st.DrawFn) -> Report:
    """The report of a documented REST body, which has neither session nor plays."""
    return report_of("", 0, draw(near_instants), claimed=draw(st.integers(0, 70)))


@st.composite
def wild_ops(draw: st.DrawFn, sessions: Sequence[str]) -> Op:
    """Any operation that the store may be given, in any order, with the extreme values of each field."""
    kind = draw(st.integers(0, 15))
    if kind == 0:
        return draw(instants)
    if kind == 1:
        return report_of("", 0, draw(instants), claimed=draw(st.sampled_from([0, 1, 59, MAX_MEDIA_S])))
    last = draw(st.one_of(st.integers(1, 9), st.sampled_from([MAX_SEQ - 1, MAX_SEQ])))
    report = report_of(
        draw(st.sampled_from(sessions)),
        last,
        draw(instants),
        draw(plays()),
        draw(positions_ms),
        seek=draw(st.integers(0, 4)) == 4,
        claimed=draw(st.sampled_from([0, 0, 1, 54, MAX_MEDIA_S])),
        duration_ms=draw(st.sampled_from([0, 1, 999, 1_000, DURATION_MS, MAX_MEDIA_S * 1_000])),
    )
    if kind == 2:  # several seqs in one report, some of which the record may have already
        report.first_seq = max(1, last - draw(st.integers(0, 3)))
        report.first_at = max(1, report.at - draw(st.integers(0, 20)))
    return report


@st.composite
def sessions_of(
    draw: st.DrawFn, most: int, longest: int = 5, durations: Sequence[int] = (0, DURATION_MS)
) -> list[list[Report]]:
    """The reports of each session by increasing seq, with gaps."""
    out = []
    for number in range(draw(st.integers(1, most))):
        seqs = sorted(draw(st.sets(st.integers(1, 50), min_size=1, max_size=longest)))
        out.append([draw(reports(f"s{number}", seq, durations)) for seq in seqs])
    return out


@st.composite
def with_repeats(draw: st.DrawFn, reports_in_order: Sequence[Report]) -> list[Report]:
    """The same reports with repeats: a player without an ack sends again, in order."""
    out: list[Report] = []
    for index, report in enumerate(reports_in_order):
        out.append(report)
        if draw(st.integers(0, 3)) == 3:
            out += reports_in_order[draw(st.integers(0, index)) : index + 1]
    return out


@st.composite
def interleaved(draw: st.DrawFn, streams: Sequence[Sequence[Report]]) -> list[Report]:
    """The reports of all streams in an order that keeps that of each stream."""
    turns = draw(st.permutations([number for number, stream in enumerate(streams) for _ in stream]))
    heads = [iter(stream) for stream in streams]
    return [next(heads[turn]) for turn in turns]


@st.composite
def batched(draw: st.DrawFn, ops: Sequence[Report], most: int = 4) -> list[list[Report]]:
    """The operations divided into batches, one per flush."""
    out = []
    start = 0
    while start < len(ops):
        end = start + draw(st.integers(1, most))
        out.append(list(ops[start:end]))
        start = end
    return out
