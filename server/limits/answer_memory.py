"""Limits on the memory that unread answers take: a share for each user, and a bound for the process.

Counted are the bytes in the write buffers of connections and in the queues of WebSockets, and those that a large answer
holds while it is built and written. Beyond its share, a user's REST requests are refused before any work is done, and
a WebSocket with more to send is closed. Clients that read what they asked for never reach the limit.
"""

from playhead.protocol.errors import PeerError
from playhead.server.limits.admission import Busy
from playhead.server.limits.body_memory import Kind, Payer
from playhead.server.limits.rates import TooFast

RETRY_AFTER_S = 2.0


class AnswerMemory:
    """The unread bytes of one process.

    Args:
        most: bytes of all payers together.
        most_of_payer: bytes of one payer. Services are exempt from it and count towards `most` only.
    """

    def __init__(self, most: int, most_of_payer: int) -> None:
        self._most = most
        self._most_of_payer = most_of_payer
        self._shares: dict[Payer, int] = {}
        self.size = 0
        """Unread bytes of all payers."""

    def account(self, payer: Payer) -> "Account":
        return Account(self, payer)

    def check(self, payer: Payer, more: int = 0) -> None:
        """Check that there is room for `more` bytes.

        A payer without unread bytes may have one answer of any size within their share. If `more` is 0, which stands
        for a short answer, it also passes the bound of the process: what others leave unread must not refuse it.

        Raises:
            TooFast: this payer has too many unread bytes.
            Busy: all payers together have too many.
        """
        if refusal := self.refusal(payer, more):
            raise refusal

    def refusal(self, payer: Payer, more: int = 0) -> PeerError | None:
        """Return the error that `check` would raise, or None."""
        share = self._shares.get(payer, 0)
        if share and share + more > self._most_of_payer and payer.kind is not Kind.SERVICE:
            return TooFast("this user has left too many answers unread (max_unread_bytes_per_user)", RETRY_AFTER_S)
        if self.size and (share or more) and self.size + more > self._most:
            return Busy("clients have left too many answers unread (max_unread_bytes)", RETRY_AFTER_S)
        return None

    def _change(self, payer: Payer, by: int) -> None:
        self.size += by
        share = self._shares.get(payer, 0) + by
        if share:
            self._shares[payer] = share
        else:
            self._shares.pop(payer, None)


class Account:
    """The unread bytes of one connection, or of one answer."""

    __slots__ = ("_memory", "_size", "payer")

    def __init__(self, memory: AnswerMemory, payer: Payer) -> None:
        self._memory = memory
        self._size = 0
        self.payer = payer

    def hold(self, size: int) -> None:
        """Set the number of bytes held, whether or not there is room."""
        if size != self._size:
            self._memory._change(self.payer, size - self._size)
            self._size = size

    def grow(self, by: int) -> PeerError | None:
        """Hold `by` more bytes if there is room; otherwise hold nothing more and return the reason."""
        refusal = self._memory.refusal(self.payer, by)
        if refusal is None:
            self.hold(self._size + by)
        return refusal
