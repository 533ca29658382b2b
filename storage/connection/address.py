"""Parses the URL of the store: one server, the server that sentinels name, or a cluster.

    redis://[user:password@]host[:port][/db]      rediss://…   unix://[user:password@]/path
    redis+sentinel://[user:password@]host[:port],…/service[/db]    rediss+sentinel://…
    redis+cluster://[user:password@]host[:port],…                  rediss+cluster://…

User and password are those of the store; `?sentinel_username=` and `?sentinel_password=` are those of the sentinels.
`storage/connection/url_options.py` has the other query parameters.

Invariant: no error repeats a part of the URL, because any part may belong to a password: an unescaped `/`, `?`, `#` or
`@` in a password changes how the rest of the URL is read.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import SplitResult, unquote, urlsplit

from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection

from playhead.storage.connection.url_options import read_options

PORT, SENTINEL_PORT = 6379, 26379
ENCODE = "in user and password write %2F for /, %3F for ?, %23 for #, %40 for @, %5B for [ and %20 for a space"
_NAME = re.compile(r"[\w.-]{1,253}")


@dataclass(frozen=True, slots=True)
class Address:
    """The contents of a store's URL."""

    kind: Literal["single", "sentinel", "cluster"]
    hosts: tuple[tuple[str, int], ...] = ()
    """The sentinels, or some nodes of the cluster, which are asked first."""
    service: str = ""
    """The name of the store at the sentinels."""
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Options of redis-py for connections to the store."""
    sentinel_options: Mapping[str, Any] = field(default_factory=dict, repr=False)


def parse_address(url: str) -> Address:
    """Parse a URL. Raises ValueError with a sentence that says what is wrong and repeats no part of a password."""
    scheme, separator, _ = url.partition("://")
    kind: Literal["single", "sentinel", "cluster"] = "single"
    if scheme.endswith("+sentinel"):
        kind = "sentinel"
    elif scheme.endswith("+cluster"):
        kind = "cluster"
    plain = scheme.removesuffix(f"+{kind}")
    if not separator or plain not in ("redis", "rediss", *(["unix"] if kind == "single" else [])):
        raise ValueError(
            "it should begin with redis://, rediss:// or unix://, or with redis+sentinel://, rediss+sentinel://, "
            "redis+cluster:// or rediss+cluster://"
        )
    parts = _split(url)
    if "@" in parts.query and "@" not in parts.netloc:
        raise ValueError(f"it has an @ after the ?: {ENCODE}")
    options = read_options(parts.query, plain)
    sentinels = {name[9:]: options.pop(name) for name in ("sentinel_username", "sentinel_password") if name in options}
    if kind != "sentinel" and sentinels:
        raise ValueError("sentinel_username and sentinel_password are for redis+sentinel:// only")
    user, _, hosts = parts.netloc.rpartition("@")
    name, colon, password = user.partition(":")
    given = {"username": unquote(name), "password": unquote(password) if colon else ""}
    options |= {option: value for option, value in given.items() if value}
    if plain == "unix":
        return Address("single", options=options | _socket_file(hosts, parts.path))
    if plain == "rediss":
        options["connection_class"] = SSLConnection
    if "@" in parts.path:
        raise ValueError(f"the part after its host is invalid: {ENCODE}")
    first, _, second = unquote(parts.path).strip("/").partition("/")
    if kind == "single":
        return Address("single", options=options | _server(hosts) | _database(first + second, options))
    default_port = SENTINEL_PORT if kind == "sentinel" else PORT
    addresses = tuple(
        _host(host, default_port, f"number {number} of its comma-separated hosts is not host or host:port")
        for number, host in enumerate(hosts.split(","), 1)
    )
    if kind == "cluster":
        if first or options.pop("db", 0):
            raise ValueError("a cluster has no database other than 0, so nothing may follow its hosts")
        return Address(kind, addresses, options=options | {"host": "host"})
    if not first:
        raise ValueError("it should name the service after the sentinels, as in redis+sentinel://host:26379/mymaster")
    if plain == "rediss":
        sentinels |= {name: value for name, value in options.items() if name.startswith("ssl_")}
        sentinels["ssl"] = True
    return Address(kind, addresses, first, options | {"host": "host"} | _database(second, options), sentinels)


def _split(url: str) -> SplitResult:
    if any(character.isspace() or not character.isprintable() for character in url):
        raise ValueError(f"it has a space or a control character: {ENCODE}")
    if "#" in url:
        raise ValueError(f"it has a #: {ENCODE}")
    try:
        return urlsplit(url)
    except ValueError:
        raise ValueError(f"its host is invalid; an IPv6 address should be in brackets, and {ENCODE}") from None


def _socket_file(host: str, path: str) -> dict[str, Any]:
    if host or not path.strip("/"):
        raise ValueError("the path of a unix socket should be absolute, as in unix:///run/redis.sock")
    return {"path": unquote(path), "connection_class": UnixDomainSocketConnection}


def _server(hosts: str) -> dict[str, Any]:
    """The options for one host; without one, redis-py connects to this machine."""
    if not hosts:
        return {}
    more = "; for several hosts use redis+sentinel:// or redis+cluster://" if "," in hosts else ""
    host, port = _host(hosts, 0, f"the part after its // is not host or host:port ({ENCODE}{more})")
    return {"host": host, "port": port} if port else {"host": host}


def _database(text: str, options: Mapping[str, Any]) -> dict[str, int]:
    if not text or "db" in options:
        return {}
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise ValueError(f"the part after its host is not the number of a database: {ENCODE}")
    return {"db": int(text)}


def _host(text: str, default_port: int, wrong: str) -> tuple[str, int]:
    """Parse host or host:port. Raises ValueError(wrong)."""
    try:
        parts = urlsplit(f"redis://{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(wrong) from None
    bracketed = text.startswith("[")
    if not host or port == 0 or text.endswith(":") or not (bracketed or _NAME.fullmatch(host)):
        raise ValueError(wrong)
    return unquote(host), port or default_port
