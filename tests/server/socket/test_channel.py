"""The sending side of a WebSocket: frames in order, a bounded queue, and a peer that does not read is given up."""

import asyncio
import json
from collections.abc import MutableMapping
from typing import Any

import pytest

from playhead.protocol.codecs import JsonCodec
from playhead.protocol.connection import Connection, State
from playhead.protocol.errors import CloseCode, PeerError, Problem
from playhead.protocol.messages import Pong, Synced
from playhead.protocol.session import Now, Plausibility
from playhead.server.limits.answer_memory import AnswerMemory
from playhead.server.limits.body_memory import Kind, Payer
from playhead.server.limits.rates import TooFast
from playhead.server.settings import Settings
from playhead.server.socket.channel import SocketChannel
from tests.device import PATIENCE_S

HELLO = json.dumps({"type": "hello", "device": "tv", "session": "page"})
PAYER = Payer(Kind.USER, "u")


class Peer:
    """A peer behind ASGI's `send`, which takes frames as long as it reads."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        """Messages, and close codes."""
        self.reads = asyncio.Event()
        self.reads.set()
        self.error: Exception | None = None

    async def send(self, message: MutableMapping[str, Any]) -> None:
        await self.reads.wait()
        if self.error is not None:
            raise self.error
        self.sent.append(message["code"] if message["type"] == "websocket.close" else json.loads(message["text"]))

    @property
    def codes(self) -> list[Any]:
        """The code of each goodbye and error, and of the close."""
        return [each if isinstance(each, int) else each.get("code", each["type"]) for each in self.sent]


class Opened:
    """A channel of an open connection, without the fast path."""

    def __init__(self, **settings: Any) -> None:
        self.peer = Peer()
        self.connection = Connection(JsonCodec(), Plausibility())
        self.connection.receive(HELLO, Now(1, 1))
        self.connection.open("page")
        self.channel = SocketChannel(self.connection, self.peer.send, None, Settings(**settings), 1)
        self.ended = 0
        self.channel.on_end = self.end

    def end(self) -> None:
        self.ended += 1

    async def drained(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self.channel.drained()


async def test_messages_are_written_in_order() -> None:
    opened = Opened()
    for rev in range(5):
        opened.channel.send(Synced(rev=rev), Pong())
    await opened.drained()
    assert [each.get("rev", each["type"]) for each in opened.peer.sent] == [
        0,
        "pong",
        1,
        "pong",
        2,
        "pong",
        3,
        "pong",
        4,
        "pong",
    ]
    assert opened.ended == 0


async def test_a_slow_reader_is_closed_and_its_queue_is_dropped() -> None:
    """Nobody waits for it."""
    opened = Opened(max_queue_bytes=524_288)
    opened.peer.reads.clear()
    message = Synced(rev=2**52)
    count = 524_288 // len(message.model_dump_json()) + 1
    for _ in range(count):
        opened.channel.send(message)
    assert opened.connection.state is State.CLOSED
    opened.channel.send(Pong())
    opened.peer.reads.set()
    await opened.drained()
    assert opened.peer.codes in ([CloseCode.TOO_SLOW], ["synced", CloseCode.TOO_SLOW])
    assert opened.ended == 1


async def test_a_peer_that_takes_nothing_in_time_is_given_up() -> None:
    opened = Opened(write_timeout_s=0.05)
    opened.peer.reads.clear()
    opened.channel.send(Pong())
    await opened.drained()
    assert (opened.peer.sent, opened.ended) == ([], 1)
    assert opened.connection.state is State.CLOSED


@pytest.mark.parametrize(
    "error", [OSError("reset"), RuntimeError("already closed")], ids=lambda error: type(error).__name__
)
async def test_a_transport_that_has_closed_by_itself_ends_the_channel(error: Exception) -> None:
    opened = Opened()
    opened.peer.error = error
    opened.channel.send(Pong())
    await opened.drained()
    assert opened.connection.state is State.CLOSED
    assert opened.ended == 1


async def test_nothing_is_written_after_a_close() -> None:
    opened = Opened()
    opened.channel.restart()
    opened.channel.send(Pong())
    opened.channel.restart()
    await opened.drained()
    assert opened.peer.codes == ["unavailable", CloseCode.RESTART]
    assert opened.ended == 1


@pytest.mark.parametrize(
    ("error", "codes"),
    [
        (PeerError(Problem.FORBIDDEN, "why"), ["forbidden", 4503]),
        (PeerError(Problem.TOKEN_EXPIRED, "why"), ["token_expired", 4005]),
        (PeerError(Problem.BUSY, "why"), ["busy", 4001]),
        (PeerError(Problem.INVALID, "why"), ["invalid", 4501]),
        (TooFast("frames", 7.0), ["rate", 4003]),
    ],
    ids=lambda value: value.problem.code if isinstance(value, PeerError) else "",
)
async def test_a_refusal_says_why_and_a_temporary_one_when_to_return(error: PeerError, codes: list[Any]) -> None:
    opened = Opened()
    opened.channel.refuse(error)
    await opened.drained()
    assert opened.peer.codes == codes
    said = opened.peer.sent[0]
    if codes[1] in (4001, 4003):
        assert said["type"] == "goodbye"
        assert said["retryAfter"] == 7.0 if isinstance(error, TooFast) else 1.5 < said["retryAfter"] < 10
    else:
        assert (said["type"], said["detail"]) == ("error", "why")


async def test_a_newcomer_gives_way_with_a_goodbye() -> None:
    opened = Opened()
    opened.channel.give_way()
    await opened.drained()
    assert opened.peer.codes == ["busy", CloseCode.RESTART]


async def test_unread_bytes_are_charged_until_they_are_written_or_dropped() -> None:
    memory = AnswerMemory(1 << 30, 1 << 30)
    opened = Opened()
    opened.channel.charge_to(PAYER, memory)
    opened.peer.reads.clear()
    opened.channel.send(Pong(), Pong())
    assert memory.size == 2 * len('{"type":"pong"}')
    opened.peer.reads.set()
    await opened.drained()
    assert memory.size == 0
    opened.peer.reads.clear()
    opened.channel.send(Pong())
    opened.channel.abort()
    assert memory.size == 0


@pytest.mark.parametrize("iterations", [0, 1, 2])
async def test_an_aborted_channel_is_drained(iterations: int) -> None:
    """Also where its writer has not begun to run: a task that is cancelled before that never does."""
    opened = Opened()
    opened.peer.reads.clear()
    opened.channel.send(Pong())
    for _ in range(iterations):
        await asyncio.sleep(0)
    opened.channel.abort()
    await opened.drained()
    assert opened.connection.state is State.CLOSED
    assert opened.peer.sent == []


async def test_a_user_whose_share_is_used_up_is_closed() -> None:
    memory = AnswerMemory(1 << 30, 10)
    memory.account(PAYER).hold(10)
    opened = Opened()
    opened.channel.charge_to(PAYER, memory)
    opened.channel.send(Pong())
    await opened.drained()
    assert opened.peer.codes == [CloseCode.TOO_SLOW]


async def test_a_read_for_the_device_counts_its_memory_and_is_not_charged() -> None:
    memory = AnswerMemory(1 << 30, 1 << 30)
    opened = Opened()
    opened.channel.charge_to(PAYER, memory)
    with opened.channel.large_read() as read:
        read.admit(100_000)
        assert memory.size > 0
    assert memory.size == 0
