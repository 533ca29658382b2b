"""Invalid frames on a real WebSocket in both subprotocols: rejected by seq or with a documented close, and without
effect."""

import asyncio
import json
import logging
import socket as sockets
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import msgpack
import pytest
import pytest_asyncio
import redis.asyncio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from playhead.server.push.learner import MAX_PUSHED
from tests.conftest import StoreServer
from tests.device import JSON, MSGPACK, PATIENCE_S, Device, device
from tests.rest import dump, ok, rest
from tests.server import bad_values as bad
from tests.serving import Running, serving

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.frame_paths]

V = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
both = pytest.mark.parametrize("codec", [JSON, MSGPACK])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(store_server: StoreServer, direct: bool) -> AsyncIterator[Running]:
    """One server that receives all invalid frames."""
    settings: dict[str, Any] = {"redis_url": store_server.url, "key_prefix": "bad-frames", "flush_interval_s": 0.02}
    async with serving(direct=direct, **settings) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def store(store_server: StoreServer) -> AsyncIterator["redis.asyncio.Redis"]:
    async with redis.asyncio.Redis.from_url(store_server.url) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bystander(server: Running) -> AsyncIterator[Device]:
    """The device of another learner, connected throughout."""
    async with device(server, str(uuid4())) as other:
        await other.play(V, 0, 1)
        yield other


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def unharmed(
    server: Running, bystander: Device, store: "redis.asyncio.Redis", caplog: pytest.LogCaptureFixture
) -> AsyncIterator[None]:
    """Check after each test that the store is unchanged, the bystander is served, and no internal error occurred."""
    before = await dump(store, server.settings.key_prefix)
    assert before, "there is data to damage"
    yield
    assert await dump(store, server.settings.key_prefix) == before
    assert (await bystander.play(V, 0, 1))["rejected"] == []
    assert bystander.inbox == []
    wrong = [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR or r.exc_info]
    assert wrong == []


def frame(codec: str, message: dict[str, Any], name: str, text: str) -> str | bytes | None:
    """The message with one value given as JSON text; None if msgpack cannot express it or no frame can hold it."""
    try:
        written = (
            json.dumps({**message, name: "@here@"}).replace('"@here@"', text)
            if codec == JSON
            else msgpack.packb({**message, name: json.loads(text)})
        )
    except OverflowError:
        return None
    return written if len(written) < 16_000 else None


def frames(codec: str, message: dict[str, Any], name: str, texts: list[str]) -> list[str | bytes]:
    """The message once for each value."""
    return [written for text in texts if (written := frame(codec, message, name, text)) is not None]


def write(codec: str, message: Any) -> str | bytes:
    packed: str | bytes = json.dumps(message) if codec == JSON else msgpack.packb(message)
    return packed


def read(frame: str | bytes) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(frame) if isinstance(frame, str) else msgpack.unpackb(frame)
    return message


def opened(server: Running, *subprotocols: str) -> connect:
    """A socket that sends nothing by itself."""
    return connect(server.ws, subprotocols=[Subprotocol(name) for name in subprotocols] or None, proxy=None)


async def rest_of(socket: ClientConnection) -> tuple[list[dict[str, Any]], int | None, str | None]:
    """The remaining messages, and the close code and reason."""
    async with asyncio.timeout(PATIENCE_S):
        messages = [read(frame) async for frame in _all(socket)]
        await socket.wait_closed()
    return messages, socket.close_code, socket.close_reason


async def _all(socket: ClientConnection) -> AsyncIterator[str | bytes]:
    try:
        while True:
            yield await socket.recv()
    except ConnectionClosed:
        return


async def ended(socket: ClientConnection, problem: str, code: int) -> dict[str, Any]:
    """Check that the connection ends with one `error` of this problem and then this close code; return the error."""
    messages, close_code, reason = await rest_of(socket)
    (error,) = [message for message in messages if message["type"] not in ("welcome", "synced")]
    assert set(error) == {"type", "code", "title", "detail"}
    assert (error["type"], error["code"], close_code, reason) == ("error", problem, code, problem)
    assert error["title"]
    assert 0 < len(error["detail"]) <= 500
    return error


# An invalid field rejects its heartbeat


