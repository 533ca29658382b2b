"""Memory for answers that clients have not taken yet, shared out: so much of one user, and of all.

It counts what waits in the buffers of connections, in the queues of WebSockets, and what large answers hold while they
are made and written. Over a share, a REST request is refused before it is worked on, and a WebSocket to which more must
be said is closed: whoever takes what they asked for never gets there.
"""

from playhead.protocol.errors import PeerError
from playhead.server.limits.admission import Busy
from playhead.server.limits.body_memory import Kind, Payer
from playhead.server.limits.rates import TooFast

RETRY_AFTER_S = 2.0


class AnswerMemory:
    """That of one process. Args: bytes of all, and of one payer; a service's count in sum only."""

    def __init__(self, most: int, most_of_payer: int) -> None:
        self._most = most
        self._most_of_payer = most_of_payer
        self._shares: dict[Payer, int] = {}
        self.size = 0
        """Bytes of all."""

    def account(self, payer: Payer) -> "Account":
        return Account(self, payer)

    def check(self, payer: Payer, more: int = 0) -> None:
        """Whether there is room for `more` bytes.

        Where nothing of the payer's waits any answer is within their share. A short one, of which nobody says here how
        long it is, then is within the bound of all as well: what others leave unread must not refuse it.

        Raises:
            TooFast: too much of this payer is unread.
            Busy: too much of all.
        """
        if refusal := self.refusal(payer, more):
            raise refusal

    def refusal(self, payer: Payer, more: int = 0) -> PeerError | None:
        """What `check` raises."""
        share = self._shares.get(payer, 0)
        if share and share + more > self._most_of_payer and payer.kind is not Kind.SERVICE:
            return TooFast(
                "too many answers wait for this user to read them (max_unread_bytes_per_user)", RETRY_AFTER_S
            )
        if self.size and (share or more) and self.size + more > self._most:
            return Busy("too many answers wait for their clients to read them (max_unread_bytes)", RETRY_AFTER_S)
        return None

    def _change(self, payer: Payer, by: int) -> None:
        self.size += by
        share = self._shares.get(payer, 0) + by
        if share:
            self._shares[payer] = share
        else:
            self._shares.pop(payer, None)


class Account:
    """What one connection, or one answer, holds."""

    __slots__ = ("_memory", "_size", "payer")

    def __init__(self, memory: AnswerMemory, payer: Payer) -> None:
        self._memory = memory
        self._size = 0
        self.payer = payer

    def hold(self, size: int) -> None:
        """So many bytes now, be there room or not."""
        if size != self._size:
            self._memory._change(self.payer, size - self._size)
            self._size = size

    def grow(self, by: int) -> PeerError | None:
        """So many bytes more, if there is room; else why not."""
        refusal = self._memory.refusal(self.payer, by)
        if refusal is None:
            self.hold(self._size + by)
        return refusal
