"""Decides which requests become WebSockets (RFC 6455, 4.2.1), from headers that are already parsed.

An Upgrade that is not accepted here is ignored, and its request is answered as if it had none (RFC 9110, 7.8). The
decision is made once, before anything is handed over: neither uvicorn nor the WebSocket library parses a handshake
again.
"""

import base64
import binascii
import re
from hashlib import sha1

SOCKET_PATH = "/ws"
NEEDED = (
    "this path accepts WebSocket handshakes only: a GET by HTTP/1.1 without a body, with Upgrade: websocket, "
    "Connection: Upgrade, Sec-WebSocket-Version: 13 and a Sec-WebSocket-Key; "
    "a proxy in between must forward the headers Upgrade and Connection"
)
"""The detail of the response to a request for SOCKET_PATH that is not a handshake."""
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_LISTS = (b"connection", b"sec-websocket-protocol")
"""Headers that may have several lines (RFC 9110, 5.3; RFC 6455, 11.3.4)."""
MAX_HEADERS, MAX_LINE = 128, 8_192
"""The most headers of a handshake, and bytes of one. Players need one for a token, and no more."""
_ONCE = frozenset((b"upgrade", b"sec-websocket-key", b"sec-websocket-version"))
_TOKEN = re.compile(rb"[-!#$%&'*+.^_`|~0-9a-zA-Z]+")
Headers = list[tuple[bytes, bytes]]


def accept_token(path: str, headers: Headers) -> bytes | None:
    """Sec-WebSocket-Accept for a GET by HTTP/1.1; None if the request does not become a WebSocket.

    Args:
        path: percent-decoded.
        headers: names in lower case.
    """
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name == b"transfer-encoding" or (name == b"content-length" and value.strip(b" \t0")):
            return None  # it has a body, which would be read as frames
        if name in _ONCE:
            if name in found:
                return None
            found[name] = value.strip()
    if path != SOCKET_PATH or found.get(b"upgrade", b"").lower() != b"websocket":
        return None
    connection, subprotocols = (tokens(headers, name) for name in _LISTS)
    if found.get(b"sec-websocket-version") != b"13" or b"upgrade" not in map(bytes.lower, connection):
        return None
    if not all(map(_TOKEN.fullmatch, (*connection, *subprotocols))):
        return None
    key = found.get(b"sec-websocket-key", b"")
    try:
        if len(base64.b64decode(key, validate=True)) != 16:
            return None
    except binascii.Error:
        return None
    return base64.b64encode(sha1(key + _GUID, usedforsecurity=False).digest())


def too_large(url: bytes, headers: Headers) -> bool:
    """Whether the head is larger than that of a WebSocket may be."""
    lines = (len(name) + len(value) for name, value in headers)
    return len(headers) > MAX_HEADERS or max(len(url), *lines) > MAX_LINE


def tokens(headers: Headers, name: bytes) -> list[bytes]:
    """The elements of a list header from all of its lines, without empty ones (RFC 9110, 5.6.1)."""
    lines = [value for each, value in headers if each == name]
    return [token for token in (part.strip() for part in b",".join(lines).split(b",")) if token]


def answer(token: bytes, subprotocol: str | None, more: Headers) -> bytes:
    """The head of a 101 (RFC 6455, 4.2.2)."""
    lines = [b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "]
    lines += [token, b"\r\n"]
    for name, value in more:
        lines += [name, b": ", value, b"\r\n"]
    if subprotocol is not None:
        lines += [b"Sec-WebSocket-Protocol: ", subprotocol.encode("ascii"), b"\r\n"]
    return b"".join([*lines, b"\r\n"])
