"""The devices of one learner, and what each of them has been sent.

Invariant: a device that was sent a revision has every change up to it. A push names the revisions it spans. Where it
does not follow on from what the device has (a message was lost or overtaken, a subscription broke), the changes are
read from the store instead. Publish/subscribe may therefore lose messages, and no device misses a change.
"""

import asyncio
from collections.abc import Sequence

from playhead.protocol.errors import PeerError, Problem
from playhead.protocol.record import Record
from playhead.protocol.scalars import MAX_SEQ
from playhead.server.limits.large_reads import LargeRead
from playhead.server.push.change_reader import ChangeReader
from playhead.server.push.device import Device
from playhead.server.push.progress_frames import progress_messages, send_changes
from playhead.storage.store import Damaged, StoreUnavailable

MAX_PUSHED = 200
"""Most records of one change that are pushed, over all devices. Where it has more, each device reads them in pages."""

Records = Sequence[tuple[str, Record]]
"""(videoId, record)"""


class Learner:
    """A learner with devices in this process, or whose last device has left a moment ago.

    Args:
        reader: reads what devices lack.
    """

    __slots__ = ("_reader", "devices", "expiry", "user_id")

    def __init__(self, user_id: str, reader: ChangeReader) -> None:
        self.user_id = user_id
        self._reader = reader
        self.devices: list[Device] = []
        self.expiry: asyncio.TimerHandle | None = None
        """Forgets the learner, some time after the last device has left."""

    def add(self, device: Device) -> None:
        """Add a device that has just connected."""
        self.devices.append(device)
        if self.expiry is not None:
            self.expiry.cancel()
            self.expiry = None

    def is_large(self, records: int) -> bool:
        """Whether a change of this many records is read for each device instead of pushed to it."""
        return records * len(self.devices) > MAX_PUSHED

    def push(self, before: int, rev: int, records: Records) -> None:
        """Push a change to every device; the arguments are those of `push_to`."""
        pushed = None if self.is_large(len(records)) else records
        for device in self.devices:
            self.push_to(device, before, rev, pushed)

    def push_to(self, device: Device, before: int, rev: int, records: Records | None) -> None:
        """Send the device a change, or have it read.

        Args:
            before, rev: the change took the learner's records from one revision to the other.
            records: what is new to this device; None where that has to be read.
        """
        if device.missed is not None:
            device.missed = max(device.missed, rev)
        elif rev > device.rev:
            if before > device.rev or records is None:
                self.catch_up(device)
            else:
                fresh = [item for item in records if item[1].rev > device.rev]
                device.rev = rev
                for message in progress_messages(fresh, rev, self._reader.now()):
                    device.send(message)

    def catch_up(self, device: Device) -> None:
        """Read the changes that the device lacks in the background, and send them."""
        device.missed = 0
        self._reader.start(self._catch_up(device))

    def catch_up_all(self) -> None:
        """Read, for every device, the changes that it may lack."""
        for device in self.devices:
            if device.missed is None:
                self.catch_up(device)
            else:
                device.missed = MAX_SEQ  # what is being read may already be outdated: read once more

    def follow(self, device: Device, rev: int) -> None:
        """Push changes to the device from now on: it has been sent every change up to `rev`."""
        newest = max(device.missed or 0, device.rev)
        device.rev, device.missed = rev, None
        if newest > rev:
            self.catch_up(device)

    def end_sessions(self, at: int | None = None) -> None:
        """Disconnect the devices, as an operator has ended the learner's sessions.

        Args:
            at: ends the sessions that began at this instant (ms since 1970) or before it; None ends all. A session that
                began later than now began before the clock was set back, so perhaps before `at`: it ends too.
        """
        now = self._reader.now()
        for device in self.devices:
            if at is None or device.since <= at or device.since > now:
                device.refuse(PeerError(Problem.ENDED, "an operator has ended all sessions of this user"))

    async def _catch_up(self, device: Device) -> None:
        with device.large_read() as read:
            try:
                await self._send_missing(device, read)
            except StoreUnavailable:
                device.restart()
            except PeerError as error:
                device.refuse(error)

    async def _send_missing(self, device: Device, read: LargeRead) -> None:
        changes = await self._reader.missing(device, read)
        if isinstance(changes, Damaged):
            self.follow(device, device.rev)  # no record of this learner can be read; the device stays connected
        elif changes.rev >= device.rev:  # else a `sync` of the device has overtaken this read and follows on by itself
            await send_changes(device, changes, self._reader.now())
            self.follow(device, changes.rev)
