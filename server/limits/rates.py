"""How much at once: token buckets, and slots for those who must wait.

A bucket holds `burst` tokens and fills by `per_s`; times are s of any one monotonic clock, given by the caller.
"""

import random
from collections import OrderedDict
from collections.abc import Hashable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from playhead.protocol.errors import PeerError, Problem

MAX_BUCKETS = 100_000
"""Callers that are remembered. Beyond it the one that was idle longest is forgotten, and starts with a full bucket."""
FORGOTTEN_AT_ONCE = 2
"""Full buckets that are forgotten for each new one, so that there are no more than callers of late."""
FIRST_SLOT_S = 1.0
"""Nobody is asked to come back sooner."""
LONGEST_WAIT_S = 60.0
"""Nobody is asked to stay away longer, however many wait."""
SLOT_EARLY_S = 0.05
"""How early a slot may be used: what a caller is told is rounded."""
SLOT_KEPT_S = 10.0
"""How late its owner may use a slot: clients add jitter to what they were told."""


class TooFast(PeerError):
    """Over a rate. Come back after `retry_after_s`, LONGEST_WAIT_S at most."""

    def __init__(self, detail: str, retry_after_s: float) -> None:
        super().__init__(Problem.RATE, detail)
        self.retry_after_s = min(retry_after_s, LONGEST_WAIT_S)


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

    def owe(self, now: float, cost: float = 1.0) -> None:
        """Pay even if there is too little: whoever comes next waits for it. Nobody owes more than the burst."""
        if not self.take(now, cost):
            self._tokens = max(self._tokens - cost, -self._burst)

    def is_full(self, now: float) -> bool:
        """Whether it is as good as new."""
        return self._tokens + (now - self._at) * self._per_s >= self._burst

    def wait_s(self, cost: float = 1.0) -> float:
        """After a refusal: when there will be enough."""
        return max(0.0, (min(cost, self._burst) - self._tokens) / self._per_s)


class Buckets:
    """A bucket for each caller, made when it first comes and forgotten when it is full again."""

    def __init__(self, per_s: float, burst: float, what: str) -> None:
        self._per_s = per_s
        self._burst = burst
        self._what = what
        self._buckets: OrderedDict[Hashable, Bucket] = OrderedDict()
        """The one that was used last is last."""

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, caller: Hashable, now: float, cost: float = 1.0) -> None:
        """Raises TooFast."""
        bucket = self._bucket(caller, now)
        if not bucket.take(now, cost):
            raise TooFast(f"more than {self._per_s:g} {self._what} a second", bucket.wait_s(cost))

    def owe(self, caller: Hashable, now: float, cost: float) -> None:
        """For what is done already: the caller's next requests wait for it."""
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
        """Make room. A bucket that is full again is no loss: its caller would be given the same."""
        buckets = self._buckets
        for _ in range(FORGOTTEN_AT_ONCE):
            if buckets and (len(buckets) >= MAX_BUCKETS or next(iter(buckets.values())).is_full(now)):
                buckets.popitem(last=False)


class ReconnectSlots:
    """Lets a burst pass, then assigns those beyond it one slot after another to come back in.

    So a reconnect storm returns at the rate at which it can be served. A caller has one slot: asking again before its
    time takes nothing from others. A slot lets its caller pass, whoever else has come meanwhile; it expires
    SLOT_KEPT_S after its time. Beyond LONGEST_WAIT_S no slots are assigned, so there are never more than fit in that.
    """

    def __init__(self, per_s: float, burst: float, now: float) -> None:
        self._bucket = Bucket(per_s, burst, now)
        self._gap_s = 1.0 / per_s
        self._next = now
        self._slots: OrderedDict[Hashable, float] = OrderedDict()
        """When each caller's slot comes, the next one first."""

    def __len__(self) -> int:
        """Slots that are assigned."""
        return len(self._slots)

    def take(self, caller: Hashable, now: float) -> float:
        """0.0: pass. Else: s to wait, until the caller's slot where it has one."""
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
    """An IPv4 address as such where a socket for both families gives ::ffff:192.0.2.1 (RFC 4291, 2.5.5.2)."""
    if ":" not in address:
        return address
    try:
        mapped = IPv6Address(address).ipv4_mapped
    except ValueError:
        return address
    return address if mapped is None else str(mapped)


@lru_cache(maxsize=10_000)
def network_of(address: str) -> str:
    """What one caller has: an IPv4 address, or the /64 that an IPv6 customer is given whole."""
    try:
        parsed = ip_address(unmapped(address))
    except ValueError:
        return address[:64]
    if isinstance(parsed, IPv6Address):
        return f"{IPv6Address(int(parsed) >> 64 << 64)}/64"
    return str(parsed)
