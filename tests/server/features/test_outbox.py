"""An outbox that is sent at once: each heartbeat is judged by itself, and the ack has its outcome."""

from typing import Any
from uuid import uuid4

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from tests.device import Device, device
from tests.rest import ok
from tests.serving import Running


async def post(server: Running, **body: object) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=server.http) as api:
        answer = await api.post("/progress/realtime", json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


async def flood(player: Device, count: int) -> None:
    for _ in range(count):
        await player.beat("not a video")
    while True:
        await player.receive()


async def record(server: Running, user: str, video: str) -> dict[str, object]:
    async with httpx.AsyncClient(base_url=server.http) as api:
        return dict(ok(await api.get(f"/progress/{user}/{video}?detail=full")))


def beat(seq: int, video: str, age_s: float) -> dict[str, object]:
    start = (seq - 1) * 5
    return {"seq": seq, "videoId": video, "played": [[start, start + 5]], "position": start + 5, "age": age_s * 1_000}


async def deleted_in_between(server: Running, user: str, video: str, seconds: float) -> None:
    """Progress is made, then deleted, and then time passes."""
    async with device(server, user) as other:
        await other.play(video, 500, 501)
    server.clock.advance(0.001)
    async with httpx.AsyncClient(base_url=server.http) as api:
        ok(await api.delete(f"/progress/{user}/{video}"))
        server.clock.advance(seconds)
        body = {"userId": user, "videoId": str(uuid4()), "watchedDuration": 1, "lastWatched": "2020-01-01"}
        ok(await api.post("/progress/realtime", json=body))  # flushes happen in between, as usual


@pytest.mark.parametrize("count", [20, 200])
async def test_an_outbox_keeps_the_heartbeats_after_a_deletion(server: Running, count: int) -> None:
    """Half of the heartbeats are from before the deletion and are rejected, each by its seq; the rest is stored."""
    user, video = str(uuid4()), str(uuid4())
    half = count // 2
    await deleted_in_between(server, user, video, half * 5)
    heartbeats = [beat(seq, video, (count - seq) * 5) for seq in range(1, count + 1)]
    (ack,) = (await post(server, userId=user, session="s", heartbeats=heartbeats))["acks"]
    assert ack["seq"] == count
    assert [(each["seq"], each["code"]) for each in ack["rejected"]] == [(seq, "deleted") for seq in range(1, half + 1)]
    assert (await record(server, user, video))["seen"] == [[half * 5, count * 5]]


async def test_a_rejection_names_no_heartbeat_of_another_video(server: Running) -> None:
    """Two videos alternate in one session, and one of them is deleted: only its heartbeats are rejected."""
    user, gone, kept = str(uuid4()), str(uuid4()), str(uuid4())
    await deleted_in_between(server, user, gone, 1)
    heartbeats = [beat(seq, gone if seq % 2 else kept, 600) for seq in range(1, 41)]
    (ack,) = (await post(server, userId=user, session="s", heartbeats=heartbeats))["acks"]
    assert [each["seq"] for each in ack["rejected"]] == list(range(1, 41, 2))
    assert (await record(server, user, kept))["watchedDuration"] == 100


async def test_seconds_beyond_the_catalogues_duration_do_not_count(server: Running) -> None:
    """A heartbeat without a duration cannot claim seconds beyond the 60 s of the video."""
    user, video = str(uuid4()), str(uuid4())
    async with httpx.AsyncClient(base_url=server.http) as api:
        ok(await api.put(f"/videos/{video}", json={"title": "A minute", "duration": 60}))
    async with device(server, user) as player:
        await player.play(video, 50, 200)
    stored = await record(server, user, video)
    assert (stored["seen"], stored["position"], stored["completed"]) == ([[50, 60]], 60.0, False)


async def test_too_many_invalid_heartbeats_between_two_acks_end_the_connection(
    server: Running,
) -> None:
    """The rejections that wait are bounded: 4003, which means "retry", and nothing was acked."""
    async with device(server, str(uuid4())) as player:
        with pytest.raises(ConnectionClosed) as closed:
            await flood(player, 10_000)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4003
