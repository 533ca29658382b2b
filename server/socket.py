"""The WebSocket endpoint: moves frames and carries out the effects of `protocol.connection`.

From a received frame to the pending buffer nothing is awaited.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from protocol.codecs import CODECS
from protocol.connection import Bring, Connection, Greet, Renew, State, Take, Touch
from protocol.errors import CloseCode, PeerError, Problem
from protocol.messages import Hello, Synced, Welcome
from protocol.session import Plausibility
from server.access import address_of, has_token_in_url
from server.auth import bearer
from server.channel import SocketChannel
from server.identity import Identity
from server.lease import Lease
from server.limits import Bucket, TooFast
from server.services import Services
from storage.pending import Full
from storage.store import Changes, StoreUnavailable


class SocketEndpoint:
    """ASGI app for `/ws`."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._rules = Plausibility(max_rate=services.settings.max_rate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services, settings = self._services, self._services.settings
        await receive()  # websocket.connect
        offered = scope.get("subprotocols") or []
        codec = next((CODECS[name] for name in CODECS if name in offered), None)
        await send({"type": "websocket.accept", "subprotocol": codec.subprotocol if codec else None})
        if offered and codec is None:
            await send({"type": "websocket.close", "code": CloseCode.VERSION, "reason": "unknown subprotocol"})
            return
        connection = Connection(codec or next(iter(CODECS.values())), self._rules)
        channel = SocketChannel(connection, settings.max_queue_bytes, services.clock().wall)
        writer = asyncio.create_task(channel.write(send, settings.write_timeout_s))
        address = address_of(HTTPConnection(scope))
        try:
            services.admission.connect(address)
        except PeerError as error:
            channel.refuse(error)
            await asyncio.wait({writer}, timeout=settings.write_timeout_s)
            writer.cancel()
            return
        try:
            async with asyncio.timeout(settings.hello_timeout_s) as deadline:
                with _ends_with(writer, deadline):
                    await self._converse(connection, channel, scope, receive, deadline)
        except TimeoutError:
            channel.carry_out(connection.no_hello())
            await asyncio.wait({writer}, timeout=settings.write_timeout_s)
        finally:
            connection.closed()
            services.heartbeats.forget(channel)
            writer.cancel()
            services.hub.leave(channel)
            services.admission.disconnect(address)
            if channel.user_id:
                services.admission.leave(channel.user_id)
            if channel.lease is not None:
                channel.lease.cancel()

    async def _converse(
        self,
        connection: Connection,
        channel: SocketChannel,
        scope: Scope,
        receive: Receive,
        deadline: asyncio.Timeout,
    ) -> None:
        """Take frames until the client is gone. After our own close the transport says so too."""
        clock, settings = self._services.clock, self._services.settings
        bucket = Bucket(settings.frames_per_s, settings.frames_burst, clock().mono / 1_000)
        try:
            known = await self._handshake_identity(scope)
        except PeerError as error:
            channel.refuse(error)
            known = None
        while True:
            event = await receive()
            if event["type"] == "websocket.disconnect":
                return
            if connection.state is State.CLOSED:
                continue
            frame, now = event.get("text"), clock()
            if not bucket.take(now.mono / 1_000):
                channel.refuse(TooFast("frames", bucket.wait_s(settings.frames_burst / 2)))
                continue
            for effect in connection.receive(event["bytes"] if frame is None else frame, now):
                if isinstance(effect, Take):
                    self._take(channel, effect)
                elif isinstance(effect, Touch):
                    self._services.heartbeats.touch(channel)
                elif isinstance(effect, Greet):
                    deadline.reschedule(None)
                    await self._greet(connection, channel, effect.hello, known)
                elif isinstance(effect, Bring):
                    await self._bring(channel, effect.since)
                elif isinstance(effect, Renew):
                    await self._renew(connection, channel, effect.token)
                else:
                    channel.carry_out((effect,))

    async def _handshake_identity(self, scope: Scope) -> Identity | None:
        """Who the handshake says this is; None where the hello will.

        Raises:
            PeerError: a token that is not valid, or is in the URL, or none where no browser guards the Origin.
        """
        authenticator, headers = self._services.access.authenticator, Headers(scope=scope)
        if has_token_in_url(scope["query_string"]):
            raise PeerError(Problem.UNAUTHORIZED, "a token has no place in the URL: send it in hello")
        token = bearer(headers) if authenticator.on else None
        if token is not None:
            return await authenticator.identify(token)
        if authenticator.on and "origin" not in headers:
            raise PeerError(Problem.UNAUTHORIZED, "without an Origin, give Authorization: Bearer and a token")
        return None

    def _take(self, channel: SocketChannel, effect: Take) -> None:
        channel.videos.add(effect.video_id)
        if len(channel.videos) > self._services.settings.max_pending_videos:
            channel.refuse(TooFast("videos", self._services.settings.flush_interval_s))
            return
        try:
            self._services.heartbeats.add(channel.user_id, effect.video_id, effect.report, channel)
        except Full:
            channel.end(Problem.UNAVAILABLE, CloseCode.RESTART)

    async def _greet(
        self, connection: Connection, channel: SocketChannel, hello: Hello, identity: Identity | None
    ) -> None:
        services, settings = self._services, self._services.settings
        try:
            services.admission.greet()
            if identity is None or hello.token is not None:
                identity = await services.access.authenticator.identify(hello.token)
            user_id = identity.act_for(hello.user_id)
            services.admission.join(user_id)
        except PeerError as error:
            channel.refuse(error)
            return
        channel.user_id = user_id
        connection.open(user_id, hello.session)
        channel.lease = Lease(identity, services.clock, settings.token_notice_s, channel.tell, channel.refuse)
        try:
            changes = await services.hub.enter(channel, hello.since, hello.epoch)
        except StoreUnavailable:
            channel.end(Problem.UNAVAILABLE, CloseCode.RESTART)
            return
        channel.tell(
            Welcome(
                server_time=services.clock().wall,
                epoch=changes.epoch,
                rev=changes.rev,
                heartbeat_interval=settings.heartbeat_interval_s,
                flush_interval=settings.flush_interval_s,
                max_frame=settings.max_frame_bytes,
            )
        )
        await self._sync(channel, changes)

    async def _renew(self, connection: Connection, channel: SocketChannel, token: str) -> None:
        """A token that is not valid changes nothing: the one in use lasts as long as it does."""
        assert channel.lease is not None  # noqa: S101 by the table: auth comes only after hello
        try:
            identity = await self._services.access.authenticator.identify(token)
        except PeerError as error:
            channel.carry_out((connection.error(error),))
            return
        try:
            identity.act_for(channel.user_id)
            channel.lease.renew(identity)
        except PeerError as error:
            channel.refuse(error)

    async def _bring(self, channel: SocketChannel, since: int) -> None:
        try:
            channel.ready = False
            changes = await self._services.store.changes(channel.user_id, since)
        except StoreUnavailable:
            channel.end(Problem.UNAVAILABLE, CloseCode.RESTART)
            return
        await self._sync(channel, changes)

    async def _sync(self, channel: SocketChannel, changes: Changes) -> None:
        await self._services.hub.tell_all(channel, changes)
        channel.tell(Synced(rev=changes.rev))
        self._services.hub.follow(channel, changes.rev)


@contextmanager
def _ends_with(writer: asyncio.Task[None], deadline: asyncio.Timeout) -> Iterator[None]:
    """Stop reading as soon as nothing can be written: the close is sent, or the peer takes no byte."""
    reading = True

    def give_up(_: asyncio.Task[None]) -> None:
        if reading:
            deadline.reschedule(0)

    writer.add_done_callback(give_up)
    try:
        yield
    finally:
        reading = False
