"""Rate limits: token buckets, and reconnect slots for clients that must wait.

A bucket holds at most `burst` tokens and gains `per_s` a second. Times are seconds of a monotonic clock, passed in by
the caller.
"""

import random
from collections import OrderedDict
from collections.abc import Hashable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from playhead.protocol.errors import PeerError, Problem

MAX_BUCKETS = 100_000
"""Beyond this number of callers the one idle longest is dropped, and starts with a full bucket when it returns."""
FORGOTTEN_AT_ONCE = 2
"""Up to this many full buckets are dropped for each new one, so that only recent callers are kept."""
FIRST_SLOT_S = 1.0
"""The shortest wait before a client is asked to reconnect."""
LONGEST_WAIT_S = 60.0
"""The longest wait a client is asked for, however many wait."""
SLOT_EARLY_S = 0.05
"""How early a slot may be used, because the wait sent to the client is rounded."""
SLOT_KEPT_S = 10.0
"""How late a slot may be used, because clients add jitter to the wait."""


class TooFast(PeerError):
    """A rate limit is exceeded; the client may retry after `retry_after_s`, which is at most LONGEST_WAIT_S."""

    def __init__(self, detail: str, retry_after_s: float) -> None:
        super().__init__(Problem.RATE, detail)
        self.retry_after_s = min(retry_after_s, LONGEST_WAIT_S)


class Bucket:
    """The token bucket of one caller."""

    __slots__ = ("_at", "_burst", "_per_s", "_tokens")

    def __init__(self, per_s: float, burst: float, now: float) -> None:
        self._per_s = per_s
        self._burst = self._tokens = burst
        self._at = now

    def take(self, now: float, cost: float = 1.0) -> bool:
        """Take `cost` tokens and return True, or take none if there are too few. The cost is capped at the burst."""
        burst = self._burst
        tokens = self._tokens + (now - self._at) * self._per_s
        if tokens > burst:
            tokens = burst
        if cost > burst:
            cost = burst
        self._at = now
        if tokens < cost:
            self._tokens = tokens
            return False
        self._tokens = tokens - cost
        return True

    def owe(self, now: float, cost: float = 1.0) -> None:
        """Take `cost` tokens even if there are too few; later requests wait. The debt is at most the burst."""
        if not self.take(now, cost):
            self._tokens = max(self._tokens - cost, -self._burst)

    def is_full(self, now: float) -> bool:
        """Whether the bucket is as full as a new one."""
        return self._tokens + (now - self._at) * self._per_s >= self._burst

    def wait_s(self, cost: float = 1.0) -> float:
        """After a refusal: seconds until there are `cost` tokens."""
        return max(0.0, (min(cost, self._burst) - self._tokens) / self._per_s)


class Buckets:
    """A bucket for each caller, created on their first request and dropped once it is full again."""

    def __init__(self, per_s: float, burst: float, what: str) -> None:
        self._per_s = per_s
        self._burst = burst
        self._what = what
        self._buckets: OrderedDict[Hashable, Bucket] = OrderedDict()
        """Least recently used first."""

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, caller: Hashable, now: float, cost: float = 1.0) -> None:
        """Raises TooFast."""
        bucket = self._bucket(caller, now)
        if not bucket.take(now, cost):
            raise TooFast(f"more than {self._per_s:g} {self._what} a second", bucket.wait_s(cost))

    def owe(self, caller: Hashable, now: float, cost: float) -> None:
        """Charge for work already done; the caller's next requests wait for it."""
        self._bucket(caller, now).owe(now, cost)

    def _bucket(self, caller: Hashable, now: float) -> Bucket:
        bucket = self._buckets.get(caller)
        if bucket is None:
            self._forget(now)
            bucket = self._buckets[caller] = Bucket(self._per_s, self._burst, now)
        else:
            self._buckets.move_to_end(caller)
        return bucket

    def _forget(self, now: float) -> None:
        """Drop old buckets. Dropping a full one changes nothing: the caller would get a full one again."""
        buckets = self._buckets
        for _ in range(FORGOTTEN_AT_ONCE):
            if buckets and (len(buckets) >= MAX_BUCKETS or next(iter(buckets.values())).is_full(now)):
                buckets.popitem(last=False)


class ReconnectSlots:
    """Admits a burst of clients, then assigns each further client the next free time slot to reconnect in.

    So the clients of a reconnect storm return at the rate at which they can be served. A caller has one slot: asking
    again before its time takes nothing from others. A slot admits its caller regardless of who else has arrived, and
    expires SLOT_KEPT_S after its time. No slot is assigned further ahead than LONGEST_WAIT_S, which bounds their
    number.
    """

    def __init__(self, per_s: float, burst: float, now: float) -> None:
        self._bucket = Bucket(per_s, burst, now)
        self._gap_s = 1.0 / per_s
        self._next = now
        self._slots: OrderedDict[Hashable, float] = OrderedDict()
        """The time of each caller's slot, earliest first."""

    def __len__(self) -> int:
        """The number of assigned slots."""
        return len(self._slots)

    def take(self, caller: Hashable, now: float) -> float:
        """Admit the caller (0.0), or return the seconds to wait: until their slot, if they have one."""
        slots = self._slots
        while slots and next(iter(slots.values())) + SLOT_KEPT_S < now:
            slots.popitem(last=False)
        slot = slots.get(caller)
        if slot is not None:
            if slot > now + SLOT_EARLY_S:
                return slot - now
            del slots[caller]
            self._bucket.owe(now)
            return 0.0
        if self._bucket.take(now):
            return 0.0
        slot = max(self._next, now + FIRST_SLOT_S) + self._gap_s
        if slot - now > LONGEST_WAIT_S:
            return LONGEST_WAIT_S * random.uniform(0.5, 1.0)  # noqa: S311 jitter, not a secret
        self._next = slots[caller] = slot
        return slot - now


def unmapped(address: str) -> str:
    """The IPv4 address in an IPv4-mapped one, ::ffff:192.0.2.1, as dual-stack sockets report it (RFC 4291, 2.5.5.2)."""
    if ":" not in address:
        return address
    try:
        mapped = IPv6Address(address).ipv4_mapped
    except ValueError:
        return address
    return address if mapped is None else str(mapped)


@lru_cache(maxsize=10_000)
def network_of(address: str) -> str:
    """The network that counts as one caller: an IPv4 address, or the /64 that one IPv6 customer is assigned."""
    try:
        parsed = ip_address(unmapped(address))
    except ValueError:
        return address[:64]
    if isinstance(parsed, IPv6Address):
        return f"{IPv6Address(int(parsed) >> 64 << 64)}/64"
    return str(parsed)
