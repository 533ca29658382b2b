"""Which requests become WebSockets (RFC 6455, 4.2.1), judged from headers that are parsed already.

An Upgrade that is not taken here is ignored, and its request is answered as if it had none (RFC 9110, 7.8). So there
is one judge, and it decides before anything is handed over: neither uvicorn nor the WebSocket library reads a handshake
a second time.
"""

import base64
import binascii
import re
from hashlib import sha1

SOCKET_PATH = "/ws"
NEEDED = (
    "this path speaks WebSocket only: send a GET by HTTP/1.1 without a body, with Upgrade: websocket, "
    "Connection: Upgrade, Sec-WebSocket-Version: 13 and a Sec-WebSocket-Key; "
    "a proxy in between has to pass the headers Upgrade and Connection on"
)
"""What is said to a request that comes to SOCKET_PATH and is no handshake."""
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_LISTS = (b"connection", b"sec-websocket-protocol")
"""May be given in several lines (RFC 9110, 5.3; RFC 6455, 11.3.4)."""
MAX_HEADERS, MAX_LINE = 128, 8_192
"""Of a handshake: headers, and bytes of a line. Players need a token in one of them, and no more."""
_ONCE = frozenset((b"upgrade", b"sec-websocket-key", b"sec-websocket-version"))
_TOKEN = re.compile(rb"[-!#$%&'*+.^_`|~0-9a-zA-Z]+")
Headers = list[tuple[bytes, bytes]]


def accept_token(path: str, headers: Headers) -> bytes | None:
    """Judge a GET by HTTP/1.1.

    Args:
        path: percent-decoded.
        headers: names in lower case.

    Returns:
        Sec-WebSocket-Accept, or None where the request becomes no WebSocket.
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
    """Whether this is more than a WebSocket's head may have."""
    lines = (len(name) + len(value) for name, value in headers)
    return len(headers) > MAX_HEADERS or max(len(url), *lines) > MAX_LINE


def tokens(headers: Headers, name: bytes) -> list[bytes]:
    """The elements of a header that is a list, over all of its lines; empty ones are left out (RFC 9110, 5.6.1)."""
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
