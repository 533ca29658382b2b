"""Ports for the tests' servers, outside the range that the kernel assigns to outgoing connections.

So a server that is killed and started again finds its port free, however many connections were opened meanwhile.
"""

import contextlib
import random
import socket

LOWEST, HIGHEST = 12_000, 21_999
"""Below the range of Linux (net.ipv4.ip_local_port_range); so are the ports 10,000 above."""
BUS = 10_000
"""How far a cluster node's bus port is above its own port."""

_chance = random.SystemRandom()
"""Not the seeded generator: other processes must not draw the same ports, whatever seed the tests are given."""


def free_port() -> int:
    """A port that no process listens on."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Ports that no process listens on, nor on their bus ports."""
    with contextlib.ExitStack() as probes:
        found: list[int] = []
        while len(found) < count:
            port = _chance.randint(LOWEST, HIGHEST)
            with contextlib.suppress(OSError):
                for number in (port, port + BUS):
                    probes.enter_context(socket.socket()).bind(("127.0.0.1", number))
                found.append(port)
        return found
