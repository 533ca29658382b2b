"""The WebSocket endpoint: accepts and counts a connection, and cleans up when its conversation is over."""

import asyncio

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send

from playhead.protocol.codecs import CODECS
from playhead.protocol.connection import Connection
from playhead.protocol.errors import CloseCode, PeerError, Problem
from playhead.protocol.session import Plausibility
from playhead.server.problems import response
from playhead.server.security.access import address_of
from playhead.server.services import Services
from playhead.server.socket.channel import SocketChannel
from playhead.server.socket.conversation import Conversation
from playhead.server.transport.config import TCP_CONNECTION
from playhead.server.transport.fast_path import SCOPE_KEY
from playhead.server.transport.handshake import NEEDED, SOCKET_PATH


class SocketEndpoint:
    """ASGI app for `/ws`."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._rules = Plausibility(max_rate=services.settings.max_rate)

    def routes(self) -> list[BaseRoute]:
        return [WebSocketRoute(SOCKET_PATH, self), Route(SOCKET_PATH, self._upgrade_required)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services, settings = self._services, self._services.settings
        await receive()  # websocket.connect
        offered = scope.get("subprotocols") or []
        codec = next((CODECS[name] for name in CODECS if name in offered), None)
        await send({"type": "websocket.accept", "subprotocol": codec.subprotocol if codec else None})
        if offered and codec is None:
            services.refusals.add(
                "subprotocol", "Refused a WebSocket without a supported subprotocol (%s)", ", ".join(CODECS)
            )
            await send({"type": "websocket.close", "code": CloseCode.VERSION, "reason": "unknown subprotocol"})
            return
        connection = Connection(codec or next(iter(CODECS.values())), self._rules)
        direct = scope.get(SCOPE_KEY)
        channel = SocketChannel(connection, send, direct, settings, services.clock().wall)
        address = address_of(scope)
        try:
            services.admission.accept(channel, address)
        except PeerError as error:
            channel.refuse(error)
            await channel.drained()
            return
        conversation = Conversation(services, connection, channel, direct, address, scope.get(TCP_CONNECTION))
        try:
            async with asyncio.timeout(settings.hello_timeout_s) as deadline:
                channel.on_end = lambda: deadline.reschedule(0)  # no answer can be written any more: stop reading
                await conversation.run(scope, receive, deadline)
        except TimeoutError:
            channel.on_end = None
            channel.carry_out(connection.no_hello())
            await channel.drained()
        finally:
            channel.on_end = None
            services.heartbeats.forget(channel)
            channel.cancel()
            services.hub.leave(channel)
            services.admission.leave(channel, address, channel.user_id)
            if channel.lease is not None:
                channel.lease.cancel()
                channel.lease = None  # it refers to the channel, and a reference cycle would stay in memory

    async def _upgrade_required(self, request: Request) -> Response:
        """Answer 426 to a request without a handshake (RFC 9110, 15.5.22, and RFC 6455, 4.4)."""
        self._services.refusals.add("no_handshake", "Refused a request to %s: %s", SOCKET_PATH, NEEDED)
        answer = response(Problem.UPGRADE_REQUIRED, NEEDED)
        answer.headers.update({"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"})
        return answer
