"""The WebSocket handshake as all our players send it (RFC 6455, 4.2), judged from headers that are parsed already.

uvicorn writes the request out again for the WebSocket library to parse it once more, which costs as much as all else
of an accept. What is in any way unusual goes on to the library, so that there is one judge of what is refused.
"""

import base64
import binascii
import re
from hashlib import sha1

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_ONCE = frozenset(
    (b"connection", b"upgrade", b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-protocol", b"origin")
)
_BODY = frozenset((b"content-length", b"transfer-encoding"))
_TOKENS = re.compile(rb"[-!#$%&'*+.^_`|~0-9a-zA-Z]+(?: *, *[-!#$%&'*+.^_`|~0-9a-zA-Z]+)*")
MAX_HEADERS, MAX_LINE = 128, 8_192
"""The library's, and its to refuse."""
Headers = list[tuple[bytes, bytes]]


def accept_token(url: bytes, headers: Headers) -> bytes | None:
    """Sec-WebSocket-Accept for a GET by HTTP/1.1, header names in lower case; None where the library shall judge."""
    if len(headers) > MAX_HEADERS or len(url) > MAX_LINE // 2 or not url.isascii():
        return None
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if len(name) + len(value) > MAX_LINE // 2 or name in _BODY:
            return None
        if name in _ONCE:
            if name in found:
                return None
            found[name] = value
    if found.get(b"upgrade", b"").lower() != b"websocket" or found.get(b"sec-websocket-version") != b"13":
        return None
    for name in (b"connection", b"sec-websocket-protocol"):
        if name in found and not _TOKENS.fullmatch(found[name]):
            return None
    if b"upgrade" not in [token.strip() for token in found.get(b"connection", b"").lower().split(b",")]:
        return None
    key = found.get(b"sec-websocket-key", b"")
    try:
        if len(base64.b64decode(key, validate=True)) != 16:
            return None
    except binascii.Error:
        return None
    return base64.b64encode(sha1(key + _GUID, usedforsecurity=False).digest())


def answer(token: bytes, subprotocol: str | None, more: Headers) -> bytes:
    """The head of a 101 (RFC 6455, 4.2.2)."""
    lines = [b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "]
    lines += [token, b"\r\n"]
    for name, value in more:
        lines += [name, b": ", value, b"\r\n"]
    if subprotocol is not None:
        lines += [b"Sec-WebSocket-Protocol: ", subprotocol.encode("ascii"), b"\r\n"]
    return b"".join([*lines, b"\r\n"])
