"""The receiving side of a WebSocket: each frame has its effect, and each excess of a peer closes it with a code."""

import asyncio
import json
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from playhead.server.socket.conversation import NAMED
from playhead.storage.keys import Keys
from tests.conftest import StoreServer
from tests.device import JSON, MSGPACK, PATIENCE_S, device
from tests.serving import Running, serving


async def ended(socket: Any) -> tuple[list[dict[str, Any]], int]:
    """The messages until the close, and its code."""
    messages = []
    async with asyncio.timeout(PATIENCE_S):
        try:
            while True:
                messages.append(json.loads(await socket.recv()))
        except ConnectionClosed as closed:
            return messages, closed.rcvd.code if closed.rcvd is not None else 1006


@pytest.mark.frame_paths
@pytest.mark.parametrize("codec", [JSON, MSGPACK])
async def test_each_message_has_its_answer(server: Running, codec: str) -> None:
    """With and without the fast path, in both subprotocols."""
    async with device(server, str(uuid4()), codec=codec) as player:
        await player.send(type="ping")
        assert await player.receive() == {"type": "pong"}
        ack = await player.play(str(uuid4()), 0, 5)
        assert (ack["seq"], ack["rejected"]) == (1, [])
        await player.send(type="sync", since=0)
        assert (await player.until("progress"))["rev"] == 1
        assert (await player.until("synced"))["rev"] == 1
        await player.send(type="auth", token="a.b.c")
        assert "expiresIn" not in await player.until("authorized")


@pytest.mark.frame_paths
async def test_messages_that_come_too_fast_close_the_connection(
    store_server: StoreServer, prefix: str, direct: bool
) -> None:
    store: dict[str, Any] = {"redis_url": store_server.url, "key_prefix": prefix}
    async with (
        serving(**store, direct=direct, frames_burst=5, frames_per_s=0.001) as server,
        device(server, str(uuid4())) as player,
    ):
        for _ in range(8):
            await player.send(type="ping")
        messages, code = await ended(player.socket)
        assert (messages[-1]["type"], messages[-1]["code"], code) == ("goodbye", "rate", 4003)
        assert messages[-1]["retryAfter"] > 0


async def test_too_many_videos_between_two_flushes_close_the_connection(store_server: StoreServer, prefix: str) -> None:
    store: dict[str, Any] = {"redis_url": store_server.url, "key_prefix": prefix}
    async with (
        serving(**store, max_pending_videos=3, flush_interval_s=60) as server,
        device(server, str(uuid4())) as player,
    ):
        for _ in range(4):
            await player.beat(str(uuid4()), played=[[0, 5]], position=5)
        messages, code = await ended(player.socket)
        assert (messages[-1]["code"], code) == ("rate", 4003)


async def test_a_full_batch_asks_the_player_to_come_back(store_server: StoreServer, prefix: str) -> None:
    """It keeps what was not acked."""
    store: dict[str, Any] = {"redis_url": store_server.url, "key_prefix": prefix}
    async with (
        serving(**store, max_pending_reports=4, flush_interval_s=60) as server,
        device(server, str(uuid4())) as player,
    ):
        for _ in range(8):
            await player.beat(str(uuid4()), played=[[0, 5]], position=5)
        messages, code = await ended(player.socket)
        assert (messages[-1]["code"], code) == ("unavailable", 4001)


@pytest.mark.parametrize("damaged", [1, NAMED + 3])
async def test_records_that_cannot_be_read_are_named_up_to_a_number(
    server: Running, store_server: StoreServer, prefix: str, damaged: int
) -> None:
    """The connection stays open, so that a repair does not require a new one."""
    user, videos = str(uuid4()), [str(uuid4()) for _ in range(damaged)]
    async with device(server, user) as player:
        await player.play(str(uuid4()), 0, 5)
    async with Redis.from_url(store_server.url) as redis:
        await redis.hset(Keys(prefix).progress(user), mapping=dict.fromkeys(videos, b"\xc1"))
    async with device(server, user) as player:
        (error,) = (message for message in player.greeted if message["type"] == "error")
        assert error["code"] == "damaged"
        assert sum(video in error["detail"] for video in videos) == min(damaged, NAMED)
        assert ("and 3 more" in error["detail"]) == (damaged > NAMED)
        assert (await player.play(str(uuid4()), 0, 5))["rejected"] == []


async def test_a_learner_none_of_whose_records_can_be_read_is_told_so(
    server: Running, store_server: StoreServer, prefix: str
) -> None:
    user = str(uuid4())
    async with Redis.from_url(store_server.url) as redis:
        await redis.set(Keys(prefix).progress(user), "text")
    async with device(server, user) as player:
        assert [message["type"] for message in player.greeted] == ["welcome", "error", "synced"]
        assert "any video" in player.greeted[1]["detail"]


@pytest.mark.frame_paths
@pytest.mark.parametrize("frame", ["{", '{"type":"dance"}', b"\x80"], ids=["not JSON", "unknown", "binary"])
async def test_a_frame_that_cannot_be_read_closes_the_connection(server: Running, frame: str | bytes) -> None:
    async with device(server, str(uuid4())) as player:
        await player.socket.send(frame)
        messages, code = await ended(player.socket)
        assert (messages[-1]["code"], code) == ("bad_frame", 4501)


async def test_a_token_in_the_url_is_refused(server: Running) -> None:
    """URLs are logged by proxies and kept in histories."""
    async with connect(f"{server.ws}?token=a.b.c", subprotocols=[JSON], proxy=None) as socket:  # type: ignore[list-item]
        messages, code = await ended(socket)
    assert (messages[-1]["code"], code) == ("unauthorized", 4500)
