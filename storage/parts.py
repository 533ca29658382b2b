"""The parts of one store, wired once.

Among them, `write/commits.py` writes the users' records and their videos' totals, `read/records.py` reads records, and
`guarantees/epoch.py` holds the store's identity. Here is what they share: the link to the servers, and the round trip.
The server uses them through `storage/store.py` only.
"""

from collections.abc import Callable
from typing import Any

from redis.exceptions import RedisError

from playhead.storage.backoff import Backoff
from playhead.storage.connection.address import parse_address
from playhead.storage.connection.cluster import Cluster
from playhead.storage.connection.cluster_subscriptions import ClusterSubscriptions
from playhead.storage.connection.link import Link, Single, checked
from playhead.storage.connection.pipeline import Command, Run
from playhead.storage.connection.primary import RETRY_S, Primary, pool_of, sentinel_pool
from playhead.storage.connection.subscriptions import ServerSubscriptions, Subscriptions
from playhead.storage.connection.url_options import check_tls
from playhead.storage.errors import StoreUnavailable
from playhead.storage.events import Event, EventStream
from playhead.storage.guarantees.aof_replay import ReplayCheck
from playhead.storage.guarantees.durability import Durability
from playhead.storage.guarantees.epoch import Epoch
from playhead.storage.keys import VIDEO_SHARDS, Keys
from playhead.storage.read.catalogue import Catalogue
from playhead.storage.read.records import RecordReader
from playhead.storage.read.released_totals import ReleasedTotals
from playhead.storage.read.scanning import Scanner
from playhead.storage.read.time_slices import TimeSlices
from playhead.storage.read.totals import VideoTotals
from playhead.storage.scripts import Script
from playhead.storage.values.damage import DamageLog, is_foreign, or_damaged
from playhead.storage.write.commits import Commits
from playhead.storage.write.ended_sessions import EndedSessions

MAX_VIDEOS = 10_000


class Parts:
    """The parts of one store; nothing is connected yet. The arguments are those of `open_store`.

    Raises:
        ValueError: `url` or `durability` is invalid.
    """

    def __init__(
        self,
        url: str,
        *,
        worker: str,
        key_prefix: str = "ph",
        threshold_permille: int = 900,
        durability: str = "memory",
        timeout_s: float = 5.0,
        live_ms: int = 15_000,
        max_videos: int = MAX_VIDEOS,
    ) -> None:
        self.worker = worker
        self.timeout_s = timeout_s
        self._script_texts: list[str] = []
        """The texts of all scripts, which are loaded into every primary."""
        self.retrying = Backoff(*RETRY_S)
        """Counts the retries of connections and pipelines, of all servers."""
        self.link = _link(url, timeout_s, self._script_texts, self.retrying)
        self.keys = Keys(key_prefix, VIDEO_SHARDS if self.link.tags else 1)
        self.durability = Durability(durability, timeout_s)
        self.damage = DamageLog()
        self.catalogue = Catalogue(self.run, self.run_each, self.keys, self.damage)
        self.ended_sessions = EndedSessions(self.run_each, self.keys, self.damage)
        self.time_slices = TimeSlices()
        """For long work on what was read from the store."""
        self.totals = VideoTotals(self.run_each, self.keys, live_ms, self.damage, self.time_slices)
        self.released_totals = ReleasedTotals(self.run, self.keys, self.script, self.totals)
        self.scanner = Scanner(self.run_each, self.runs, self.damage)
        self.replay = ReplayCheck(self.link, self.keys)
        self.epoch = Epoch(self.run, self.run_each, self.keys, self.damage)
        self.reader = RecordReader(self.link, self.keys, self.script, self.epoch, self.time_slices, self.damage)
        self.commits = Commits(
            self.link,
            self.keys,
            self.script,
            self.catalogue,
            self.durability,
            self.epoch,
            self.damage,
            worker=worker,
            threshold_permille=threshold_permille,
            live_ms=live_ms,
            max_videos=max_videos,
        )

    def events(self, on_event: Callable[[Event], None]) -> EventStream:
        """Create a stream of the events that other processes publish; `on_event` is called with each."""
        return EventStream(
            self.listen,
            on_event,
            run=self.run,
            run_each=self.run_each,
            link=self.link,
            keys=self.keys,
            epoch=self.epoch,
            catalogue=self.catalogue,
            damage=self.damage,
            worker=self.worker,
            timeout_s=self.timeout_s,
        )

    def listen(self, on_message: Callable[[str, bytes], None], on_confirmed: Callable[[str], None]) -> Subscriptions:
        """Create subscriptions to channels of this store, with callbacks for messages and for confirmed channels."""
        if isinstance(self.link, Cluster):
            return ClusterSubscriptions(self.link, on_message, on_confirmed)
        if isinstance(self.link, Single):
            pool = self.link.primary.pool
            return ServerSubscriptions(pool, on_message, on_confirmed, clustered=False, timeout_s=self.timeout_s)
        raise TypeError(f"{type(self.link).__name__} has no channels")

    async def runs(self) -> list[Run]:
        """A round trip to each primary, always in the same order."""
        if isinstance(self.link, Single):
            return [self.run]
        return [_run_at(primary) for primary in await self.link.primaries()]

    def script(self, name: str) -> Script:
        """Load a script from `lua/`; its calls can be sent by `run`."""
        script = Script(name)
        self._script_texts.append(script.text)
        return script

    async def run(self, commands: list[Command]) -> list[Any]:
        """Send commands in one round trip; scripts that a server has forgotten are loaded again.

        Raises:
            StoreUnavailable: one of them failed, or the store did not answer in time.
        """
        return checked(await self.link.ask(commands))

    async def run_each(self, commands: list[Command]) -> list[Any]:
        """Like `run`, but the reply of a command whose key holds another Redis type is Damaged.

        The commands may be sent twice.
        """
        try:
            return await self.run(commands)
        except StoreUnavailable as error:
            if not is_foreign(error):
                raise
        return checked(or_damaged(await self.link.ask(commands)))


def _link(url: str, timeout_s: float, scripts: list[str], retrying: Backoff) -> Link:
    """Create the link for a URL, without connecting. Raises ValueError: `url` is invalid."""
    address = parse_address(url)
    check_tls(address.options)
    if address.kind == "cluster":
        return Cluster(address, timeout_s, scripts, retrying)
    if address.kind == "sentinel":
        return Single(Primary("", sentinel_pool(address, timeout_s, retrying), scripts))
    return Single(Primary("", pool_of(address.options, timeout_s, retrying), scripts))


def _run_at(primary: Primary) -> Run:
    """Create a round trip to one primary; it raises StoreUnavailable if a command fails."""

    async def run(commands: list[Command]) -> list[Any]:
        try:
            return checked(await primary.ask(commands))
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"{type(error).__name__}: {error}") from error

    return run
