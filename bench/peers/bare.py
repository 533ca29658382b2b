"""The lower bound: Starlette routes to an ASGI endpoint that receives messages and does nothing."""

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.types import Receive, Scope, Send

from bench.peers.serving import arguments, serve


class Endpoint:
    """Accept, then receive until the peer disconnects."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass


if __name__ == "__main__":
    serve(Starlette(routes=[WebSocketRoute("/ws", Endpoint())]), arguments().port)
