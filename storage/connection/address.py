"""Where the store is: one server, the server that sentinels name, or a cluster. Read from a URL.

    redis://[user:password@]host[:port][/db]      rediss://…   unix://[user:password@]/path
    redis+sentinel://[user:password@]host[:port],…/service[/db]    rediss+sentinel://…
    redis+cluster://[user:password@]host[:port],…                  rediss+cluster://…

User and password are the store's, `?sentinel_username=` and `?sentinel_password=` the sentinels'. What else may stand
behind the `?` is in `storage/connection/url_options.py`.

Invariant: what is refused here is told without a part of the URL. Any of it may be a piece of a password: a bare `/`,
`?`, `#` or `@` in one shifts all that follows.
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
    scheme, separator, _ = url.partition("://")
    kind: Literal["single", "sentinel", "cluster"] = "single"
    if scheme.endswith("+sentinel"):
        kind = "sentinel"
    elif scheme.endswith("+cluster"):
        kind = "cluster"
    plain = scheme.removesuffix(f"+{kind}")
    if not separator or plain not in ("redis", "rediss", *(["unix"] if kind == "single" else [])):
        raise ValueError(
            "it should begin with redis://, rediss:// or unix://, with redis+sentinel:// or redis+cluster://, "
            "or with rediss+sentinel:// or rediss+cluster://"
        )
    parts = _split(url)
    if "@" in parts.query and "@" not in parts.netloc:
        raise ValueError(f"it has an @ behind the ?: {ENCODE}")
    options = read_options(parts.query, plain)
    sentinels = {name[9:]: options.pop(name) for name in ("sentinel_username", "sentinel_password") if name in options}
    if kind != "sentinel" and sentinels:
        raise ValueError("sentinel_username and sentinel_password are for redis+sentinel://")
    user, _, hosts = parts.netloc.rpartition("@")
    name, colon, password = user.partition(":")
    given = {"username": unquote(name), "password": unquote(password) if colon else ""}
    options |= {option: value for option, value in given.items() if value}
    if plain == "unix":
        return Address("single", options=options | _socket_file(hosts, parts.path))
    if plain == "rediss":
        options["connection_class"] = SSLConnection
    if "@" in parts.path:
        raise ValueError(f"what follows its host can't be read: {ENCODE}")
    first, _, second = unquote(parts.path).strip("/").partition("/")
    if kind == "single":
        return Address("single", options=options | _server(hosts) | _database(first + second, options))
    default_port = SENTINEL_PORT if kind == "sentinel" else PORT
    addresses = tuple(
        _host(host, default_port, f"of its hosts, with commas between, number {number} is not host or host:port")
        for number, host in enumerate(hosts.split(","), 1)
    )
    if kind == "cluster":
        if first or options.pop("db", 0):
            raise ValueError("a cluster has no database but 0, so nothing may follow its hosts")
        return Address(kind, addresses, options=options | {"host": "host"})
    if not first:
        raise ValueError(
            "behind the sentinels it should name their service, as in redis+sentinel://host:26379/mymaster"
        )
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
        raise ValueError(f"its host can't be read; an IPv6 address stands in brackets, and {ENCODE}") from None


def _socket_file(host: str, path: str) -> dict[str, Any]:
    if host or not path.strip("/"):
        raise ValueError("the path of a unix socket is absolute, as in unix:///run/redis.sock")
    return {"path": unquote(path), "connection_class": UnixDomainSocketConnection}


def _server(hosts: str) -> dict[str, Any]:
    """Without a host, this machine's."""
    if not hosts:
        return {}
    more = "; several need redis+sentinel:// or redis+cluster://" if "," in hosts else ""
    host, port = _host(hosts, 0, f"what follows its // is not host or host:port ({ENCODE}{more})")
    return {"host": host, "port": port} if port else {"host": host}


def _database(text: str, options: Mapping[str, Any]) -> dict[str, int]:
    if not text or "db" in options:
        return {}
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise ValueError(f"what follows its host is not the number of a database: {ENCODE}")
    return {"db": int(text)}


def _host(text: str, default_port: int, wrong: str) -> tuple[str, int]:
    """Raises ValueError(wrong)."""
    try:
        parts = urlsplit(f"redis://{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(wrong) from None
    bracketed = text.startswith("[")
    if not host or port == 0 or text.endswith(":") or not (bracketed or _NAME.fullmatch(host)):
        raise ValueError(wrong)
    return unquote(host), port or default_port
