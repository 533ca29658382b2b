"""What endpoints need of the process they live in; `server.app` makes the one of each process."""

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
    """Of all that is stored, or compared with what another node has stored: the store's, but where a test gives one."""
    access: Access
    admission: Admission
    store: Store
    hub: Hub
    heartbeats: Flusher
    """The scheduled lane: heartbeats, batched for a flush interval."""
    requests: Flusher
    """The immediate lane: what a REST answer waits for; concurrent requests share a commit."""
    duration_backfill: DurationBackfill
    drain: Drain
    refusals: Refusals
    counts: TrafficCounts
    user_locks: UserLocks
    """What is large, for each learner one after the other: syncs, and reads of all records."""