@both
@pytest.mark.parametrize(("name", "values"), bad.HEARTBEAT_FIELDS, ids=[name for name, _ in bad.HEARTBEAT_FIELDS])
async def test_an_invalid_field_is_rejected_by_its_seq(
    server: Running, codec: str, name: str, values: list[str]
) -> None:
    """The connection stays open, the ack names the seq, the reason and the field, and nothing of the heartbeat is
    stored."""
    message = {"type": "heartbeat", "seq": 0, "videoId": V, "position": 5, "played": [[0, 5]], "state": "playing"}
    async with device(server, str(uuid4()), codec=codec) as player:
        sent = 0
        for text in values:
            if (written := frame(codec, {**message, "seq": sent + 1}, name, text)) is not None:
                await player.socket.send(written)
                sent += 1
        assert sent >= len(values) // 2, "msgpack can express at least half of the values"
        ack = await player.acked(sent)
        assert [rejection["seq"] for rejection in ack["rejected"]] == list(range(1, sent + 1))
        for rejection in ack["rejected"]:
            assert rejection["code"] == "invalid"
            assert f"/{name}" in rejection["detail"], rejection
        assert player.records == {}


CONTRADICTIONS: list[tuple[str, dict[str, Any]]] = [
    ("/played/0", {"played": [[5, 4]]}),
    ("/played/1", {"played": [[0, 5], [9, 8.999]]}),
]


@both
@pytest.mark.parametrize(("pointer", "fields"), CONTRADICTIONS)
async def test_a_heartbeat_that_contradicts_itself_is_rejected(
    server: Running, codec: str, pointer: str, fields: dict[str, Any]
) -> None:
    """An interval that ends before it begins: the heartbeat is rejected as a whole, including its valid parts."""
    async with device(server, str(uuid4()), codec=codec) as player:
        await player.beat(V, **fields)
        (rejection,) = (await player.acked())["rejected"]
        assert (rejection["seq"], rejection["code"]) == (1, "invalid")
        assert rejection["detail"].startswith(pointer + ":")


@both
@pytest.mark.parametrize(("name", "values"), [("seq", bad.SEQS), ("session", bad.SESSIONS[1:])])
async def test_a_heartbeat_without_seq_or_session_is_an_error(
    server: Running, codec: str, name: str, values: list[str]
) -> None:
    """There is nothing to reject it by: the reply is an `error`, and the connection stays open."""
    message = {"type": "heartbeat", "seq": 1, "videoId": V, "played": [[0, 5]], "session": "s"}
    async with device(server, str(uuid4()), codec=codec) as player:
        for written in frames(codec, message, name, values):
            await player.socket.send(written)
            error = await player.receive()
            assert (error["type"], error["code"]) == ("error", "invalid"), written[:200]
            assert f"/{name}" in error["detail"]
        await player.send(**{key: value for key, value in message.items() if key != "seq"})
        assert "/seq" in (await player.receive())["detail"]
        await player.send(type="ping")
        assert (await player.receive())["type"] == "pong"


@both
async def test_the_rest_of_the_batch_is_stored(store_server: StoreServer, prefix: str, codec: str) -> None:
    """A valid heartbeat between two invalid ones is stored, and one ack covers all three."""
    user = str(uuid4())
    async with serving(redis_url=store_server.url, key_prefix=prefix) as own, device(own, user, codec=codec) as player:
        await player.beat(V, played=[[0, -1]])
        await player.beat(V, played=[[0, 5]], position=5, state="playing", duration=None, age=None, seek=None)
        await player.beat("no id", played=[[5, 9]])
        ack = await player.acked()
        assert [rejection["seq"] for rejection in ack["rejected"]] == [1, 3]
        async with rest(own) as api:
            assert ok(await api.get(f"/progress/{user}?detail=full"))["progressData"][0]["seen"] == [[0, 5]]


@both
@pytest.mark.parametrize(("name", "values"), [("since", ["null", *bad.REVS])])
async def test_an_invalid_sync_is_an_error_and_the_connection_stays_open(
    server: Running, codec: str, name: str, values: list[str]
) -> None:
    async with device(server, str(uuid4()), codec=codec) as player:
        for written in frames(codec, {"type": "sync"}, name, values):
            await player.socket.send(written)
            error = await player.receive()
            assert (error["type"], error["code"]) == ("error", "invalid"), written
            assert f"/{name}" in error["detail"]
        await player.send(type="sync", since=0)
        assert (await player.receive())["type"] == "synced"


# What cannot be parsed, or is out of order, ends the connection

HELLO_FIELDS: list[tuple[str, list[str]]] = [
    ("userId", bad.IDS),
    ("session", bad.SESSIONS),
    ("device", bad.DEVICES),
    ("since", bad.REVS),
    ("epoch", ["1", "true", "[]", "{}", '"' + "x" * 65 + '"']),
]


