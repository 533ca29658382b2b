"""Every case, and the places where its full form and its short form run."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.configurations import CONFIGURATIONS, EMBEDDED
from tests.faults.cases import (
    clocks,
    clusters,
    configured,
    devices,
    envelopes,
    kills,
    outages,
    refusals,
    server,
    values,
)
from tests.faults.effort import Effort
from tests.faults.scene import Row

CONFIGURATION_OF = {
    "embedded": EMBEDDED,
    "valkey": "always",
    "redis": "always",
    "cluster": "cluster",
    **{f"{of.name}-{kind}": of.name for of in CONFIGURATIONS.values() for kind in of.kinds},
}
"""By place, the documented configuration of its store. The first four have relays, which some cases need."""
EVERYWHERE = ("embedded", "valkey", "redis")
ONE_SERVER = ("valkey", "redis")
"""Stores of one server, with a relay between the service and the server."""
BEHIND_A_RELAY = (*ONE_SERVER, "cluster")
CONFIGURED = tuple(name for name in CONFIGURATION_OF if name not in (*EVERYWHERE, "cluster"))
"""Stores without a relay, as the documents describe them, on each kind of server that supports them."""
REPLICATED = tuple(name for name in CONFIGURED if CONFIGURATIONS[CONFIGURATION_OF[name]].topology != "one")

ORDER = "Reports may arrive late, twice"
KILLED = "An acknowledged heartbeat survives `kill -9`"
CLOCKS = "Clocks may be wrong"
SHARES = "No learner, and no group of strangers"
STORM = "Reconnect storms are rate-limited"
ENDS = "Stopping a process"
ALL = "Whatever is killed, stopped, cut off, full or refused"
STORES = "Each store configuration"
PRIMARIES = "On a cluster or with sentinels"
AWAY = "The store may be unavailable"
DAMAGE = "A stored value that cannot be read"
"""The beginnings of the promises in docs/promises.md; tests/test_documented.py compares them."""


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    run: Callable[[str, Effort], Awaitable[list[Row]]]
    places: tuple[str, ...]
    short: str
    """The place of the short form."""
    promises: tuple[str, ...] = (ALL,)
    """The promises it proves; docs/promises.md names the stores for each promise."""

    @property
    def configurations(self) -> frozenset[str]:
        """The stores of the documents that it covers."""
        return frozenset(CONFIGURATION_OF[place] for place in self.places)


CASES = (
    Case("server-killed", kills.server, (*EVERYWHERE, "cluster"), "embedded", (KILLED, ALL)),
    Case("killed-at-each-step", kills.between_the_stages, (*EVERYWHERE, "cluster"), "valkey", (KILLED, ALL)),
    Case("worker-killed", kills.worker, (*EVERYWHERE, "cluster"), "embedded", (KILLED, ALL)),
    Case("store-killed", kills.store, EVERYWHERE, "embedded", (KILLED, STORES, ALL)),
    Case("data-lost", kills.data, EVERYWHERE, "redis", (ALL,)),
    Case("data-lost-in-a-commit", kills.between, ONE_SERVER, "valkey", (ALL,)),
    Case("store-stopped", outages.stopped, (*EVERYWHERE, "cluster"), "embedded", (AWAY, ALL)),
    Case("store-line", outages.line, BEHIND_A_RELAY, "valkey", (AWAY, ALL)),
    Case("subscription-silent", outages.silent, BEHIND_A_RELAY, "valkey", (AWAY, ALL)),
    Case("store-refuses", refusals.refusals, (*EVERYWHERE, "cluster"), "embedded", (ALL,)),
    Case("values-damaged", values.damaged, EVERYWHERE, "embedded", (DAMAGE, ALL)),
    Case("flush-cancelled", server.cancelled, BEHIND_A_RELAY, "redis", (ALL,)),
    Case("server-stopped", server.stopped, ("embedded",), "embedded", (ENDS,)),
    Case("buffer-full", server.full, (*EVERYWHERE, "cluster"), "embedded", (AWAY, ALL)),
    Case("one-learner-fills", server.share, EVERYWHERE, "redis", (SHARES, ALL)),
    Case("many-videos", server.many_videos, ("embedded",), "embedded", (ALL,)),
    Case("node-clock", clocks.of_a_node, ("valkey", "redis", "cluster"), "redis", (CLOCKS, ALL)),
    Case("store-clock", clocks.of_the_store, EVERYWHERE, "valkey", (CLOCKS, ALL)),
    Case("half-open", devices.half_open, ("embedded",), "embedded", (ALL,)),
    Case("storm", devices.storm, ("embedded", "redis", "cluster"), "embedded", (STORM,)),
    Case("tunnel", devices.dark, ("embedded",), "embedded", (ORDER, ALL)),
    Case("beacons", devices.beacons, ("embedded",), "embedded", (ORDER,)),
    Case("envelopes", envelopes.envelopes, ("embedded", "redis", "cluster"), "embedded", (ORDER,)),
    Case("cluster-changes", clusters.changes, ("cluster",), "cluster", (PRIMARIES,)),
    Case("shards-lost", clusters.lost, ("cluster",), "cluster", (ALL,)),
    Case("store-restarted", configured.restarts, CONFIGURED, "users-redis7", (STORES,)),
    Case("replicas-resynced", configured.resyncs, REPLICATED, "replica-users-redis7", (STORES, PRIMARIES)),
    Case("several-nodes", clusters.nodes, ("valkey", "redis", "cluster"), "cluster", (KILLED, PRIMARIES)),
)
