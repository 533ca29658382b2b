"""How much at once: token buckets, and slots for those who must wait.

A bucket holds `burst` tokens and fills by `per_s`; times are s of any one monotonic clock, given by the caller.
"""

from collections.abc import Hashable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from protocol.errors import PeerError, Problem

MAX_BUCKETS = 100_000
"""Callers that are remembered; the one that was added longest ago is forgotten first, and starts anew."""
FIRST_SLOT_S = 1.0
"""Nobody is asked to come back sooner."""


class TooFast(PeerError):
    """Over a rate. Come back after `retry_after_s`."""

    def __init__(self, detail: str, retry_after_s: float) -> None:
        super().__init__(Problem.RATE, detail)
        self.retry_after_s = retry_after_s


class Bucket:
    """One caller's."""

    __slots__ = ("_at", "_burst", "_per_s", "_tokens")

    def __init__(self, per_s: float, burst: float, now: float) -> None:
        self._per_s = per_s
        self._burst = self._tokens = burst
        self._at = now

    def take(self, now: float, cost: float = 1.0) -> bool:
        """Pay, if there is enough; a cost beyond the burst counts as the burst."""
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

    def wait_s(self, cost: float = 1.0) -> float:
        """After a refusal: when there will be enough."""
        return max(0.0, (min(cost, self._burst) - self._tokens) / self._per_s)


class Buckets:
    """A bucket for each caller, made when it first comes."""

    def __init__(self, per_s: float, burst: float, what: str) -> None:
        self._per_s = per_s
        self._burst = burst
        self._what = what
        self._buckets: dict[Hashable, Bucket] = {}

    def take(self, caller: Hashable, now: float, cost: float = 1.0) -> None:
        """Raises TooFast."""
        bucket = self._buckets.get(caller)
        if bucket is None:
            if len(self._buckets) >= MAX_BUCKETS:
                del self._buckets[next(iter(self._buckets))]
            bucket = self._buckets[caller] = Bucket(self._per_s, self._burst, now)
        if not bucket.take(now, cost):
            raise TooFast(f"more than {self._per_s:g} {self._what} a second", bucket.wait_s(cost))


class Slots:
    """Lets a burst pass, then gives those who come beyond it one slot after another to come back in.

    So a herd returns at the rate at which it can be taken, each member once.
    """

    def __init__(self, per_s: float, burst: float, now: float) -> None:
        self._bucket = Bucket(per_s, burst, now)
        self._gap_s = 1.0 / per_s
        self._next = now

    def take(self, now: float) -> float:
        """0.0: pass. Else: s until the caller's slot."""
        if self._bucket.take(now):
            return 0.0
        self._next = max(self._next, now + FIRST_SLOT_S) + self._gap_s
        return self._next - now


@lru_cache(maxsize=10_000)
def network_of(address: str) -> str:
    """What one caller has: an IPv4 address, or the /64 that an IPv6 customer is given whole."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return f"{IPv6Address(int(parsed) >> 64 << 64)}/64"
    return address