@both
@pytest.mark.parametrize(("name", "values"), HELLO_FIELDS, ids=[name for name, _ in HELLO_FIELDS])
async def test_an_invalid_hello_ends_the_connection(server: Running, codec: str, name: str, values: list[str]) -> None:
    """The error names the field, and the code means that a retry with the same hello is useless."""
    hello = {"type": "hello", "device": "test", "session": "s", "userId": V}
    for written in frames(codec, hello, name, values):
        async with opened(server, codec) as socket:
            await socket.send(written)
            assert f"/{name}" in (await ended(socket, "bad_frame", 4501))["detail"]


@both
@pytest.mark.parametrize("name", ["device", "session", "userId"])
async def test_a_hello_that_lacks_a_field_ends_the_connection(server: Running, codec: str, name: str) -> None:
    hello = {"type": "hello", "device": "test", "session": "s", "userId": V}
    del hello[name]
    async with opened(server, codec) as socket:
        await socket.send(write(codec, hello))
        assert f"/{name}" in (await ended(socket, "bad_frame", 4501))["detail"]


@both
@pytest.mark.parametrize(
    "message",
    [
        {"type": "heartbeat", "seq": 1, "videoId": V, "played": [[0, 5]]},
        {"type": "sync", "since": 0},
        {"type": "ping"},
    ],
    ids=lambda message: message["type"],
)
async def test_any_message_before_hello_ends_the_connection(
    server: Running, codec: str, message: dict[str, Any]
) -> None:
    """4008; a client may reconnect and say hello first."""
    async with opened(server, codec) as socket:
        await socket.send(write(codec, message))
        await ended(socket, "no_hello", 4008)


async def test_no_hello_in_time_ends_the_connection(store_server: StoreServer, prefix: str) -> None:
    """A socket that stays silent, or only sends pings of the transport, is closed."""
    async with serving(redis_url=store_server.url, key_prefix=prefix, hello_timeout_s=0.1) as impatient:
        async with opened(impatient) as silent, opened(impatient, MSGPACK) as pinging:
            await pinging.ping()
            await ended(silent, "no_hello", 4008)
            await ended(pinging, "no_hello", 4008)
        async with device(impatient, str(uuid4())) as player:
            assert (await player.play(V, 0, 5))["rejected"] == []


@both
async def test_a_second_hello_ends_the_connection(server: Running, codec: str) -> None:
    """Also as another learner: a connection has one learner."""
    for user in (V, str(uuid4())):
        async with opened(server, codec) as socket:
            await socket.send(write(codec, {"type": "hello", "device": "test", "session": "s", "userId": V}))
            await socket.send(write(codec, {"type": "hello", "device": "test", "session": "s", "userId": user}))
            await ended(socket, "bad_frame", 4501)


NO_MESSAGES: list[Any] = [
    None,
    True,
    5,
    1.5,
    "hello",
    [],
    [{"type": "ping"}],
    {},
    {"type": None},
    {"type": 1},
    {"type": True},
    {"type": []},
    {"type": {}},
    {"type": ["ping"]},
    {"type": ""},
    {"type": "PING"},
    {"type": "ping\n"},
    {"type": "nope"},
    {"type": "__init__"},
    {"type": "ack", "session": "s", "seq": 1},
    {"type": "welcome"},
    {"type": "x" * 10_000},
    {"Type": "ping"},
    {"message": {"type": "ping"}},
]


@both
@pytest.mark.parametrize("greeted", [False, True])
async def test_an_invalid_message_ends_the_connection(server: Running, codec: str, greeted: bool) -> None:
    """No object, no type, an unknown type, a type that only the server sends: 4501, before the hello as after it."""
    for message in NO_MESSAGES:
        async with opened(server, codec) as socket:
            if greeted:
                await socket.send(write(codec, {"type": "hello", "device": "test", "session": "s", "userId": V}))
            await socket.send(write(codec, message))
            await ended(socket, "bad_frame", 4501)


@pytest.mark.parametrize("name", [name for name in bad.NOT_JSON if "UTF" not in name and "encod" not in name])
async def test_text_that_is_not_json_ends_the_connection(server: Running, name: str) -> None:
    text = bad.NOT_JSON[name][:16_000].decode("utf-8", "replace")
    async with opened(server, JSON) as socket:
        await socket.send(text)
        await ended(socket, "bad_frame", 4501)


