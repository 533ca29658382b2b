"""The tools of an attacker: a plain socket, handshakes and frames of any shape, and a parser for the answers."""

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass

PATIENCE_S = 10.0
"""The limit of every wait; a test that reaches it has failed."""
MARK = "c0ffee5ca1ab1e"
"""Part of everything that attackers send, wherever possible: no log may contain it."""
CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
JSON, MSGPACK = "playhead.v1.json", "playhead.v1.msgpack"
READ = 65_536


def head(method: str, target: str, *lines: str) -> bytes:
    """The head of a request; `lines` are headers without line ends."""
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode("latin-1")


def upgrade(*lines: str, target: str = "/ws", codec: str = JSON) -> bytes:
    """A valid WebSocket handshake with additional headers."""
    good = "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    return head("GET", target, *good, "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Protocol: {codec}", *lines)


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = True, length: int | None = None
) -> bytes:
    """A frame (RFC 6455, 5.2). The mask is zero, so the payload is sent as given; `length` may be a lie."""
    declared = len(payload) if length is None else length
    first, mask = (0x80 if fin else 0) | rsv << 4 | opcode, 0x80 if masked else 0
    if declared < 126:
        start = struct.pack("!BB", first, mask | declared)
    elif declared < 65_536:
        start = struct.pack("!BBH", first, mask | 126, declared)
    else:
        start = struct.pack("!BBQ", first, mask | 127, declared)
    return start + (bytes(4) if masked else b"") + payload


@dataclass(frozen=True)
class Received:
    """Everything that the server sent on a WebSocket until it closed the connection."""

    status: int
    frames: tuple[tuple[int, bytes], ...]

    @property
    def close_code(self) -> int | None:
        codes = [struct.unpack_from("!H", payload)[0] for opcode, payload in self.frames if opcode == CLOSE and payload]
        assert len(codes) <= 1, "one close frame at most"
        return codes[0] if codes else None

    def of(self, opcode: int) -> list[bytes]:
        return [payload for kind, payload in self.frames if kind == opcode]


def status(answer: bytes) -> int:
    """The status of the first response; 0 if there is none."""
    return int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else 0


def parse_received(answer: bytes) -> Received:
    """Parse the answer to a handshake and the frames after it; an incomplete frame at the end is left out."""
    start, _, rest = answer.partition(b"\r\n\r\n")
    frames: list[tuple[int, bytes]] = []
    while status(start) == 101 and len(rest) >= 2:
        opcode, length, at = rest[0] & 0x0F, rest[1] & 0x7F, 2
        if length == 126:
            (length,), at = struct.unpack_from("!H", rest, 2), 4
        elif length == 127:
            (length,), at = struct.unpack_from("!Q", rest, 2), 10
        if len(rest) < at + length:
            break
        frames.append((opcode, rest[at : at + length]))
        rest = rest[at + length :]
    return Received(status(start), tuple(frames))


class Attacker:
    """One TCP connection to the server."""

    def __init__(self, plain: socket.socket) -> None:
        self._socket = plain
        self._answer = bytearray()

    @classmethod
    async def connect(cls, port: int, receive_buffer: int | None = None, segment: int | None = None) -> "Attacker":
        """Connect.

        Args:
            receive_buffer: bytes of our receive buffer (the kernel has a minimum). The smaller it and `segment` are,
                the less data the kernel of the sender accepts for us.
            segment: the largest segment sent to us, in bytes.
        """
        plain = socket.socket()
        plain.setblocking(False)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer is not None:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if segment is not None:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, segment)
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", port))
        return cls(plain)

    async def send(self, data: bytes) -> bool:
        """Send until the server closes or accepts no more; True if everything was accepted."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.get_running_loop().sock_sendall(self._socket, data)
        except OSError:  # TimeoutError is one
            return False
        return True

    async def until(self, what: bytes) -> bytes:
        """Read until these bytes have arrived; everything read so far."""
        async with asyncio.timeout(PATIENCE_S):
            while what not in self._answer:
                data = await asyncio.get_running_loop().sock_recv(self._socket, READ)
                assert data, (what, bytes(self._answer))
                self._answer += data
        return bytes(self._answer)

    async def closed(self, within_s: float = PATIENCE_S) -> bytes:
        """Read until the server closes or resets the connection, at most `within_s`; everything that was read."""
        async with asyncio.timeout(within_s):
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                while data := await asyncio.get_running_loop().sock_recv(self._socket, READ):
                    self._answer += data
        return bytes(self._answer)

    def close(self) -> None:
        self._socket.close()

    def reset(self) -> None:
        """Disconnect with RST instead of FIN."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()


async def send_until_closed(attacker: Attacker, data: bytes) -> Received:
    """Send the data and read until the server closes."""
    sending = asyncio.create_task(attacker.send(data))
    answer = parse_received(await attacker.closed())
    await sending
    return answer


async def send_until_close_code(attacker: Attacker, data: bytes, code: int) -> Received:
    """Send the data, read until the close frame with this code, answer it, and read until the server closes."""
    await attacker.send(data)
    await attacker.until(struct.pack("!H", code))
    return await send_until_closed(attacker, frame(CLOSE, struct.pack("!H", code)))


async def attack(port: int, data: bytes, within_s: float = PATIENCE_S) -> bytes:
    """Connect, send, and read until the server closes; everything that it sent."""
    attacker = await Attacker.connect(port)
    try:
        sending = asyncio.create_task(attacker.send(data))
        answer = await attacker.closed(within_s)
        await sending
        return answer
    finally:
        attacker.close()
