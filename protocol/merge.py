"""The join of two whole records of one learner and one video, as when a backup meets a store that has gone on.

Both may tell of the same plays, of others, or of some of each, and nothing says which: a record has sums, not their
parts. So every field joins by a rule that may be applied twice and in either order, and the two sums are added only
where the guards show that no play can be in both:

- A deletion is a generation. The record with the later `deleted_at` keeps its contents, the other gives its guards,
  buried: nothing deleted returns. What the other store saw after a deletion of which it did not know goes with it,
  because a record can't tell it apart.
- Within a generation: `seen`, `claimed`, `last_watched`, `duration_ms`, both position registers and the guards, a
  session by its newest state, are unions and maxima; `completed_at` is the earliest.
- `played_ms` is the sum, and `again` holds what both have seen, only if both records know all sessions that they were
  made of (their lists of guards are not full) and have none in common. Otherwise they are the maximum and the union:
  they may count short, never double. Short: two stores that each went on from a common past, and learners with
  MAX_SESSIONS sessions or more.

Commutes; merging again with either side changes nothing. Associates but for `played_ms` and `again`, in the corners
above (short by another amount, never double), for sets that pass MAX_INTERVALS, and for `completed_at` where it is
told from the merge itself.
"""

from dataclasses import replace

from playhead.protocol.intervals import MAX_INTERVALS, intersection, union
from playhead.protocol.record import ABSENT, MAX_SESSIONS, Guard, Record, is_complete


def merge(a: Record, b: Record, catalogue_ms: int = 0, threshold_permille: int = 900) -> Record:
    """One record of both, with the rev of `a`; both are left alone.

    Args:
        catalogue_ms: the video's duration in the catalogue, 0 where it has none.
        threshold_permille: complete when watched >= this part of the duration.
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

    A list of guards that is not full has never been, so it names every session. A record that has played and names no
    session for it was not made by us: of that nothing is known.
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
    """Whether what is counted of a session in two records can't be the same plays: one of them has deleted it all,
    and that was before anything the other counts."""
    return (one.seq <= one.buried or other.seq <= one.buried) and (other.seq <= other.buried or one.seq <= other.buried)


def _guards(a: Record, b: Record) -> list[Guard]:
    """The newest sessions of both, oldest first; of one in both, its newest state."""
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
    """The set, or its MAX_INTERVALS longest intervals: the fewest seconds lost, and the same ones every time."""
    if len(seconds) <= 2 * MAX_INTERVALS:
        return seconds
    pairs = sorted(zip(seconds[::2], seconds[1::2], strict=True), key=lambda pair: (pair[0] - pair[1], pair[0]))
    return [edge for pair in sorted(pairs[:MAX_INTERVALS]) for edge in pair]
