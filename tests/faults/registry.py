"""Every case, and the places where it is run: in full, and in short."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.configured import CONFIGURATIONS
from tests.faults.cases import clusters, configured, devices, envelopes, kills, outages, refusals, server
from tests.faults.effort import Effort
from tests.faults.scene import Row

PLACES_OF_CONFIGURATIONS = {f"{of.name}-{kind}": of.name for of in CONFIGURATIONS.values() for kind in of.kinds}
"""As `tests/configured.py` describes them, on each kind of server that can."""
EVERYWHERE = ("embedded", "valkey", "redis")
ONE_SERVER = ("valkey", "redis")
"""Stores whose files are one server's, with a relay of ours between the service and it."""
BEHIND_A_RELAY = (*ONE_SERVER, "cluster")
CONFIGURED = tuple(PLACES_OF_CONFIGURATIONS)
REPLICATED = tuple(name for name, of in PLACES_OF_CONFIGURATIONS.items() if CONFIGURATIONS[of].topology != "one")


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    run: Callable[[str, Effort], Awaitable[list[Row]]]
    places: tuple[str, ...]
    short: str
    """The one place of the short form."""


CASES = (
    Case("server-killed", kills.server, (*EVERYWHERE, "cluster"), "embedded"),
    Case("killed-at-each-step", kills.between_the_stages, (*EVERYWHERE, "cluster"), "valkey"),
    Case("worker-killed", kills.worker, (*EVERYWHERE, "cluster"), "embedded"),
    Case("store-killed", kills.store, EVERYWHERE, "embedded"),
    Case("data-lost", kills.data, EVERYWHERE, "redis"),
    Case("data-lost-in-a-commit", kills.between, ONE_SERVER, "valkey"),
    Case("store-stopped", outages.stopped, (*EVERYWHERE, "cluster"), "embedded"),
    Case("store-line", outages.line, BEHIND_A_RELAY, "valkey"),
    Case("subscription-silent", outages.silent, BEHIND_A_RELAY, "valkey"),
    Case("store-refuses", refusals.refusals, (*EVERYWHERE, "cluster"), "embedded"),
    Case("flush-cancelled", server.cancelled, BEHIND_A_RELAY, "redis"),
    Case("server-stopped", server.stopped, ("embedded",), "embedded"),
    Case("buffer-full", server.full, (*EVERYWHERE, "cluster"), "embedded"),
    Case("one-learner-fills", server.share, EVERYWHERE, "redis"),
    Case("many-videos", server.many_videos, ("embedded",), "embedded"),
    Case("clock-set", server.clock, ("embedded",), "embedded"),
    Case("half-open", devices.half_open, ("embedded",), "embedded"),
    Case("storm", devices.storm, ("embedded", "redis", "cluster"), "embedded"),
    Case("tunnel", devices.dark, ("embedded",), "embedded"),
    Case("beacons", devices.beacons, ("embedded",), "embedded"),
    Case("envelopes", envelopes.envelopes, ("embedded", "redis", "cluster"), "embedded"),
    Case("cluster-changes", clusters.changes, ("cluster",), "cluster"),
    Case("shards-lost", clusters.lost, ("cluster",), "cluster"),
    Case("store-restarted", configured.restarts, CONFIGURED, "users-redis7"),
    Case("replicas-resynced", configured.resyncs, REPLICATED, "replica-users-redis7"),
    Case("several-nodes", clusters.nodes, ("valkey", "redis", "cluster"), "cluster"),
)
