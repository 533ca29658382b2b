"""The server of picows, a parser and transport in Cython, alone: each message is dropped."""

import asyncio

import uvloop
from picows import WSFrame, WSListener, WSTransport, WSUpgradeRequest, ws_create_server

from bench.peers.serving import arguments


class Listener(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        frame.get_payload_as_bytes()


def accept(request: WSUpgradeRequest) -> WSListener:
    return Listener()


async def main() -> None:
    server: asyncio.Server = await ws_create_server(accept, "127.0.0.1", arguments().port, backlog=2_048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
