"""Decides which pages may call the service, by an exact comparison of the request's Origin (RFC 6454).

Without tokens there is a further danger: any site may let its own host name resolve to 127.0.0.1, and its pages then
count as same-origin (DNS rebinding). So the Host must then be a name that no other site can have.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from starlette.types import Scope

_PORTS = {"http": 80, "https": 443}
_ORIGIN = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{1,5}))?", re.ASCII | re.IGNORECASE
)
"""An internationalized host name is given as punycode, as browsers send it."""
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
_NAMEABLE = re.compile(
    r"(?:[a-z][a-z0-9+.-]*://)?(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]+)?", re.ASCII | re.IGNORECASE
)
MAX_NAMED = 100
"""Characters of an origin or a host that are logged."""


class Objection(NamedTuple):
    """Why a request is refused: a keyword, and a sentence for the operator."""

    reason: str
    sentence: str


def parse_origin(value: str) -> str:
    """Normalize an origin to the form that browsers send: in lower case, without the scheme's default port.

    Raises:
        ValueError: the value is not of the form scheme://host or scheme://host:port.
    """
    found = _ORIGIN.fullmatch(value)
    if found is None or int(found["port"] or 0) > 65_535:
        raise ValueError(
            "an origin has no path and no *: it should look like https://academy.example or http://localhost:3000"
        )
    scheme, host, port = found["scheme"].lower(), found["host"].lower(), found["port"]
    return f"{scheme}://{host}" + ("" if port is None or int(port) == _PORTS[scheme] else f":{int(port)}")


class Origins:
    """Checks the Origin and Host headers of requests.

    Args:
        allowed: the origins allowed besides the service's own.
        own_names: the host names by which the service may be addressed; None permits any, where tokens are required.
    """

    def __init__(self, allowed: Iterable[str], own_names: Iterable[str] | None) -> None:
        self._allowed = frozenset(allowed)
        self._own_names = None if own_names is None else frozenset(own_names)

    def objection(self, scope: Scope) -> Objection | None:
        """Return why a request or handshake is refused, or None. One without an Origin is not from a foreign page."""
        hosts, origins = [], []
        for name, value in scope["headers"]:
            if name == b"host":
                hosts.append(value.decode("latin-1"))
            elif name == b"origin":
                origins.append(value.decode("latin-1"))
        if len(hosts) > 1 or len(origins) > 1:
            return Objection("origin", "a request with several Host or Origin headers")
        own = _own_origin(_SCHEMES[scope["scheme"]], hosts[0]) if hosts else None
        if self._own_names is not None and hosts and own not in self._allowed and _host_of(own) not in self._own_names:
            return Objection("host", _unknown_host(hosts[0], own))
        if not origins or origins[0] in self._allowed or origins[0] == own:
            return None
        return Objection("origin", _foreign_origin(origins[0], own))


def _unknown_host(host: str, own: str | None) -> str:
    what = f"host {_loggable(host)}: without authentication only localhost, 127.0.0.1 and [::1] are served"
    return f"{what}; configure a key for tokens, or add {own} to allowed_origins" if own is not None else what


def _foreign_origin(origin: str, own: str | None) -> str:
    if "://" not in origin and origin != "null":  # not sent by a browser, so it may hold anything
        return "a malformed Origin"
    what = f"origin {_loggable(origin)}: it is not in allowed_origins"
    if own is not None and own.partition(":")[2] == origin.lower().partition(":")[2]:
        what += "; if this is the service's own page behind an https proxy, add the proxy to trusted_proxies"
    return what


def _loggable(value: str) -> str:
    if not _NAMEABLE.fullmatch(value):
        return "(malformed)"
    return value if len(value) <= MAX_NAMED else f"{value[:MAX_NAMED]}…"


@lru_cache(maxsize=1_000)
def _own_origin(scheme: str, host: str) -> str | None:
    try:
        return parse_origin(f"{scheme}://{host.lower()}")
    except ValueError:
        return None


@lru_cache(maxsize=1_000)
def _host_of(origin: str | None) -> str | None:
    found = _ORIGIN.fullmatch(origin or "")
    return found["host"] if found is not None else None
