"""python-socketio as in its documentation: for each heartbeat an event with an acknowledgement, and one HSET."""

import json
from typing import Any

import socketio
from redis.asyncio import BlockingConnectionPool, Redis

from bench.peers.naive import POOL
from bench.peers.serving import arguments, serve


def create_app(store: str) -> Any:
    server = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins=[])
    redis = Redis.from_pool(BlockingConnectionPool.from_url(store, max_connections=POOL))
    users: dict[str, str] = {}

    async def connect(sid: str, environ: Any, auth: Any) -> None:
        users[sid] = auth["user"]

    async def heartbeat(sid: str, beat: Any) -> int:
        record = json.dumps({"position": beat["position"], "played": beat["played"], "seq": beat["seq"]})
        await redis.hset(f"progress:{users[sid]}", beat["videoId"], record)
        return int(beat["seq"])

    server.on("connect", connect)
    server.on("heartbeat", heartbeat)
    server.on("disconnect", lambda sid, *_: users.pop(sid, None))
    return socketio.ASGIApp(server)


if __name__ == "__main__":
    given = arguments()
    serve(create_app(given.store), given.port)
