"""The receiving side of one WebSocket: passes frames to `protocol.connection` and carries out the effects.

Nothing is awaited between a received frame and the pending buffer.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import assert_never

from starlette.datastructures import Headers
from starlette.types import Receive, Scope

from playhead.protocol.connection import Connection, Effect, Handle, Output, State, Take, Touch
from playhead.protocol.errors import CloseCode, PeerError, Problem
from playhead.protocol.messages import Auth, Error, Hello, Message, Sync, Synced, Welcome, error_message
from playhead.server.limits.body_memory import Payer
from playhead.server.limits.large_reads import LargeRead
from playhead.server.limits.rates import Bucket, TooFast
from playhead.server.security.access import HOW_TO_SEND, has_token_in_url
from playhead.server.security.identity import Identity
from playhead.server.services import Services
from playhead.server.socket.channel import SocketChannel
from playhead.server.socket.token_lease import Lease
from playhead.server.transport.config import TcpConnection
from playhead.server.transport.fast_path import DirectWebSocket
from playhead.storage.store import Changes, Damaged, Full, StoreUnavailable

NO_HEADERS = Headers()
BEARER = (
    "a client that sends no Origin, because it is not a browser page, has to send its token with the handshake in the "
    "header Authorization: Bearer <token>; hello then needs none"
)
NAMED = 5
"""Most videos that one error names."""


class Conversation:
    """The frames of one connection and their effects.

    Args:
        direct: the transport, where it passes frames on directly (the fast path).
        tcp: the TCP connection; None under a server other than ours.
    """

    __slots__ = (
        "_address",
        "_bucket",
        "_channel",
        "_connection",
        "_direct",
        "_identity",
        "_left",
        "_payer",
        "_services",
        "_tcp",
    )

    def __init__(
        self,
        services: Services,
        connection: Connection,
        channel: SocketChannel,
        direct: DirectWebSocket | None,
        address: str,
        tcp: TcpConnection | None,
    ) -> None:
        settings = services.settings
        self._address = address
        self._tcp = tcp
        self._services = services
        self._connection = connection
        self._channel = channel
        self._direct = direct
        self._bucket = Bucket(settings.frames_per_s, settings.frames_burst, services.clock().mono / 1_000)
        self._identity: Identity | None = None
        """The caller as of the handshake; None where the hello has the token."""
        self._payer: Payer | None = None
        self._left: Sequence[Effect] = ()
        """Effects of a frame on the fast path that require I/O, for `run` to carry out."""

    async def run(self, scope: Scope, receive: Receive, deadline: asyncio.Timeout) -> None:
        """Process frames until the connection is closed, by the client or by this side."""
        try:
            self._identity = await self._handshake_identity(scope)
        except PeerError as error:
            self._channel.refuse(error)
        if self._direct is not None:
            self._direct.forget_handshake()
        while True:
            event = await receive()
            if event["type"] == "websocket.disconnect":
                return
            if event["type"] == "websocket.receive":
                frame = event.get("text")
                effects = self._effects(event["bytes"] if frame is None else frame)
            else:
                effects, self._left = self._left, ()
            for effect in effects:
                if isinstance(effect, Handle):
                    await self._handle(effect.message, deadline)
                else:
                    self._carry_out(effect)
            if self._direct is not None and self._connection.state is State.OPEN:
                self._direct.listen(self._listen)

    def _listen(self, payload: bytes, text: bool) -> bool:
        """Process a frame on the fast path. Effects that require I/O are left to `run`, as are the frames behind them.

        Returns:
            False where the frame is text but not UTF-8.
        """
        assert self._direct is not None  # noqa: S101 it is the caller
        if self._connection.state is State.CLOSED:
            self._direct.ignore()
            return True
        now = self._services.clock()
        effects = self._connection.beat(payload, text, now) if self._bucket.take(now.mono / 1_000) else self._too_fast()
        if effects is None:
            try:
                frame = payload.decode() if text else payload
            except UnicodeDecodeError:
                return False
            effects = self._connection.receive(frame, now)
        for index, effect in enumerate(effects):
            if isinstance(effect, Handle):
                self._left = effects[index:]
                self._direct.hand_back()
                break
            self._carry_out(effect)
        return True

    def _effects(self, frame: str | bytes) -> Sequence[Effect]:
        if self._connection.state is State.CLOSED:
            return ()
        now = self._services.clock()
        if not self._bucket.take(now.mono / 1_000):
            return self._too_fast()
        return self._connection.receive(frame, now)

    def _too_fast(self) -> Sequence[Effect]:
        burst = self._services.settings.frames_burst
        self._channel.refuse(TooFast("frames", self._bucket.wait_s(burst / 2)))
        return ()

    def _carry_out(self, effect: Take | Touch | Output) -> None:
        if isinstance(effect, Take):
            self._take(effect)
        elif isinstance(effect, Touch):
            self._services.heartbeats.touch(self._channel)
        else:
            self._channel.carry_out((effect,))

    async def _handle(self, message: Hello | Sync | Auth, deadline: asyncio.Timeout) -> None:
        match message:
            case Hello():
                deadline.reschedule(None)
                await self._greet(message)
            case Sync():
                await self._sync(message)
            case Auth():
                await self._renew(message)
            case _:
                assert_never(message)

    async def _handshake_identity(self, scope: Scope) -> Identity | None:
        """Verify the token of the handshake; None where the hello has to contain it.

        Raises:
            PeerError: the token is not valid or is in the URL, or there is neither a token nor an Origin.
        """
        access, headers = self._services.access, Headers(scope=scope)
        if has_token_in_url(scope["query_string"]):
            self._services.refusals.add("token_in_url", "Refused a WebSocket with a token in its URL: %s", HOW_TO_SEND)
            raise PeerError(Problem.UNAUTHORIZED, f"the URL must not hold a token: {HOW_TO_SEND}")
        if not access.authenticator.enabled:
            return None
        if "authorization" in headers:
            return await access.verify(self._address, headers)
        if "origin" not in headers:
            self._services.refusals.add(
                "no_origin", "Refused a WebSocket with neither Origin nor Authorization: %s", BEARER
            )
            raise PeerError(Problem.UNAUTHORIZED, BEARER)
        return None

    def _take(self, effect: Take) -> None:
        channel, services = self._channel, self._services
        try:
            if services.heartbeats.add(channel.user_id, effect.video_id, effect.report, channel):
                channel.videos += 1
                if channel.videos > services.settings.max_pending_videos:
                    channel.refuse(TooFast("videos", services.settings.flush_interval_s))
        except Full:
            channel.end(Problem.UNAVAILABLE, CloseCode.RESTART)

    async def _greet(self, hello: Hello) -> None:
        services, settings, channel = self._services, self._services.settings, self._channel
        identity = self._identity
        try:
            if identity is None or hello.token is not None:
                identity = await services.access.verify(self._address, NO_HEADERS, hello.token)
            user_id = identity.act_for(hello.user_id)
            services.admission.join(channel, self._address, user_id)  # a slot is given for a valid token only
        except PeerError as error:
            if error.problem in (Problem.RATE, Problem.BUSY):
                services.refusals.add(error.problem.code, "Refused a WebSocket: %s", error)
            channel.refuse(error)
            return
        channel.user_id = user_id  # from here on `Admission.leave` has to count it down
        if self._tcp is not None:
            self._tcp.mark_authenticated()
        if self._connection.state is not State.CHECKING:
            return  # closed in the meantime
        self._connection.open(hello.session)
        clock = services.access.clock
        channel.lease = Lease(identity, clock, settings.token_notice_s, channel.send, channel.refuse)
        self._payer = services.access.payer_at(self._address, identity)
        channel.charge_to(self._payer, services.access.answer_memory)
        with self._large_read() as read:
            changes = read.found(await services.hub.enter(channel, hello.since, hello.epoch, read.admit))
            welcome = Welcome(
                server_time=services.clock().wall,
                epoch=services.store.known_epoch if isinstance(changes, Damaged) else changes.epoch,
                rev=channel.rev if isinstance(changes, Damaged) else changes.rev,
                heartbeat_interval=settings.heartbeat_interval_s,
                flush_interval=settings.flush_interval_s,
                max_frame=settings.max_frame_bytes,
            )
            await self._send_changes(changes, welcome)

    async def _renew(self, auth: Auth) -> None:
        """Renew the lease. A token that is not valid changes nothing: the one in use stays valid until it expires."""
        assert self._channel.lease is not None  # noqa: S101 TRANSITIONS allows auth only after hello
        try:
            identity = await self._services.access.verify(self._address, NO_HEADERS, auth.token)
        except PeerError as error:
            self._services.counts.count_refusal("websocket", error.problem)
            self._channel.send(error_message(error))
            return
        try:
            identity.act_for(self._channel.user_id)
            self._channel.lease.renew(identity)
        except PeerError as error:
            self._channel.refuse(error)

    async def _sync(self, sync: Sync) -> None:
        with self._large_read() as read:
            changes = read.found(await self._services.hub.changes(self._channel, sync.since, read.admit))
            await self._send_changes(changes)

    @contextmanager
    def _large_read(self) -> Iterator[LargeRead]:
        """Close the connection where the read fails or exceeds a limit; the client may reconnect later."""
        assert self._payer is not None  # noqa: S101 records are read only after hello
        with self._services.access.large_read(self._payer) as read:
            try:
                yield read
            except StoreUnavailable:
                self._channel.end(Problem.UNAVAILABLE, CloseCode.RESTART)
            except PeerError as error:
                self._channel.refuse(error)

    async def _send_changes(self, changes: Changes | Damaged, *greeting: Message) -> None:
        """Send `greeting`, the changes and synced; all in one write where there are no changes.

        Records that cannot be read are reported as an error. The connection stays open, so that a repair does not
        require a new one.
        """
        hub = self._services.hub
        if isinstance(changes, Damaged):
            rev, damaged = self._channel.rev, ["any video"]
        else:
            if len(changes):
                self._channel.send(*greeting)
                greeting = ()
                await hub.send(self._channel, changes)
            rev, damaged = changes.rev, changes.damaged
        if damaged:
            greeting = (*greeting, _damaged(damaged))
        self._channel.send(*greeting, Synced(rev=rev))
        hub.follow(self._channel, rev)


def _damaged(videos: list[str]) -> Error:
    """The error that reports records which cannot be read."""
    more = "" if len(videos) <= NAMED else f" and {len(videos) - NAMED} more"
    detail = f"the stored progress of {', '.join(videos[:NAMED])}{more} cannot be read, and no progress is added to it"
    return error_message(PeerError(Problem.DAMAGED, detail))
