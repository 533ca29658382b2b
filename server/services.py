"""What endpoints need of the process they live in; `server.app` makes the one of each process."""

from dataclasses import dataclass

from server.access import Access
from server.admission import Admission
from server.clock import Clock
from server.drain import Drain
from server.durations import Durations
from server.hub import Hub
from server.refusals import Refusals
from server.settings import Settings
from server.tally import Tally
from server.turns import Turns
from storage.flusher import Flusher
from storage.store import Store


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
    durations: Durations
    drain: Drain
    refusals: Refusals
    tally: Tally
    turns: Turns
    """What is large, for each learner one after the other: syncs, and reads of all records."""
