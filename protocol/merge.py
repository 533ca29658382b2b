"""Merges two whole records of one learner and one video, for example a backup with a store that has been used since.

Both records may contain the same plays, different ones, or some of each, and nothing tells which: a record has sums,
not their parts. Therefore every field is merged by a rule that is idempotent and commutative, and the two sums are
added only where the guards prove that no play is part of both:

- A deletion begins a generation. The record with the later `deleted_at` keeps its contents. The other one contributes
  only its guards, marked as deleted, so that nothing deleted returns. What the other store recorded after a deletion
  that it did not know about is lost too, because a record cannot distinguish it.
- Within a generation `seen`, `claimed`, `last_watched`, `duration_ms`, both position registers and the guards (the
  newest state of each session) are unions and maxima; `completed_at` is the earliest.
- `played_ms` is the sum, and `again` includes what both have seen, only if both records know all their sessions (their
  lists of guards are not full) and have no session in common. Otherwise they are the maximum and the union, which may
  be too low but never count twice. They are too low for two stores that continued from a common past, and for learners
  with MAX_SESSIONS sessions or more.

The merge commutes, and merging again with either record changes nothing. It associates, except for `played_ms` and
`again` in the cases above (too low by a different amount, never counted twice), for sets that exceed MAX_INTERVALS,
and for `completed_at` where the merge itself completes the record.
"""

from dataclasses import replace

from playhead.protocol.intervals import MAX_INTERVALS, intersection, union
from playhead.protocol.record import ABSENT, MAX_SESSIONS, Guard, Record, is_complete


def merge(a: Record, b: Record, catalogue_ms: int = 0, threshold_permille: int = 900) -> Record:
    """Return one record of both, with the rev of `a`. Neither is changed.

    Args:
        catalogue_ms: the video's duration in the catalogue, 0 where it has none.
        threshold_permille: the part of the duration, in thousandths, that completes the record when watched.
    """
    if a.deleted_at < b.deleted_at:
        contents, old = b, a
    else:
        contents, old = a, b
    if a.deleted_at != b.deleted_at:
        buried = Record(deleted_at=old.deleted_at, guards=[replace(g, buried=g.seq) for g in old.guards])
        merged = replace(contents, guards=_guards(contents, buried))
    else:
        merged = _contents(a, b)
    merged.rev = a.rev
    if merged.exists:
        merged.duration_ms = catalogue_ms or merged.duration_ms
        if not merged.completed_at and is_complete(merged.watched, merged.duration_ms, threshold_permille):
            merged.completed_at = merged.last_watched
    return merged


def _contents(a: Record, b: Record) -> Record:
    seen = _longest(union(a.seen, b.seen))
    again = union(a.again, b.again)
    apart = _nothing_in_common(a, b)
    if apart:
        again = union(again, intersection(a.seen, b.seen))
    position_at, position_ms = max((a.position_at, a.position_ms), (b.position_at, b.position_ms))
    unsettled_at, unsettled_ms = max((a.unsettled_at, a.unsettled_ms), (b.unsettled_at, b.unsettled_ms))
    if (unsettled_at, unsettled_ms) <= (position_at, position_ms):
        unsettled_at, unsettled_ms = 0, ABSENT
    return Record(
        deleted_at=a.deleted_at,
        last_watched=max(a.last_watched, b.last_watched),
        claimed=max(a.claimed, b.claimed),
        played_ms=a.played_ms + b.played_ms if apart else max(a.played_ms, b.played_ms),
        duration_ms=max(a.duration_ms, b.duration_ms),
        completed_at=min(filter(None, (a.completed_at, b.completed_at)), default=0),
        position_ms=position_ms,
        position_at=position_at,
        unsettled_ms=unsettled_ms,
        unsettled_at=unsettled_at,
        seen=seen,
        again=_longest(intersection(again, seen)),
        guards=_guards(a, b),
    )


def _nothing_in_common(a: Record, b: Record) -> bool:
    """Whether no play can be part of both records' sums.

    A list of guards that is not full has never been full, so it names every session. A record with plays but without a
    session was not written by this service, and nothing is known about it.
    """
    if max(len(a.guards), len(b.guards)) >= MAX_SESSIONS:
        return False
    for record in (a, b):
        if (record.played_ms or record.seen) and not any(g.seq > g.buried for g in record.guards):
            return False
    known_a, known_b = ({g.session: g for g in record.guards} for record in (a, b))
    shared = known_a.keys() & known_b.keys()
    return all(_apart(known_a[name], known_b[name]) for name in shared)


def _apart(one: Guard, other: Guard) -> bool:
    """Whether the plays counted for a session in two records cannot be the same: one record has deleted all of them,
    and did so before anything that the other counts."""
    return (one.seq <= one.buried or other.seq <= one.buried) and (other.seq <= other.buried or one.seq <= other.buried)


def _guards(a: Record, b: Record) -> list[Guard]:
    """Return the newest sessions of both, the oldest first, each in its newest state."""
    found = {guard.session: guard for guard in a.guards}
    for guard in b.guards:
        same = found.get(guard.session, guard)
        found[guard.session] = Guard(
            guard.session,
            max(same.seq, guard.seq),
            max(same.at, guard.at),
            max(same.settle_ms, guard.settle_ms),
            max(same.buried, guard.buried),
        )
    return sorted(found.values(), key=lambda guard: (guard.at, guard.session))[-MAX_SESSIONS:]


def _longest(seconds: list[int]) -> list[int]:
    """Return the set, cut to its MAX_INTERVALS longest intervals: that loses the fewest seconds, always the same."""
    if len(seconds) <= 2 * MAX_INTERVALS:
        return seconds
    pairs = sorted(zip(seconds[::2], seconds[1::2], strict=True), key=lambda pair: (pair[0] - pair[1], pair[0]))
    return [edge for pair in sorted(pairs[:MAX_INTERVALS]) for edge in pair]