NOT_MSGPACK = {
    "empty": b"",
    "cut short": b"\x81\xa4type",
    "two values": msgpack.packb({"type": "ping"}) * 2,
    "never used": b"\xc1",
    "a key twice": b"\x82\xa4type\xa4ping\xa4type\xa4ping",
    "a number for a key": msgpack.packb({1: 2, "type": "ping"}),
    "a list for a key": b"\x81\x91\x01\x01",
    "an extension": msgpack.packb({"type": "ping", "x": msgpack.ExtType(5, b"abc")}),
    "a timestamp": msgpack.packb({"type": "ping", "x": msgpack.Timestamp(1)}),
    "invalid UTF-8": b"\x81\xa4type\xa4\xff\xfe\xfd\xfc",
    "an encoded surrogate": b"\x81\xa4type\xa3\xed\xa0\x80",
    "deep nesting": b"\x91" * 16_000,
    "a list of four billion": b"\xdd\xff\xff\xff\xff",
    "a map of four billion": b"\xdf\xff\xff\xff\xff",
    "a text of four billion": b"\xdb\xff\xff\xff\xff",
    "JSON": b'{"type": "ping"}',
}


@pytest.mark.parametrize("name", NOT_MSGPACK)
async def test_bytes_that_are_not_msgpack_end_the_connection(server: Running, name: str) -> None:
    """So do extensions, keys that are not strings, and sizes larger than the frame."""
    async with opened(server, MSGPACK) as socket:
        await socket.send(NOT_MSGPACK[name])
        await ended(socket, "bad_frame", 4501)


async def test_msgpack_binary_is_not_text(server: Running) -> None:
    """msgpack's bin is not its str: an id in it is invalid."""
    async with device(server, str(uuid4()), codec=MSGPACK) as player:
        await player.send(type="heartbeat", seq=1, videoId=V.encode(), played=[[0, 5]])
        assert (await player.acked(1))["rejected"][0]["detail"].startswith("/videoId:")
        await player.socket.send(msgpack.packb({b"type": b"ping"}))
        await ended(player.socket, "bad_frame", 4501)


async def test_the_other_subprotocols_frames_end_the_connection(server: Running) -> None:
    """Binary frames where JSON was negotiated, text where msgpack was. Without an offer it is JSON."""
    for offered, frame in (
        ([JSON], msgpack.packb({"type": "ping"})),
        ([JSON], b'{"type": "ping"}'),
        ([], b'{"type": "ping"}'),
        ([MSGPACK], '{"type": "ping"}'),
    ):
        async with opened(server, *offered) as socket:
            await socket.send(frame)
            await ended(socket, "bad_frame", 4501)


@pytest.mark.parametrize("offered", [["nope"], ["playhead.v2.json"], ["PLAYHEAD.V1.JSON"], ["a", "b"]])
async def test_an_unknown_subprotocol_is_accepted_and_then_closed(server: Running, offered: list[str]) -> None:
    """A browser reports a refused upgrade only as 1006, so the code with the reason is sent after the accept."""
    async with opened(server, *offered) as socket:
        assert socket.subprotocol is None
        messages, code, reason = await rest_of(socket)
        assert (messages, code, reason) == ([], 4502, "unknown subprotocol")


@pytest.mark.parametrize("offered", [[JSON, "nope"], ["nope", JSON], [JSON, MSGPACK], [MSGPACK, JSON]])
async def test_the_preferred_known_subprotocol_is_selected(server: Running, offered: list[str]) -> None:
    async with opened(server, *offered) as socket:
        assert socket.subprotocol == JSON


# Sizes, and bytes that are no messages


@both
async def test_a_frame_over_the_limit_ends_the_connection(server: Running, codec: str) -> None:
    """1009, in one piece or in many. The limit is the one in `welcome`."""
    message = {"type": "ping", "x": "x" * 102_400}
    frame = write(codec, message)
    for pieces in (frame, [frame[n : n + 1_000] for n in range(0, len(frame), 1_000)]):
        async with device(server, str(uuid4()), codec=codec) as player:
            assert player.welcome["maxFrame"] == 16_384
            await player.socket.send(pieces)
            assert (await rest_of(player.socket))[1] == 1009


