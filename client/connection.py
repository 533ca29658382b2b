"""One WebSocket conversation, from the handshake to the close: frames between the socket and the client's state.

It does not use the reconnecting iterator of `websockets`, which can neither fetch a token for each attempt, nor honour
`goodbye`, nor fall back to HTTP.
"""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.typing import Subprotocol

from playhead.client.outbox import Outbox
from playhead.client.pace import Pace
from playhead.client.reading import read_message
from playhead.client.records import Records
from playhead.protocol.codecs import Codec
from playhead.protocol.errors import FrameError
from playhead.protocol.messages import (
    Ack,
    Auth,
    Error,
    Expiring,
    Goodbye,
    Hello,
    Message,
    Progress,
    Sync,
    Synced,
    Welcome,
)

OPEN_TIMEOUT_S = 10.0
WELCOME_TIMEOUT_S = 20.0
"""Between the hello and the welcome, in which the server reads its store."""
PING_S = 15.0
"""A dead connection is noticed after two of these."""
CLOSE_TIMEOUT_S = 1.0
MAX_FRAME_BYTES = 4 * 1_048_576


@dataclass(slots=True)
class Ended:
    """How a conversation ended."""

    code: int
    """The close code; 0 if there was no connection."""
    reason: str
    greeted: bool = False
    """The server sent a welcome."""
    refused: bool = False
    """The handshake was answered, but not with a WebSocket."""
    retry_after_s: float = 0.0


class Owner(Protocol):
    """The state that a conversation reads and updates; the engine holds it."""

    outbox: Outbox
    records: Records
    pace: Pace
    wake: asyncio.Event
    """Set when the outbox or `syncs` has new work."""
    syncs: deque["asyncio.Future[None]"]
    """Waiters for the answer to the next sync."""

    def hello(self) -> Hello: ...

    def settle(self, ack: Ack) -> None: ...

    def online(self) -> None: ...

    async def fresh_token(self) -> str | None:
        """Get a token to replace one that is about to expire; None if there is none."""
        ...


class Conversation:
    """The messages of one connection.

    Args:
        clock: monotonic, ms since 1970.
    """

    def __init__(
        self, url: str, codec: Codec, owner: Owner, clock: Callable[[], int], tls: ssl.SSLContext | None
    ) -> None:
        self._url = url
        self._codec = codec
        self._owner = owner
        self._clock = clock
        self._tls = tls
        self._ended = Ended(0, "not connected")
        self._explained = ""
        """The server's last error or goodbye."""
        self._asked: deque[list[asyncio.Future[None]]] = deque()
        """For each expected `synced`, its waiters."""

    async def run(self, headers: dict[str, str]) -> Ended:
        """Converse until the connection ends, for whatever reason."""
        ended = self._ended
        try:
            async with _Direct(
                self._url,
                subprotocols=[Subprotocol(self._codec.subprotocol)],
                additional_headers=headers,
                compression=None,
                proxy=None,
                open_timeout=OPEN_TIMEOUT_S,
                ping_interval=PING_S,
                ping_timeout=PING_S,
                close_timeout=CLOSE_TIMEOUT_S,
                max_size=MAX_FRAME_BYTES,
                ssl=self._tls if self._url.startswith("wss:") else None,
            ) as socket:
                try:
                    await self._converse(socket)
                finally:
                    for waiting in self._asked:
                        self._owner.syncs.extend(waiting)
                    self._owner.outbox.disconnected()
        except ConnectionClosed as closed:
            ended.code = closed.rcvd.code if closed.rcvd is not None else 1006
            received = closed.rcvd.reason if closed.rcvd is not None else ""
            ended.reason = self._explained or received or ended.reason
        except (InvalidHandshake, InvalidURI, EOFError) as error:
            ended.refused, ended.reason = True, f"no WebSocket: {error}"
        except (OSError, FrameError) as error:
            ended.reason = f"{type(error).__name__}: {error}"
        return ended

    async def _converse(self, socket: ClientConnection) -> None:
        """Raises ConnectionClosed, FrameError, TimeoutError."""
        owner = self._owner
        with contextlib.suppress(ConnectionClosed):  # refused before the hello: the reason can still be read
            await self._send(socket, owner.hello())
        async with asyncio.timeout(WELCOME_TIMEOUT_S):
            while not isinstance(first := read_message(self._codec.decode(await socket.recv())), Welcome):
                self._note_reason(first)
        self._ended.greeted, self._ended.reason = True, "the connection was lost"
        owner.pace.start(self._clock() / 1_000)
        owner.records.welcome(first.epoch, first.rev)
        self._asked.append(_drained(owner.syncs))  # the hello also asks for changes
        owner.online()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._write(socket))
                await self._read(socket, tasks)
        except BaseExceptionGroup as group:
            # Raise a bug rather than the close that it led to.
            raise min(group.exceptions, key=lambda error: isinstance(error, ConnectionClosed)) from None

    async def _read(self, socket: ClientConnection, tasks: asyncio.TaskGroup) -> None:
        """Receive messages. Raises ConnectionClosed when the connection ends."""
        owner = self._owner
        while True:
            received = read_message(self._codec.decode(await socket.recv()))
            if isinstance(received, Ack):
                owner.settle(received)
                owner.wake.set()  # the window has room again
            elif isinstance(received, Progress):
                owner.records.update(received.records, received.rev)
            elif isinstance(received, Synced):
                owner.records.synced(received.rev)
                for waiting in self._asked.popleft() if self._asked else ():
                    if not waiting.done():
                        waiting.set_result(None)
            elif isinstance(received, Expiring):
                tasks.create_task(self._renew(socket))
            else:
                self._note_reason(received)

    def _note_reason(self, received: Message | None) -> None:
        if isinstance(received, Goodbye):
            self._ended.retry_after_s = max(0.0, received.retry_after)
            self._explained = received.code
        elif isinstance(received, Error):
            self._explained = f"{received.code}: {received.detail}"

    async def _write(self, socket: ClientConnection) -> None:
        """Send what is waiting, as fast as the pace allows."""
        owner = self._owner
        while True:
            owner.wake.clear()
            if owner.syncs and owner.pace.room(self._clock() / 1_000):
                self._asked.append(_drained(owner.syncs))
                owner.pace.sent(1)
                await self._send(socket, Sync(since=owner.records.rev or 0))
            room = owner.pace.room(self._clock() / 1_000)
            for heartbeat in owner.outbox.take(self._clock(), room):
                owner.pace.sent(1)
                await self._send(socket, heartbeat)
            if not owner.wake.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(owner.pace.wait_s() if owner.outbox.has_work or owner.syncs else None):
                        await owner.wake.wait()

    async def _renew(self, socket: ClientConnection) -> None:
        token = await self._owner.fresh_token()
        if token is not None:
            await self._send(socket, Auth(token=token))

    async def _send(self, socket: ClientConnection, message: Message) -> None:
        await socket.send(self._codec.encode(message))


class _Direct(connect):
    """Follows no redirect, because the token is only for the address that the user chose."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc


def _drained(syncs: "deque[asyncio.Future[None]]") -> "list[asyncio.Future[None]]":
    waiting = list(syncs)
    syncs.clear()
    return waiting
