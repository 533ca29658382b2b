"""Attacks over the WebSocket: each ends with its documented close code or at the deadline, and affects nobody else."""

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import msgpack
import pytest

from tests.device import Device, device
from tests.security.attacker import (
    BINARY,
    CLOSE,
    CONT,
    JSON,
    MARK,
    MSGPACK,
    PATIENCE_S,
    PING,
    PONG,
    TEXT,
    Attacker,
    Received,
    attack,
    frame,
    head,
    send_until_close_code,
    send_until_closed,
    status,
    upgrade,
)
from tests.security.watched import VIDEO, Target, Watch, learner, target, under_attack, warm_mib, watch

__all__ = ["learner", "target", "warm_mib", "watch"]
"""Fixtures."""
pytestmark = pytest.mark.asyncio(loop_scope="module")

MAX_FRAME = 16_384
CROWD = 100
"""Simultaneous attackers."""


def hello(codec: str = JSON, user_id: str | None = None) -> bytes:
    message = {"type": "hello", "device": "test", "session": MARK, "userId": user_id or str(uuid4())}
    return frame(TEXT, json.dumps(message).encode()) if codec == JSON else frame(BINARY, msgpack.packb(message))


@contextlib.asynccontextmanager
async def handshake(target: Target, codec: str = JSON, receive_buffer: int | None = None) -> AsyncIterator[Attacker]:
    """An attacker that has behaved well until the handshake was answered."""
    attacker = await Attacker.connect(target.port, receive_buffer)
    try:
        assert await attacker.send(upgrade(codec=codec))
        await attacker.until(b"\r\n\r\n")
        yield attacker
    finally:
        attacker.close()


@contextlib.asynccontextmanager
async def conversation(
    target: Target, codec: str = JSON, user_id: str | None = None, receive_buffer: int | None = None
) -> AsyncIterator[Attacker]:
    """An attacker that has behaved well until `synced`."""
    async with handshake(target, codec, receive_buffer) as attacker:
        assert await attacker.send(hello(codec, user_id))
        await attacker.until(b"synced")
        yield attacker


# Frames that RFC 6455 forbids

