"""The service's own transport alone: each message is passed to a callback that drops it."""

from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send

from bench.peers.serving import arguments
from playhead.server.settings import Settings
from playhead.server.transport.config import ServiceConfig
from playhead.server.transport.fast_path import SCOPE_KEY, DirectWebSocket
from playhead.server.transport.http import BoundedHttp


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    scope[SCOPE_KEY].listen(_drop)
    while (await receive())["type"] != "websocket.disconnect":
        pass


def _drop(payload: bytes, text: bool) -> bool:
    return True


if __name__ == "__main__":
    options: dict[str, Any] = {"loop": "uvloop", "http": BoundedHttp, "ws": DirectWebSocket, "backlog": 2_048}
    options |= {"lifespan": "off", "access_log": False, "log_level": "warning", "ws_per_message_deflate": False}
    settings = Settings(max_connections=30_000, max_connections_per_address=30_000)
    config = ServiceConfig(settings, app=app, host="127.0.0.1", port=arguments().port, **options)
    uvicorn.Server(config).run()
