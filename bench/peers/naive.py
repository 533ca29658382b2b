"""The obvious Python server: Starlette's WebSocket, one HSET and one ack for each heartbeat; REST with HSET or HGET."""

import json

from redis.asyncio import BlockingConnectionPool, Redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from bench.peers.serving import arguments, serve

POOL = 64
"""As many connections to the store as the service may open."""


def create_app(store: str) -> Starlette:
    redis = Redis.from_pool(BlockingConnectionPool.from_url(store, max_connections=POOL))

    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        user, session = websocket.query_params["user"], websocket.query_params["session"]
        async for text in websocket.iter_text():
            beat = json.loads(text)
            record = json.dumps({"position": beat["position"], "played": beat["played"], "seq": beat["seq"]})
            await redis.hset(f"progress:{user}", beat["videoId"], record)
            await websocket.send_json({"type": "ack", "session": session, "seq": beat["seq"]})

    async def update(request: Request) -> Response:
        body = await request.json()
        await redis.hset(f"progress:{body['userId']}", body["videoId"], json.dumps(body))
        return JSONResponse(body)

    async def get(request: Request) -> Response:
        value = await redis.hget(f"progress:{request.path_params['user']}", request.path_params["video"])
        return Response(value, media_type="application/json") if value else Response(status_code=404)

    return Starlette(
        routes=[
            WebSocketRoute("/ws", socket),
            Route("/progress/update", update, methods=["POST"]),
            Route("/progress/{user}/{video}", get),
        ]
    )


if __name__ == "__main__":
    given = arguments()
    serve(create_app(given.store), given.port)