@both
async def test_a_frame_of_exactly_the_limit_is_read(server: Running, codec: str) -> None:
    """The limit is inclusive."""
    limit = server.settings.max_frame_bytes
    for size, taken in ((limit, True), (limit + 1, False)):
        frame = write(codec, {"type": "ping", "x": "x" * 16_000})
        frame = write(codec, {"type": "ping", "x": "x" * (16_000 + size - len(frame))})
        assert len(frame) == size
        async with device(server, str(uuid4()), codec=codec) as player:
            await player.socket.send(frame)
            if taken:
                assert await player.receive() == {"type": "pong"}
            else:
                assert (await rest_of(player.socket))[1] == 1009


async def test_text_that_is_not_utf8_ends_the_connection(server: Running) -> None:
    """The transport closes with 1007, as RFC 6455, 8.1, requires."""
    async with device(server, str(uuid4())) as player:
        await player.socket.send(b'{"type": "ping", "x": "\xff"}', text=True)
        assert (await rest_of(player.socket))[1] == 1007


@both
async def test_frames_after_an_invalid_one_have_no_effect(server: Running, codec: str) -> None:
    """Pipelined frames behind it are not stored (the store is compared after each test)."""
    async with opened(server, codec) as socket:
        await socket.send(write(codec, {"type": "hello", "device": "test", "session": "s", "userId": V}))
        await socket.send(write(codec, {"type": "nope"}))
        for seq in range(1, 50):
            beat = {"type": "heartbeat", "seq": seq, "videoId": V, "played": [[0, 5]], "state": "playing"}
            await socket.send(write(codec, beat))
        await ended(socket, "bad_frame", 4501)


async def test_too_many_sessions_end_the_connection(store_server: StoreServer, prefix: str) -> None:
    """64 sessions may wait for their ack on one connection.

    One more is 4003, and what was accepted before is stored.
    """
    user = str(uuid4())
    async with (
        serving(redis_url=store_server.url, key_prefix=prefix, flush_interval_s=60) as slow,
        device(slow, user) as player,
    ):
        for n in range(65):
            await player.beat(V, seq=1, session=f"s{n}", played=[[n, n + 1]], state="playing")
        await ended(player.socket, "too_many_sessions", 4003)
        async with rest(slow) as api:
            ok(await api.delete(f"/progress/{user}/{V}"))


@both
@pytest.mark.parametrize("greeted", [False, True])
async def test_a_peer_that_vanishes_leaves_nothing_behind(server: Running, codec: str, greeted: bool) -> None:
    """Cut off in the middle of a frame, without a close: the server continues."""
    for _ in range(5):
        async with opened(server, codec) as socket:
            if greeted:
                await socket.send(write(codec, {"type": "hello", "device": "test", "session": "s", "userId": V}))
                await socket.recv()
            socket.transport.write(b"\x81\xfe\x10\x00")  # the head of a frame that never arrives
            socket.transport.abort()


# Slow readers

PUSHES = 250
"""Enough to fill the sockets' buffers and the queue, at about 170; more would take longer than `write_timeout_s`."""


async def test_a_slow_reader_is_closed_and_delays_nobody(store_server: StoreServer, prefix: str) -> None:
    """The bytes that wait for a device are bounded: 4002, which means "retry", while its learner is served.

    Each change is small enough to be pushed; after a large one each device reads the changes page by page.
    """
    user, videos = str(uuid4()), [str(uuid4()) for _ in range(MAX_PUSHED // 2)]
    raw = sockets.socket()
    raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4_096)
    async with (
        serving(redis_url=store_server.url, key_prefix=prefix, max_queue_bytes=524_288, write_timeout_s=120) as own,
        rest(own) as api,
        device(own, user) as fast,
    ):
        raw.connect(("127.0.0.1", own.port))
        raw.setblocking(False)
        async with connect(own.ws, sock=raw, proxy=None, max_queue=1, ping_interval=None) as socket:
            slow = Device(socket, user, "slow", JSON)
            await slow.hello()
            pushed = 0
            for watched in range(1, PUSHES + 1):
                items = [
                    {"videoId": video, "watchedDuration": watched, "lastWatched": "2024-05-01"} for video in videos
                ]
                ok(await api.post("/progress/sync", json={"userId": user, "progressData": items}))
                while fast.rev < watched * len(videos):
                    await fast.receive()
                pushed += 1
            messages, code, reason = await rest_of(socket)
            assert (code, reason) == (4002, "too slow")
            assert len(messages) < 2 * pushed, "unread messages are not kept"
        assert {record["watchedDuration"] for record in fast.records.values()} == {PUSHES}
        assert len(fast.records) == len(videos)