FORBIDDEN: dict[str, tuple[bytes, int]] = {
    "unmasked": (frame(TEXT, MARK.encode(), masked=False), 1002),
    **{f"reserved bit {bit}": (frame(TEXT, MARK.encode(), rsv=bit), 1002) for bit in (1, 2, 4)},
    **{
        f"opcode {code:#x}": (frame(code, MARK.encode()), 1002) for code in (0x3, 0x4, 0x5, 0x6, 0x7, *range(0xB, 0x10))
    },
    "ping in fragments": (frame(PING, b"", fin=False), 1002),
    "close in fragments": (frame(CLOSE, b"", fin=False), 1002),
    "ping too long": (frame(PING, bytes(126)), 1002),
    "close of one byte": (frame(CLOSE, b"\x03"), 1002),
    "close code that may not be sent": (frame(CLOSE, struct.pack("!H", 1005)), 1002),
    "close code that does not exist": (frame(CLOSE, struct.pack("!H", 999)), 1002),
    "close reason not UTF-8": (frame(CLOSE, struct.pack("!H", 1000) + b"\xff"), 1007),
    "continuation without a message": (frame(CONT, MARK.encode()), 1002),
    "message inside a message": (frame(TEXT, b"{", fin=False) + frame(TEXT, b"}"), 1002),
    "close inside a message": (frame(TEXT, b"{", fin=False) + frame(CLOSE, struct.pack("!H", 1000)), 1002),
    "text not UTF-8": (frame(TEXT, b'"' + MARK.encode() + b'\xff"'), 1007),
    "text of a surrogate": (frame(TEXT, b'"\xed\xa0\x80"'), 1007),
    "text with a code point cut off": (frame(TEXT, b"\xf0\x9f\x92"), 1007),
    "fragments not UTF-8": (frame(TEXT, b"\xf0", fin=False) + frame(CONT, b"\x28"), 1007),
    "one byte too large": (frame(TEXT, bytes(MAX_FRAME + 1)), 1009),
    "declares 2^32": (frame(TEXT, b"", length=2**32), 1009),
    "declares 2^63-1": (frame(BINARY, b"", length=2**63 - 1), 1009),
    "declares 2^64-1": (frame(BINARY, b"", length=2**64 - 1), 1009),
    "fragments too large": (
        frame(TEXT, bytes(MAX_FRAME // 2), fin=False)
        + frame(CONT, bytes(MAX_FRAME // 2), fin=False)
        + frame(CONT, b" "),
        1009,
    ),
    "a fragment declares 2^40": (frame(TEXT, b"{", fin=False) + frame(CONT, b"", length=2**40), 1009),
    "compressed, though not negotiated": (frame(TEXT, b"\x00" * 100, rsv=4), 1002),
}


@pytest.mark.parametrize(("data", "code"), FORBIDDEN.values(), ids=FORBIDDEN)
async def test_forbidden_frames_are_closed_with_their_code(target: Target, data: bytes, code: int) -> None:
    """RFC 6455, 7.4.1: 1002 for protocol errors, 1007 for invalid UTF-8, 1009 for too much; without an error message.

    Both before the hello and after it.
    """
    for opened in (handshake, conversation):
        async with opened(target) as attacker:
            answer = await send_until_closed(attacker, data)
        assert answer.close_code == code
        assert b'"error"' not in b"".join(answer.of(TEXT))


async def test_forbidden_frames_from_many_clients_at_once(target: Target) -> None:
    """Each client gets the code of its own frame."""
    cases = (list(FORBIDDEN.values()) * CROWD)[:CROWD]

    async def one(data: bytes) -> int | None:
        async with handshake(target) as attacker:
            return (await send_until_closed(attacker, data)).close_code

    assert await asyncio.gather(*(one(data) for data, _ in cases)) == [code for _, code in cases]


# Messages that cannot be decoded

DEEP, LONG = 16_000, 2**32 - 1
BOMBS: dict[str, tuple[str, bytes]] = {
    "json arrays in arrays": (JSON, b"[" * DEEP),
    "json objects in objects": (JSON, b'{"a":' * (DEEP // 5)),
    "json 16,000 digits": (JSON, b"9" * DEEP),
    "json exponent": (JSON, b"1e" + b"9" * DEEP),
    "json duplicate key": (JSON, b'{"%s":1,"%s":1}' % (MARK.encode(), MARK.encode())),
    "json half a string": (JSON, b'"' + MARK.encode() * 1_000),
    "json half a surrogate pair": (JSON, b'{"type":"\\ud800"}'),
    "json one byte": (JSON, b"1"),
    "json nothing": (JSON, b""),
    "json many keys": (JSON, json.dumps({f"{MARK}{n}": n for n in range(500)}).encode()),
    "msgpack arrays in arrays": (MSGPACK, b"\x91" * DEEP),
    "msgpack maps in maps": (MSGPACK, b"\x81\xa0" * (DEEP // 2)),
    "msgpack declares an array of 2^32": (MSGPACK, b"\xdd" + struct.pack("!I", LONG) + b"\xc0" * 100),
    "msgpack declares arrays of 2^32 in arrays": (MSGPACK, (b"\xdd" + struct.pack("!I", LONG)) * 3_000),
    "msgpack declares arrays of its own size": (MSGPACK, b"\xdc\x3f\x00" * 5_000),
    "msgpack declares a map of 2^32": (MSGPACK, b"\xdf" + struct.pack("!I", LONG) + b"\xc0" * 100),
    "msgpack declares a text of 2^32": (MSGPACK, b"\xdb" + struct.pack("!I", LONG) + MARK.encode()),
    "msgpack declares bytes of 2^32": (MSGPACK, b"\xc6" + struct.pack("!I", LONG) + MARK.encode()),
    "msgpack declares an extension of 2^32": (MSGPACK, b"\xc9" + struct.pack("!I", LONG) + b"\x01" + MARK.encode()),
    "msgpack extension": (MSGPACK, msgpack.packb({"type": msgpack.ExtType(5, MARK.encode())})),
    "msgpack timestamp": (MSGPACK, msgpack.packb({"type": msgpack.Timestamp(1, 1)})),
    "msgpack extension of no bytes": (MSGPACK, b"\xc7\x00\x05"),
    "msgpack reserved byte": (MSGPACK, b"\xc1"),
    "msgpack nothing": (MSGPACK, b""),
    "msgpack two messages": (MSGPACK, b"\xc0\xc0"),
    "msgpack text not UTF-8": (MSGPACK, b"\x81\xa4type\xa1\xff"),
    "msgpack duplicate key": (MSGPACK, b"\x82\xa1a\x01\xa1a\x02"),
    "msgpack unhashable key": (MSGPACK, b"\x81\x90\x01"),
    # Python hashes an integer to itself modulo 2^61-1: all of these would collide in a dict.
    "msgpack keys with the same hash": (
        MSGPACK,
        struct.pack("!BH", 0xDE, 1_600) + b"".join(struct.pack("!BQB", 0xCF, n << 50, 0xC0) for n in range(1_600)),
    ),
}


@pytest.mark.parametrize(("codec", "payload"), BOMBS.values(), ids=BOMBS)
async def test_bombs_are_closed_with_bad_frame(target: Target, codec: str, payload: bytes) -> None:
    """One short error message, then 4501, both before the hello and after it."""
    for opened in (handshake, conversation):
        async with opened(target, codec) as attacker:
            answer = await send_until_close_code(attacker, frame(TEXT if codec == JSON else BINARY, payload), 4501)
        assert answer.close_code == 4501
        messages = [json.loads(text) for text in answer.of(TEXT)] + [
            msgpack.unpackb(text) for text in answer.of(BINARY)
        ]
        assert [message["code"] for message in messages if message["type"] == "error"] == ["bad_frame"]
        assert len(messages[-1]["detail"]) <= 500


HOSTILE_IDS = [
    f"{MARK}:{{a}}",
    f"{MARK}\r\nERROR forged: line",
    "{" + MARK + "}",
    f"{VIDEO}:{VIDEO}",
    f"{VIDEO}\n",
    f"\x1b[2J{MARK}",
    f"{MARK}\x00",
    "\u202e" + MARK,
    "*",
    "../../" + MARK,
]


@pytest.mark.parametrize("name", HOSTILE_IDS, ids=range(len(HOSTILE_IDS)))
async def test_invalid_ids_reach_neither_keys_nor_the_log(target: Target, name: str) -> None:
    """A hello is closed with 4501; a heartbeat is rejected by its seq, and the next one counts."""
    async with handshake(target) as attacker:
        assert (await send_until_close_code(attacker, hello(user_id=name), 4501)).close_code == 4501
    async with device(target.running, str(uuid4())) as player:
        await player.beat(name, position=1, played=[[0, 1]])
        assert [rejected["code"] for rejected in (await player.acked())["rejected"]] == ["invalid"]
        assert (await player.play(VIDEO, 0, 1))["rejected"] == []


# Floods


def repeated(one: bytes, count: int = 20_000) -> bytes:
    return one * count


FLOODS: dict[str, bytes] = {
    "pings": repeated(frame(PING)),
    "pings of 125 bytes": repeated(frame(PING, bytes(125))),
    "pongs": repeated(frame(PONG)),
    "pings as messages": repeated(frame(TEXT, b'{"type":"ping"}')),
    "a second hello": hello() + repeated(frame(TEXT, b'{"type":"ping"}')),
    "syncs": repeated(frame(TEXT, b'{"type":"sync","since":0}')),
    "invalid heartbeats": repeated(frame(TEXT, b'{"type":"heartbeat","seq":1,"videoId":"' + MARK.encode() + b'"}')),
    "fragments of a byte": frame(TEXT, b" ", fin=False) + repeated(frame(CONT, b" ", fin=False), 10_000),
    "empty fragments": frame(TEXT, b"", fin=False) + repeated(frame(CONT, b"", fin=False)),
    "pings inside a message": frame(TEXT, b"", fin=False) + repeated(frame(PING)),
}


async def test_floods_are_cut_off(target: Target) -> None:
    """Messages, control frames and fragments above the rate are closed with 4003, and the code arrives."""

    async def one(data: bytes) -> Received:
        async with conversation(target) as attacker:
            return await send_until_closed(attacker, data)

    answers = dict(zip(FLOODS, await asyncio.gather(*(one(data) for data in FLOODS.values())), strict=True))
    assert {name: answer.close_code for name, answer in answers.items()} == dict.fromkeys(FLOODS, 4003)
    # One burst of frames of all kinds, and a few more.
    assert max(len(answer.of(PONG)) for answer in answers.values()) <= 2_000


@pytest.mark.parametrize("name", ["pings of 125 bytes", "pings as messages", "syncs"])
async def test_floods_from_clients_that_never_read(target: Target, watch: Watch, name: str) -> None:
    """Answers queued for flooding clients that never read are bounded, and the clients are disconnected."""
    before = target.connections()
    async with contextlib.AsyncExitStack() as stack:
        crowd = [await stack.enter_async_context(conversation(target, receive_buffer=1)) for _ in range(CROWD // 4)]
        await asyncio.gather(*(attacker.send(FLOODS[name][:200_000]) for attacker in crowd))
        await target.wait_for_connections(before)


async def test_frames_sent_byte_by_byte(target: Target) -> None:
    """Segments of one byte cost one read each; the message is accepted like any other."""
    async with conversation(target) as attacker:
        for byte in frame(TEXT, b'{"type":"ping"}' + b" " * 2_000):
            assert await attacker.send(bytes([byte]))
        assert b"pong" in await attacker.until(b"pong")


async def test_an_endless_message_takes_no_memory(tmp_path: Path) -> None:
    """Even if the rate limits allow that many empty fragments, they are not kept individually."""
    fragments = 250_000
    rates = {"PLAYHEAD_FRAMES_BURST": str(fragments), "PLAYHEAD_FRAMES_PER_S": "1000", "PLAYHEAD_PING_TIMEOUT_S": "60"}
    async with under_attack(tmp_path, warm=False, **rates) as target, conversation(target) as attacker:
        before = target.memory_mib()
        target.reset_peak_memory()
        assert await attacker.send(frame(TEXT, b'{"type":', fin=False))
        for _ in range(fragments // 50_000):
            assert await attacker.send(frame(CONT, b"", fin=False) * 50_000)
        assert await attacker.send(frame(CONT, b'"ping"}'))
        async with asyncio.timeout(6 * PATIENCE_S):
            await attacker.until(b"pong")
        assert target.memory_mib("VmHWM") - before < 8  # kept individually they took 64 bytes each: 15 MiB


async def test_frames_before_the_handshake_is_answered(target: Target) -> None:
    """Frames sent together with the handshake are not answered and do no harm."""
    big = json.dumps({"userId": MARK, "progressData": [{}] * 200_000}).encode()
    post = head("POST", "/progress/sync", "Content-Type: application/json", f"Content-Length: {len(big)}") + big

    async def one(junk: bytes) -> None:
        attacker = await Attacker.connect(target.port)
        try:
            # A large body first, to widen the window: after it more data is waiting than one read returns.
            await attacker.send(post + upgrade() + junk)
            await attacker.closed()
        finally:
            attacker.close()

    junks = (frame(TEXT, bytes(100), masked=False), b"\xff", frame(PING), frame(TEXT, b"\xff"))
    await asyncio.gather(*(one(repeated(junk, 1_000_000 // len(junk))) for junk in junks * 3))


# Connections that stay open


async def test_connections_without_a_hello_are_closed(target: Target) -> None:
    """Silence, pings and incomplete messages do not extend the deadline for the hello: 4008, with many clients."""
    before = target.connections()
    silence = b"", frame(PING), frame(TEXT, b"{", fin=False), frame(TEXT, b"{", length=100)

    async def one(data: bytes) -> Received:
        attacker = await Attacker.connect(target.port)
        try:
            await attacker.send(upgrade() + data)  # data sent with the handshake is read after it
            return await send_until_closed(attacker, b"")
        finally:
            attacker.close()

    answers = await asyncio.gather(*(one(data) for data in silence * (CROWD // len(silence))))
    assert {answer.close_code for answer in answers} == {4008}
    await target.wait_for_connections(before)


async def test_a_close_frame_that_is_never_answered(target: Target) -> None:
    """The server waits for the close frame of the peer no longer than for any other answer."""
    async with conversation(target) as attacker:
        answer = await send_until_closed(attacker, frame(TEXT, b"nonsense"))
    assert answer.close_code == 4501


async def test_pings_that_are_never_answered(target: Target) -> None:
    """A half-open connection, as the server sees it, is closed with 1011 at the deadline of the ping."""
    async with conversation(target) as attacker:
        assert (await send_until_closed(attacker, b"")).close_code == 1011


async def test_a_network_path_that_goes_silent(target: Target) -> None:
    """A relay between a device and the server goes silent with both connections open: the server closes its own."""
    before = target.connections()
    cut = asyncio.Event()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            if cut.is_set():
                await asyncio.Event().wait()
            writer.write(data)

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target.port)
        pipes = [asyncio.create_task(pipe(reader, far_writer)), asyncio.create_task(pipe(far_reader, writer))]
        try:
            await let_go.wait()
        finally:
            for each in pipes:
                each.cancel()
            await asyncio.gather(*pipes, return_exceptions=True)
            for end in (writer, far_writer):
                end.transport.abort()
            ended.set()

    let_go, ended = asyncio.Event(), asyncio.Event()
    relay = await asyncio.start_server(carry, "127.0.0.1", 0)
    port = relay.sockets[0].getsockname()[1]
    far = Target(target.process, port).running
    try:
        async with device(far, str(uuid4())) as player:
            await player.play(VIDEO, 0, 1)
            assert target.connections() == before + 1
            cut.set()
            await target.wait_for_connections(before)
            let_go.set()
    finally:
        let_go.set()
        relay.close()
        async with asyncio.timeout(PATIENCE_S):
            await ended.wait()


async def fill(player: Device, videos: int, heartbeats: int) -> None:
    """Create records with as many intervals as heartbeats can produce."""
    names = [str(uuid4()) for _ in range(videos)]
    for n in range(heartbeats):
        start = 1_024 * (n // videos)
        played = [[start + 2 * second, start + 2 * second + 1] for second in range(512)]
        await player.beat(names[n % videos], played=played, span=3_600_000, age=0)
        await player.acked()


async def test_clients_that_never_read_pushes(target: Target, watch: Watch) -> None:
    """With zero windows, each client has at most its queue and is dropped; the pushing device is acked throughout."""
    readers, queue_mib = CROWD, 0.5
    # Besides each full queue, one page of records in the transport; nothing else may grow with the number of readers.
    watch.memory_mib += readers * (queue_mib + 0.5)
    before, user_id = target.connections(), str(uuid4())
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(readers):
            await stack.enter_async_context(conversation(target, user_id=user_id, receive_buffer=1))
        async with device(target.running, user_id) as player:
            await fill(player, videos=4, heartbeats=60)
        await target.wait_for_connections(before)


async def test_clients_that_request_everything_and_never_read(target: Target) -> None:
    """Whatever the rate of syncs, queued data is bounded, and the connection is closed within its deadlines."""
    before, user_id = target.connections(), str(uuid4())
    async with device(target.running, user_id) as player:
        await fill(player, videos=8, heartbeats=32)
    async with contextlib.AsyncExitStack() as stack:
        crowd = [await stack.enter_async_context(conversation(target, receive_buffer=1)) for _ in range(3)]
        asks = frame(TEXT, b'{"type":"sync","since":0}') * 100
        assert all(await asyncio.gather(*(attacker.send(asks) for attacker in crowd)))
        await target.wait_for_connections(before)


async def test_interval_bombs(target: Target) -> None:
    """As many intervals as frames can hold, in one record: capped at the bound of a set and acked, not closed."""
    async with device(target.running, str(uuid4())) as player:
        await fill(player, videos=1, heartbeats=12)
        await player.beat(VIDEO, played=[[n, n + 1] for n in range(600)], position=1)
        assert [rejected["code"] for rejected in (await player.acked())["rejected"]] == ["invalid"]
        await player.send(type="sync", since=0)
        records = (await player.until("progress"))["records"]
    assert [len(record["seen"]) <= 2_048 for record in records] == [True]


# Handshakes

HANDSHAKES: dict[str, tuple[bytes, int]] = {
    "a body": (upgrade("Content-Length: 5") + b"hello", 426),
    "a chunked body": (upgrade("Transfer-Encoding: chunked") + b"0\r\n\r\n", 426),
    "a body that never arrives": (upgrade("Content-Length: 5000000") + MARK.encode(), 426),
    "200 headers": (upgrade(*["a: b"] * 200), 431),
    "a long header": (upgrade(f"a: {MARK * 700}"), 431),
    "a long query": (upgrade(target=f"/ws?{MARK * 700}"), 431),
    "no key": (upgrade().replace(b"Sec-WebSocket-Key", b"X-Key"), 426),
    "two keys": (upgrade("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), 426),
    "an invalid key": (upgrade().replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"\xff" + MARK.encode()), 426),
    "an old version": (upgrade().replace(b"Version: 13", b"Version: 7"), 426),
    "POST": (upgrade().replace(b"GET ", b"POST ", 1), 405),
    "another path": (upgrade(target=f"/{MARK}"), 404),
    "another path, not UTF-8": (upgrade(target="/%ff%00%0a"), 404),
    "a folded header": (upgrade("X: a\r\n b"), 400),
    "a forged line": (upgrade(f"X: a\nERROR {MARK}"), 400),
}


@pytest.mark.parametrize(("data", "code"), HANDSHAKES.values(), ids=HANDSHAKES)
async def test_invalid_handshakes_are_answered_and_closed(target: Target, data: bytes, code: int) -> None:
    """They are answered with a status, as the same request without its Upgrade; no connection hangs forever."""
    before = target.connections()
    answers = await asyncio.gather(*(attack(target.port, data) for _ in range(CROWD // 10)))
    assert {status(answer) for answer in answers} == {code}
    await target.wait_for_connections(before)
