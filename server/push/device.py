"""One connection of a learner, as the hub uses it."""

from typing import Protocol

from playhead.protocol.errors import PeerError
from playhead.protocol.messages import Message
from playhead.server.limits.large_reads import LargeRead


class Device(Protocol):
    """The interface of a connection to the hub, and the hub's notes on it; `server/socket/channel.py` implements it."""

    user_id: str
    since: int
    """When it connected, ms since 1970."""
    rev: int
    """The device has been sent every change up to this revision."""
    missed: int | None
    """The newest revision that was not pushed because changes are being read for the device; None while none are."""

    def large_read(self) -> LargeRead:
        """A read of the changes that the device lacks."""
        ...

    def send(self, *messages: Message) -> None:
        """Write or queue messages; never blocks."""
        ...

    async def drained(self) -> None:
        """Wait until everything queued is written or dropped."""
        ...

    def restart(self) -> None:
        """Send a goodbye and close; the device reconnects and sends again what was not acked."""
        ...

    def refuse(self, error: PeerError) -> None:
        """Report an error and close."""
        ...
