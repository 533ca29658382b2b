"""Limits on connections that have not authenticated yet, separate from the limits on those that have.

Anyone can open a connection and stay silent. If such connections counted towards the limit on all of them, strangers
could lock out the learners behind the same address. So newcomers have a limit of their own, and when it is reached the
oldest is closed: a valid hello arrives within a round trip, so old newcomers are silent ones.
"""

from collections import OrderedDict
from typing import Generic, TypeVar

M = TypeVar("M")


class Newcomers(Generic[M]):
    """The unauthenticated connections of one process, in the order in which they arrived.

    Args:
        most: the limit on all of them.
        most_of_one: the limit on those of one network.
    """

    def __init__(self, most: int, most_of_one: int) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._all: OrderedDict[M, str | None] = OrderedDict()
        self._networks: dict[str, OrderedDict[M, None]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def enter(self, member: M, network: str | None) -> M | None:
        """Add a connection.

        Args:
            network: None for a proxy, whose connections belong to many clients.

        Returns:
            The oldest connection if a limit was exceeded: the caller must close it, and it is no longer counted.
        """
        self._all[member] = network
        if network is not None:
            same = self._networks.setdefault(network, OrderedDict())
            same[member] = None
            if len(same) > self._most_of_one:
                return self._remove(next(iter(same)))
        return self._remove(next(iter(self._all))) if len(self._all) > self._most else None

    def leave(self, member: M) -> None:
        """Stop counting a connection, because it has authenticated or closed. Does nothing if it was removed before."""
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
