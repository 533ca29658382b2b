"""The services of a process that endpoints use; `server/app.py` creates them."""

from dataclasses import dataclass

from playhead.server.clock import Clock
from playhead.server.lifecycle.drain import Drain
from playhead.server.lifecycle.duration_backfill import DurationBackfill
from playhead.server.limits.admission import Admission
from playhead.server.limits.user_locks import UserLocks
from playhead.server.push.hub import Hub
from playhead.server.security.access import Access
from playhead.server.settings import Settings
from playhead.server.transport.counts import TrafficCounts
from playhead.server.transport.refusals import Refusals
from playhead.storage.store import Flusher, Store


@dataclass(frozen=True, slots=True)
class Services:
    settings: Settings
    clock: Clock
    """The store's clock unless a test passes another: for all instants that are stored or compared across nodes."""
    access: Access
    admission: Admission
    store: Store
    hub: Hub
    heartbeats: Flusher
    """The scheduled lane: heartbeats, batched for one flush interval."""
    requests: Flusher
    """The immediate lane: reports whose REST response waits for the commit; concurrent requests share one."""
    duration_backfill: DurationBackfill
    drain: Drain
    refusals: Refusals
    counts: TrafficCounts
    user_locks: UserLocks
    """Held while a sync is stored, so that the syncs of a learner run one at a time."""
