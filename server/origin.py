"""Which pages may speak to us: the Origin of a request, compared exactly (RFC 6454), before anything else is looked at.

Without tokens there is one danger more: a page of any site may have its own name resolve to 127.0.0.1, and then
counts as our own (DNS rebinding). So then the Host must be one that can't be had by others.
"""

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

_PORTS = {"http": 80, "https": 443}
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


def parse_origin(value: str) -> str:
    """An origin as a browser sends it: scheme and host in lower case, no port where it is the scheme's own.

    Raises:
        ValueError: anything more or less than scheme://host or scheme://host:port.
    """
    parts = urlsplit(value)
    try:
        port = parts.port
    except ValueError:
        port = -1
    bare = not (parts.path or parts.query or parts.fragment or parts.username is not None or value.endswith(("?", "#")))
    if parts.scheme not in _PORTS or not parts.hostname or not bare or port == -1 or "*" in value:
        raise ValueError("an origin is exact: https://academy.example or http://localhost:3000, no path, no *")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + ("" if port in (None, _PORTS[parts.scheme]) else f":{port}")


class Origins:
    """Args: who is allowed besides ourselves, and, where no token is asked for, the names that we may be called by."""

    def __init__(self, allowed: Iterable[str], own_names: Iterable[str] | None) -> None:
        self._allowed = frozenset(allowed)
        self._own_names = None if own_names is None else frozenset(own_names)

    def admits(self, scope: Scope) -> bool:
        """Whether this request or handshake may be answered; what names no Origin was not sent by a foreign page."""
        headers = Headers(scope=scope)
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) > 1 or len(origins) > 1:
            return False
        own = _own_origin(_SCHEMES[scope["scheme"]], hosts[0]) if hosts else None
        if self._own_names is not None and hosts and own not in self._allowed:
            name = hosts[0].lower().rpartition(":")[0] if _has_port(hosts[0]) else hosts[0].lower()
            if name not in self._own_names:
                return False
        return not origins or origins[0] in self._allowed or origins[0] == own


def _own_origin(scheme: str, host: str) -> str | None:
    try:
        return parse_origin(f"{scheme}://{host.lower()}")
    except ValueError:
        return None


def _has_port(host: str) -> bool:
    return host.rpartition("]")[2].count(":") == 1
