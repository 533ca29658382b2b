"""Connections that have not shown yet whose they are, bounded apart from those that have.

Anybody can open a connection and stay silent. Where that filled the limit on connections, strangers behind an address
would lock out the learners behind it. So newcomers have a limit of their own, and at the limit the oldest gives way:
a valid hello comes within a round trip, and silence is what grows old.
"""

from collections import OrderedDict
from typing import Generic, TypeVar

M = TypeVar("M")


class Newcomers(Generic[M]):
    """Args: most, most_of_one: how many there may be in all, and of one network."""

    def __init__(self, most: int, most_of_one: int) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._all: OrderedDict[M, str | None] = OrderedDict()
        self._networks: dict[str, OrderedDict[M, None]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def enter(self, member: M, network: str | None) -> M | None:
        """Add the youngest. The member that must give way for it, which is no longer counted; None where there is room.

        Args:
            network: None for a proxy, whose connections are many people's.
        """
        self._all[member] = network
        if network is not None:
            same = self._networks.setdefault(network, OrderedDict())
            same[member] = None
            if len(same) > self._most_of_one:
                return self._remove(next(iter(same)))
        return self._remove(next(iter(self._all))) if len(self._all) > self._most else None

    def leave(self, member: M) -> None:
        """It is known now, or gone; nothing where it has left before."""
        if member in self._all:
            self._remove(member)

    def _remove(self, member: M) -> M:
        network = self._all.pop(member)
        if network is not None:
            same = self._networks[network]
            del same[member]
            if not same:
                del self._networks[network]
        return member
