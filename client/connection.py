"""One WebSocket conversation, from the handshake to the close: moves frames between the socket and the client's state.

`websockets`' own reconnecting iterator is not used: it can neither fetch a token for each attempt, nor obey `goodbye`,
nor give way to HTTP.
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
from playhead.client.reading import message
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
"""From the hello to the welcome: the server reads its store in between."""
PING_S = 15.0
"""A line that carries nothing is noticed after two of these."""
CLOSE_TIMEOUT_S = 1.0
MAX_FRAME_BYTES = 4 * 1_048_576


@dataclass(slots=True)
class Ended:
    """How a conversation ended."""

    code: int
    """The close code; 0 where there was no connection."""
    reason: str
    greeted: bool = False
    """There was a welcome."""
    refused: bool = False
    """The handshake was answered, but not by a WebSocket."""
    retry_after_s: float = 0.0


class Owner(Protocol):
    """Who holds the conversation: what it reads and what it tells."""

    outbox: Outbox
    records: Records
    pace: Pace
    wake: asyncio.Event
    """Set when the outbox or `syncs` has something new."""
    syncs: deque["asyncio.Future[None]"]
    """Those who wait to be brought up to date."""

    def hello(self) -> Hello: ...

    def settle(self, ack: Ack) -> None: ...

    def online(self) -> None: ...

    async def fresh_token(self) -> str | None:
        """For a connection whose token is about to expire; None where there is none to be had."""
        ...


class Conversation:
    """What is said on one connection; made anew for each.

    Args:
        clock: ms since 1970, steady.
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
        """What the server last said was wrong."""
        self._asked: deque[list[asyncio.Future[None]]] = deque()
        """For each `synced` to come, who waits for it."""

    async def run(self, headers: dict[str, str]) -> Ended:
        """Converse until the connection ends, however it does."""
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
            said = closed.rcvd.reason if closed.rcvd is not None else ""
            ended.reason = self._explained or said or ended.reason
        except (InvalidHandshake, InvalidURI, EOFError) as error:
            ended.refused, ended.reason = True, f"no WebSocket: {error}"
        except (OSError, FrameError) as error:
            ended.reason = f"{type(error).__name__}: {error}"
        return ended

    async def _converse(self, socket: ClientConnection) -> None:
        """Raises ConnectionClosed, FrameError, TimeoutError."""
        owner = self._owner
        with contextlib.suppress(ConnectionClosed):  # refused before the hello: why, is there to be read
            await self._send(socket, owner.hello())
        async with asyncio.timeout(WELCOME_TIMEOUT_S):
            while not isinstance(first := message(self._codec.decode(await socket.recv())), Welcome):
                self._heard(first)
        self._ended.greeted, self._ended.reason = True, "the connection was lost"
        owner.pace.start(self._clock() / 1_000)
        owner.records.welcome(first.epoch, first.rev)
        self._asked.append(_drained(owner.syncs))  # the hello asks by itself
        owner.online()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._write(socket))
                await self._read(socket, tasks)
        except BaseExceptionGroup as group:
            # A bug rather than the close that it led to.
            raise min(group.exceptions, key=lambda error: isinstance(error, ConnectionClosed)) from None

    async def _read(self, socket: ClientConnection, tasks: asyncio.TaskGroup) -> None:
        """Until the connection ends: ConnectionClosed."""
        owner = self._owner
        while True:
            said = message(self._codec.decode(await socket.recv()))
            if isinstance(said, Ack):
                owner.settle(said)
                owner.wake.set()  # the window has room again
            elif isinstance(said, Progress):
                owner.records.told(said.records, said.rev)
            elif isinstance(said, Synced):
                owner.records.synced(said.rev)
                for waiting in self._asked.popleft() if self._asked else ():
                    if not waiting.done():
                        waiting.set_result(None)
            elif isinstance(said, Expiring):
                tasks.create_task(self._renew(socket))
            else:
                self._heard(said)

    def _heard(self, said: Message | None) -> None:
        if isinstance(said, Goodbye):
            self._ended.retry_after_s = max(0.0, said.retry_after)
            self._explained = said.code
        elif isinstance(said, Error):
            self._explained = f"{said.code}: {said.detail}"

    async def _write(self, socket: ClientConnection) -> None:
        """Send what waits, as fast as the pace allows."""
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

    async def _send(self, socket: ClientConnection, said: Message) -> None:
        await socket.send(self._codec.encode(said))


class _Direct(connect):
    """Follows no redirect: whom the token is for is said by the user alone."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc


def _drained(syncs: "deque[asyncio.Future[None]]") -> "list[asyncio.Future[None]]":
    waiting = list(syncs)
    syncs.clear()
    return waiting
