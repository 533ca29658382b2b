"""Typed events for one callback, decoded from what other processes publish on the store's channels.

Changes of a learner's records are published on the learner's channel. Three more channels carry changed catalogue
entries, learners whose sessions an operator has ended, and new epochs. Messages are lost while a subscription is
broken. So the confirmation of a subscription is an event, too: whatever was published before has to be read.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from playhead.protocol.record import Record
from playhead.storage.connection.lanes import Lane, lanes
from playhead.storage.connection.link import Link
from playhead.storage.connection.pipeline import Run
from playhead.storage.connection.subscriptions import Subscriptions
from playhead.storage.errors import StoreUnavailable
from playhead.storage.guarantees.epoch import Epoch, parse_epoch
from playhead.storage.keys import Keys
from playhead.storage.read.catalogue import Catalogue
from playhead.storage.values.damage import Damaged, DamageLog
from playhead.storage.values.push_messages import pack_announcement, unpack_push
from playhead.storage.write.ended_sessions import parse_ending


class RecordsChanged(NamedTuple):
    """Another process has changed a learner's records, from revision `before` to `rev`."""

    user_id: str
    before: int
    rev: int
    records: list[tuple[str, Record]]
    """(videoId, record) of all changed records; empty if they have to be read from the store."""


class RecordsMissed(NamedTuple):
    """A message about a learner's records was damaged: read the learner's changes from the store."""

    user_id: str


class Subscribed(NamedTuple):
    """The subscription to a learner's channel is confirmed: read changes that were published before it."""

    user_id: str
    again: bool
    """True after a broken subscription. Commits of this process meanwhile, made as if it was still subscribed, may not
    have been published: call `EventStream.announce` for the other processes."""


class SessionsEnded(NamedTuple):
    """An operator has just ended all sessions of this learner."""

    user_id: str


class EndingsMissed(NamedTuple):
    """Sessions may have been ended without an event: read `Store.ended_sessions`."""


class EpochChanged(NamedTuple):
    """The store's epoch has changed: it has lost data or was replaced, so devices have to read everything again."""


Event = RecordsChanged | RecordsMissed | Subscribed | SessionsEnded | EndingsMissed | EpochChanged

Listen = Callable[[Callable[[str, bytes], None], Callable[[str], None]], Subscriptions]


class _Followed:
    """A learner whose channel is subscribed, or about to be."""

    __slots__ = ("channel", "confirmed")

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.confirmed = False
        """Whether the subscription has been confirmed at least once."""


class EventStream:
    """The events of one process.

    Args:
        listen: opens the subscriptions, with callbacks for messages and for confirmed channels.
        on_event: called with each event.
    """

    def __init__(
        self,
        listen: Listen,
        on_event: Callable[[Event], None],
        *,
        run: Run,
        run_each: Run,
        link: Link,
        keys: Keys,
        epoch: Epoch,
        catalogue: Catalogue,
        damage: DamageLog,
        worker: str,
        timeout_s: float,
    ) -> None:
        self._on_event = on_event
        self._run = run
        self._run_each = run_each
        self._link = link
        self._keys = keys
        self._epoch = epoch
        epoch.on_change = self._epoch_changed
        self._catalogue = catalogue
        self._damage = damage
        self._worker = worker
        self._timeout_s = timeout_s
        self._channels = listen(self._received, self._confirmed)
        self._followed: dict[str, _Followed] = {}
        """By userId."""

    @property
    def resubscriptions(self) -> int:
        """How often subscriptions were lost or failed."""
        return self._channels.resubscriptions

    async def run(self) -> None:
        """Receive events until cancelled."""
        for name in (self._catalogue.channel, self._keys.epoch, self._keys.ended):
            self._channels.subscribe(name)
        await self._channels.run()

    async def follow(self, user_id: str) -> None:
        """Subscribe to a learner's channel, and wait for the confirmation.

        Raises:
            StoreUnavailable: there was none in time. The subscription is still attempted.
        """
        followed = self._followed.get(user_id)
        if followed is None:
            followed = self._followed[user_id] = _Followed(self._keys.push(user_id))
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._channels.subscribe(followed.channel).wait()
        except TimeoutError:
            raise StoreUnavailable("the store confirms no subscription") from None

    def unfollow(self, user_id: str) -> None:
        """Unsubscribe from the channel of a learner who was followed."""
        self._channels.unsubscribe(self._followed.pop(user_id).channel)

    def is_following(self, user_id: str) -> bool:
        """Whether the subscription to the learner's channel is confirmed."""
        followed = self._followed.get(user_id)
        return followed is not None and self._channels.is_confirmed(followed.channel)

    async def announce(self, user_id: str) -> None:
        """Publish the learner's revision without records: a process that is missing some reads them.

        Raises:
            StoreUnavailable: it may not have been published.
        """
        (stored,) = await self._run_each([("HGET", self._keys.progress(user_id), "rev")])
        rev = int(stored) if isinstance(stored, bytes) and stored.isdigit() and len(stored) <= 15 else 0
        await self._run([("SPUBLISH", self._keys.push(user_id), pack_announcement(self._worker, rev))])

    async def lanes(self) -> list[Lane]:
        """Check whether a new learner could be served: commands and subscriptions, at each primary.

        Raises:
            StoreUnavailable: no node of the cluster answers.
        """
        return await lanes(self._link, self._keys, self._channels, self._timeout_s)

    def _received(self, name: str, data: bytes) -> None:
        """Handle a message on a channel. Never raises, whatever its bytes are."""
        if name == self._catalogue.channel:
            self._catalogue.receive(data)
        elif name == self._keys.epoch:
            epoch = parse_epoch(data)
            if isinstance(epoch, Damaged):
                self._damage.found("epoch", "its channel", epoch)
            else:
                self._epoch.learn(epoch)
        elif name == self._keys.ended:
            ending = parse_ending(data)
            if isinstance(ending, Damaged):
                self._damage.found("ended", "its channel", ending)
            else:
                self._on_event(SessionsEnded(ending[0]))
        elif (user_id := _user_of(name)) in self._followed:
            push = unpack_push(data)
            if isinstance(push, Damaged):
                self._damage.found("push", f"user {user_id!r}", push)
                self._on_event(RecordsMissed(user_id))
            elif push.worker != self._worker:
                self._on_event(RecordsChanged(user_id, push.before, push.rev, push.records))

    def _epoch_changed(self) -> None:
        """Handle a new epoch, which this process found or another one published."""
        self._catalogue.forget_all()
        self._on_event(EpochChanged())

    def _confirmed(self, name: str) -> None:
        """Handle the confirmation of a subscription; what was published before is lost."""
        if name == self._catalogue.channel:
            self._catalogue.forget_all()
        elif name == self._keys.ended:
            self._on_event(EndingsMissed())
        elif (followed := self._followed.get(user_id := _user_of(name))) is not None:
            again, followed.confirmed = followed.confirmed, True
            self._on_event(Subscribed(user_id, again))


def _user_of(channel: str) -> str:
    """Return the userId at the end of a learner's channel name; no userId for any other channel."""
    return channel.split(":", 3)[-1]
