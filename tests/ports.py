"""Ports for servers of the tests, kept apart from those that the kernel gives to whoever connects.

A server that is killed and started again finds its port free, however many connections were made meanwhile.
"""

import contextlib
import random
import socket

LOWEST, HIGHEST = 12_000, 21_999
"""Below what Linux gives out (net.ipv4.ip_local_port_range); so are the ports 10,000 above."""
BUS = 10_000
"""What a node of a cluster talks to the others by, above its port."""

_chance = random.SystemRandom()
"""Of its own: other processes must not draw the same, whatever seeds the tests are given."""


def free_port() -> int:
    """A port that nobody listens on."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on; nor on their bus ports."""
    with contextlib.ExitStack() as probes:
        found: list[int] = []
        while len(found) < count:
            port = _chance.randint(LOWEST, HIGHEST)
            with contextlib.suppress(OSError):
                for number in (port, port + BUS):
                    probes.enter_context(socket.socket()).bind(("127.0.0.1", number))
                found.append(port)
        return found
