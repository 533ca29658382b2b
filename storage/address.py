"""Where the store is: one server, the server that sentinels name, or a cluster. Read from a URL.

    redis://[user:password@]host[:port][/db]      rediss://…   unix://path
    redis+sentinel://[user:password@]host[:port],…/service     rediss+sentinel://…
    redis+cluster://[user:password@]host[:port],…              rediss+cluster://…

User and password are the store's, `?sentinel_username=` and `?sentinel_password=` the sentinels'. What else stands
behind the `?` are options of redis-py's connections.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from redis.asyncio.connection import parse_url

PORT, SENTINEL_PORT = 6379, 26379


@dataclass(frozen=True, slots=True)
class Address:
    """What a URL says."""

    kind: Literal["single", "sentinel", "cluster"]
    hosts: tuple[tuple[str, int], ...] = ()
    """Sentinels, or some of the cluster's nodes: who is asked first."""
    service: str = ""
    """What the sentinels call the store."""
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Of connections to the store, as redis-py takes them."""
    sentinel_options: Mapping[str, Any] = field(default_factory=dict, repr=False)


def parse_address(url: str) -> Address:
    """Raises ValueError: a sentence that tells what is wrong and nothing of a password."""
    scheme, separator, rest = url.partition("://")
    if scheme in ("redis", "rediss", "unix"):
        return Address("single", options=_options(url))
    kind: Literal["sentinel", "cluster"] = "sentinel" if scheme.endswith("+sentinel") else "cluster"
    tls = scheme.removesuffix(f"+{kind}")
    if tls not in ("redis", "rediss") or tls == scheme or not separator:
        raise ValueError(
            "it should begin with redis://, rediss:// or unix://, with redis+sentinel:// or redis+cluster://, "
            "or with rediss+sentinel:// or rediss+cluster://"
        )
    parts = urlsplit(f"redis://{rest}")
    user, at, hosts = parts.netloc.rpartition("@")
    default_port = SENTINEL_PORT if kind == "sentinel" else PORT
    addresses = tuple(_host(number, host, default_port) for number, host in enumerate(hosts.split(","), 1))
    service, _, db = unquote(parts.path).strip("/").partition("/")
    if kind == "sentinel" and not service:
        raise ValueError(
            "behind the sentinels it should name their service, as in redis+sentinel://host:26379/mymaster"
        )
    if kind == "cluster" and service:
        raise ValueError(f"a cluster has no database but 0, so nothing may follow its hosts (it has /{service})")
    options = _options(f"{tls}://{user}{at}host/{db}?{parts.query}")
    if kind == "cluster" and options.pop("db", 0):
        raise ValueError("a cluster has no database but 0")
    sentinels = {name[9:]: options.pop(name) for name in ("sentinel_username", "sentinel_password") if name in options}
    if kind == "cluster" and sentinels:
        raise ValueError("sentinel_username and sentinel_password are for redis+sentinel://")
    if tls == "rediss" and kind == "sentinel":
        sentinels |= {name: value for name, value in options.items() if name.startswith("ssl_")}
        sentinels["ssl"] = True
    return Address(kind, addresses, service, options, sentinels)


def _host(number: int, text: str, default_port: int) -> tuple[str, int]:
    """Of an unreadable one the place is told, not the text: it may be half of a password."""
    try:
        parts = urlsplit(f"redis://{text}")
        if parts.hostname and not parts.path:
            return parts.hostname, parts.port or default_port
    except ValueError:
        pass
    raise ValueError(f"of its hosts, with commas between, number {number} is not host or host:port")


def _options(url: str) -> dict[str, Any]:
    options: dict[str, Any] = dict(parse_url(url))
    if options.get("decode_responses"):
        raise ValueError("decode_responses can't be asked for: records are not text")
    return options
