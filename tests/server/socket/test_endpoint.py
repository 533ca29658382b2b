"""Heartbeats, acks and pushes on a real WebSocket, in both subprotocols."""

from uuid import uuid4

import pytest

from tests.device import JSON, MSGPACK, device
from tests.serving import Running

pytestmark = pytest.mark.frame_paths


@pytest.mark.parametrize("codec", [JSON, MSGPACK])
async def test_a_heartbeat_is_acked_and_reaches_the_other_device_without_an_echo(server: Running, codec: str) -> None:
    """The ack goes to the device that reported, the record to the other one."""
    user, video = str(uuid4()), str(uuid4())
    async with device(server, user, codec=codec) as laptop, device(server, user, codec=codec) as phone:
        ack = await laptop.play(video, 0, 12.4, duration=90)
        assert (ack["seq"], ack["rejected"], ack["capped"]) == (1, [], [])
        record = await phone.pushed(video)
        assert record["seen"] == [[0, 12]]
        assert record["position"] == 12.4
        await laptop.send(type="ping")
        await laptop.until("pong")
        assert laptop.inbox == []
