"""Attacks over HTTP: each ends with its status or at the deadline, and affects nobody else."""

import asyncio
import gc
import json
import re
from uuid import uuid4

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from tests.conftest import StoreServer
from tests.device import device
from tests.rest import ok, rest
from tests.security.attacker import CLOSE, MARK, PATIENCE_S, Attacker, attack, frame, head, status, upgrade
from tests.security.watched import VIDEO, Target, Watch, learner, target, warm_mib, watch
from tests.serving import serving

__all__ = ["learner", "target", "warm_mib", "watch"]
"""Fixtures."""
pytestmark = pytest.mark.asyncio(loop_scope="module")

CROWD = 100
"""Simultaneous attackers."""
MIB = 1_048_576
USER = "0d9e4cbe-5c4b-4a37-8f43-1b0c9d0f2a11"


def get(*lines: str, target: str = "/livez") -> bytes:
    return head("GET", target, *lines)


def post(body: bytes, *lines: str, target: str = "/progress/sync") -> bytes:
    """A whole request that ends its connection."""
    more = "Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close"
    return head("POST", target, *more, *lines) + body


def chunked(*lines: str) -> bytes:
    return head("POST", "/progress/sync", "Content-Type: application/json", "Transfer-Encoding: chunked", *lines)


def answers_in(data: bytes) -> int:
    return len(re.findall(rb"HTTP/1\.1 \d{3} ", data))


# Invalid requests

UNREADABLE: dict[str, tuple[bytes, int]] = {
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100), 400),
    "TLS ClientHello": (bytes.fromhex("16030100c8010000c40303") + bytes(range(190)), 400),
    "not HTTP": (f"{MARK}\r\n\r\n".encode(), 400),
    "bytes": (bytes(range(256)) * 16, 400),
    "lines without carriage returns": (get().replace(b"\r\n", b"\n"), 400),
    "a folded header": (get("X: a\r\n b"), 400),
    "a header name with a space": (get("X : a"), 400),
    "a NUL in a header": (get("X: \x00"), 400),
    "a path not ASCII": (get(target="/\xff"), 400),
    "an invalid address": (get(target="http://["), 400),
    "CONNECT": (head("CONNECT", "localhost:80"), 400),
    "leading empty lines": (b"\r\n" * 100_000, 431),
    "an endless header": (get()[:-2] + b"X: " + MARK.encode() * 10_000, 431),
    "an endless header name": (get()[:-2] + MARK.encode() * 10_000, 431),
    "an enormous URL": (get(target="/" + MARK * 10_000), 431),
    "an endless URL": (b"GET /" + MARK.encode() * 10_000, 431),
    "10,000 headers": (get(*["a: b"] * 10_000), 431),
    "100,000 headers": (get(*["a: b"] * 100_000), 431),
    "an endless method": (b"GET" * 50_000, 400),
}


@pytest.mark.parametrize(("data", "code"), UNREADABLE.values(), ids=UNREADABLE)
async def test_invalid_requests_are_answered_and_closed(target: Target, data: bytes, code: int) -> None:
    """Immediately, with 400 or 431."""
    answers = await asyncio.gather(*(attack(target.port, data) for _ in range(10)))
    assert {status(answer) for answer in answers} == {code}
    assert all(b"connection: close" in answer for answer in answers)


CHUNKS = "Transfer-Encoding: chunked"
SMUGGLED = b"0\r\n\r\n" + get(target=f"/{MARK}")
SMUGGLING: dict[str, bytes] = {
    "length and chunks": head("POST", "/progress/sync", "Content-Length: 5", CHUNKS) + SMUGGLED,
    "chunks and length": head("POST", "/progress/sync", CHUNKS, "Content-Length: 5") + SMUGGLED,
    "two lengths": head("POST", "/progress/sync", "Content-Length: 0", "Content-Length: 5") + SMUGGLED,
    "a length with a sign": head("POST", "/progress/sync", "Content-Length: +5") + SMUGGLED,
    "a length below zero": head("POST", "/progress/sync", "Content-Length: -5") + SMUGGLED,
    "a list of lengths": head("POST", "/progress/sync", "Content-Length: 5, 5") + SMUGGLED,
    "a length beyond 64 bits": head("POST", "/progress/sync", "Content-Length: 18446744073709551617") + SMUGGLED,
    "chunked is not the last coding": head("POST", "/progress/sync", "Transfer-Encoding: chunked, identity") + SMUGGLED,
    "unknown coding": head("POST", "/progress/sync", "Transfer-Encoding: xchunked") + SMUGGLED,
    "a name with a space": head("POST", "/progress/sync", "Transfer-Encoding : chunked") + SMUGGLED,
    "chunk sizes without carriage returns": head("POST", "/progress/sync", CHUNKS) + b"1\na\n0\n\n" + get(),
    "a chunk longer than declared": head("POST", "/progress/sync", CHUNKS) + b"1\r\naa\r\n0\r\n\r\n" + get(),
    "a chunk size beyond 64 bits": head("POST", "/progress/sync", CHUNKS) + b"1" * 17 + b"\r\n",
    "an invalid chunk size": head("POST", "/progress/sync", CHUNKS) + b"-1\r\n" + get(),
}


@pytest.mark.parametrize("data", SMUGGLING.values(), ids=SMUGGLING)
async def test_ambiguous_requests_are_refused(target: Target, data: bytes) -> None:
    """RFC 9112, 6.3: where two servers could disagree about the end of a request, the answer is 400 and a close."""
    answer = await attack(target.port, data)
    assert status(answer) == 400
    assert answers_in(answer) == 1
    assert MARK.encode() not in answer


async def test_pipelined_requests_by_the_thousand(target: Target) -> None:
    """A few requests may wait; more of them end the connection without being answered individually."""
    answers = await asyncio.gather(*(attack(target.port, get() * 5_000) for _ in range(20)))
    assert {answers_in(answer) for answer in answers} <= set(range(1, 18))


async def test_pipelined_requests_of_clients_that_disconnect(target: Target) -> None:
    """A client that disconnects during the first of several answers costs nothing, not even a log line."""
    body = {"userId": USER, "videoId": VIDEO, "watchedDuration": 1, "lastWatched": "2026-01-01T00:00:00Z"}
    one = post(json.dumps(body).encode(), target="/progress/realtime").replace(b"Connection: close\r\n", b"")
    before = target.connections()
    for _ in range(5):
        crowd = [await Attacker.connect(target.port) for _ in range(20)]
        assert all(await asyncio.gather(*(attacker.send(one * 3) for attacker in crowd)))
        for attacker in crowd:
            attacker.reset()
        await target.wait_for_connections(before)
    async with rest(target.running) as client:
        ok(await client.post("/progress/realtime", json=body))  # in their batch or in the next one


async def test_an_upgrade_to_another_protocol_is_ignored(target: Target) -> None:
    """h2c is ignored, as RFC 9110, 7.8 allows: the request is answered, and the rest is not read as another one."""
    lines = "Connection: Upgrade, HTTP2-Settings, close", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"
    answer = await attack(target.port, get(*lines) + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + get(target=f"/{MARK}"))
    assert status(answer) == 200
    assert answers_in(answer) == 1


# Slow requests

SLOW: dict[str, tuple[bytes, bytes, int]] = {
    "nothing": (b"", b"", 0),
    "an empty line at a time": (b"", b"\r\n", 408),
    "half a request line": (b"GET /li", b"v", 408),
    "a header at a time": (get()[:-2], b"a: b\r\n", 408),
    "a byte at a time": (get()[:-2] + b"X: ", b"a", 408),
    "a second head, after a valid request": (get() + b"GET", b" ", 200),
    "a body": (post(bytes(1_000))[:-900], b" ", 408),
    "chunks of one byte": (chunked(), b"1\r\n \r\n", 408),
    "half a chunk size": (chunked() + b"0", b"0", 408),
    "a chunk's extension": (chunked() + b"1;", b"a", 408),
    "trailers": (chunked() + b"2\r\n{}\r\n0\r\n", b"a: b\r\n", 408),
    "an unexpected body": (head("GET", "/livez", "Content-Length: 1000"), b" ", 200),
    "a body after 413": (chunked() + b"200000\r\n" + bytes(MIB + 65_536), b" ", 413),
    "the body of an upgrade": (upgrade("Content-Length: 1000"), b" ", 426),
}


async def drip(attacker: Attacker, start: bytes, drop: bytes, over: asyncio.Event) -> None:
    """Send the start, then a drop from time to time, as long as the server accepts them."""
    if not await attacker.send(start):
        return
    while not over.is_set():
        if drop and not await attacker.send(drop):
            return
        await asyncio.wait([asyncio.create_task(over.wait())], timeout=0.1)


async def slowly(target: Target, start: bytes, drop: bytes) -> bytes:
    attacker, over = await Attacker.connect(target.port), asyncio.Event()
    dripping = asyncio.create_task(drip(attacker, start, drop, over))
    try:
        return await attacker.closed()
    finally:
        over.set()
        await dripping
        attacker.close()


async def test_slow_requests_from_many_clients(target: Target, watch: Watch) -> None:
    """Heads and bodies have a deadline that no drop of data extends.

    At the deadline the answer is 408 or a close; after the grace period the connection is closed, whatever still
    arrives.
    """
    watch.memory_mib += CROWD // len(SLOW) * 2.5  # this many bodies of one MiB were being read
    cases = (list(SLOW.values()) * CROWD)[:CROWD]
    answers = await asyncio.gather(*(slowly(target, start, drop) for start, drop, _ in cases))
    assert [status(answer) for answer in answers] == [code for _, _, code in cases]


async def test_slow_heads_do_not_shut_others_out(target: Target) -> None:
    """While a hundred slow heads wait, another request and another device are served."""
    slow = [asyncio.create_task(slowly(target, get()[:-2], b"a: b\r\n")) for _ in range(CROWD)]
    async with rest(target.running) as client, device(target.running, str(uuid4())) as player:
        assert ok(await client.get("/livez"))
        await player.play(VIDEO, 0, 1)
    assert {status(answer) for answer in await asyncio.gather(*slow)} == {408}


# Large requests

LARGE: dict[str, tuple[bytes, int]] = {
    "a length of 1 GiB": (
        head("POST", "/progress/sync", "Content-Type: application/json", f"Content-Length: {2**30}") + bytes(5 * MIB),
        413,
    ),
    "a chunk of 1 GiB": (chunked() + b"40000000\r\n" + bytes(5 * MIB), 413),
    "chunks of one byte": (chunked() + b"1\r\n \r\n" * MIB, 413),
    "a chunk's extension": (chunked() + b"1;" + MARK.encode() * 400_000, 413),
    "endless trailers": (chunked() + b"0\r\n" + b"aa:bb\r\n" * 700_000, 413),
    "an endless trailer": (chunked() + b"0\r\na: " + MARK.encode() * 400_000, 413),
    "trailers of a body": (chunked() + b"2\r\n{}\r\n0\r\n" + b"aa:bb\r\n" * 700_000, 413),
}


@pytest.mark.parametrize(("data", "code"), LARGE.values(), ids=LARGE)
async def test_oversized_requests_are_cut_off(target: Target, data: bytes, code: int) -> None:
    """The answer is 413, whichever part of a message does not end; nothing of it is kept."""
    answers = await asyncio.gather(*(attack(target.port, data) for _ in range(5)))
    assert {status(answer) for answer in answers} <= {
        code,
        408,
    }  # 408 if not everything could be sent before the deadline


def items(one: str, count: int) -> bytes:
    return f'{{"userId":"{USER}","progressData":[{",".join([one] * count)}]}}'.encode()


SEVERAL = ",".join(f"[{2 * n},{2 * n + 1}]" for n in range(512))
INTERVALS = ",".join(f'{{"seq":{n},"videoId":"{VIDEO}","played":[{SEVERAL}]}}' for n in range(1, 190))
BOMBS: dict[str, tuple[str, bytes, int]] = {
    "arrays in arrays": ("sync", b"[" * 1_000_000, 400),
    "objects in objects": ("sync", b'{"a":' * 200_000, 400),
    "a million digits": ("sync", b"9" * 1_000_000, 400),
    "many numbers of 4,000 digits": ("sync", b"[" + b",".join([b"9" * 4_000] * 250) + b"]", 422),
    "an exponent of a million digits": ("sync", b"1e" + b"9" * 1_000_000, 422),
    "a fraction of a million digits": ("sync", b"0." + b"9" * 1_000_000, 422),
    "empty objects": ("sync", items("{}", 340_000), 422),
    "empty arrays": ("sync", items("[]", 340_000), 422),
    "zeros": ("sync", items("0", 500_000), 422),
    "a thousand items, all fields invalid": (
        "sync",
        items('{"videoId":":","watchedDuration":-1,"lastWatched":""}', 1_000),
        422,
    ),
    "many keys": ("sync", json.dumps({f"{MARK}{n}": 0 for n in range(40_000)}).encode(), 422),
    "many numeric keys": ("sync", json.dumps({str(n * (2**61 - 1)): 0 for n in range(30_000)}).encode(), 422),
    "a duplicate key at the end": (
        "sync",
        json.dumps({f"{n}": 0 for n in range(60_000)}).encode()[:-1] + b',"0":0}',
        400,
    ),
    "a text of escapes": ("sync", b'{"userId":"' + b"\\ud83d\\ude00" * 80_000 + b'"}', 422),
    "not UTF-8": ("sync", b'"' + b"\xff" * 1_000_000 + b'"', 400),
    "empty heartbeats": (
        "realtime",
        f'{{"userId":"{USER}","session":"s","heartbeats":[{"{}," * 300_000}{{}}]}}'.encode(),
        422,
    ),
    "all intervals that a body holds": (
        "realtime",
        f'{{"userId":"{USER}","session":"s","heartbeats":[{INTERVALS}]}}'.encode(),
        200,
    ),
}


@pytest.mark.parametrize(("path", "body", "code"), BOMBS.values(), ids=BOMBS)
async def test_json_bombs(target: Target, path: str, body: bytes, code: int) -> None:
    """Bodies of the largest size are refused, or accepted within the bounds of a record; the answer is small."""
    assert len(body) <= MIB
    answers = await asyncio.gather(*(attack(target.port, post(body, target=f"/progress/{path}")) for _ in range(2)))
    assert [status(answer) for answer in answers] == [code] * 2
    assert max(len(answer) for answer in answers) < 65_536


@pytest.mark.parametrize(
    "name", ["a:b{c}", "%0d%0aERROR%20forged", "%00", "%7b%7d%3a", "..%2f..%2f", "*", "%ff%fe", f"{VIDEO}%0a"]
)
async def test_invalid_ids_reach_neither_keys_nor_the_log(target: Target, name: str) -> None:
    """The answer is 422 with the name of the path parameter, or 404; never 500, and no log line is forged."""
    for path in (
        f"/progress/{name}",
        f"/progress/{name}/{VIDEO}",
        f"/progress/{USER}/{name}",
        f"/progress/summary/{name}",
    ):
        assert status(await attack(target.port, get("Connection: close", target=path))) in (404, 422)


async def test_large_answers_that_nobody_reads(target: Target, watch: Watch) -> None:
    """With a zero window an answer waits only until the deadlines of the kernel and of the server."""
    async with device(target.running, USER) as player:
        for _ in range(40):
            played = [[2 * second, 2 * second + 1] for second in range(512)]
            await player.beat(str(uuid4()), played=played, span=3_600_000)
        await player.acked()
    async with rest(target.running) as client:
        answer_mib = len((await client.get(f"/progress/{USER}?detail=full")).content) / MIB
    await target.wait_for_connections(1)
    before = target.connections()
    crowd = [await Attacker.connect(target.port, receive_buffer=1) for _ in range(CROWD // 4)]
    watch.memory_mib += 2 * len(crowd) * answer_mib  # in the transport, and while it is being written
    assert answer_mib > 0.1
    try:
        await asyncio.gather(*(attacker.send(get(target=f"/progress/{USER}?detail=full") * 4) for attacker in crowd))
        await target.wait_for_connections(before)
    finally:
        for attacker in crowd:
            attacker.close()


LEAVINGS = {
    "unreadable": UNREADABLE["not HTTP"][0],
    "a head too large": UNREADABLE["10,000 headers"][0],
    "ambiguous": SMUGGLING["length and chunks"],
    "pipelined": get() * 100,
    "an invalid body": post(b"{"),
    "a handshake with a body": upgrade("Content-Length: 5") + b"hello",
    "a handshake without a key": upgrade().replace(b"Sec-WebSocket-Key", b"X-Key"),
    "a handshake on another path": upgrade(target="/elsewhere"),
    "a handshake of a foreign page": upgrade("Origin: https://evil.example"),
    "a handshake of a foreign page after a request": get() + upgrade("Origin: https://evil.example"),
    "a WebSocket after a request": get() + upgrade() + frame(CLOSE),
}


def count_connections() -> int:
    """The number of connection objects in memory, open or not."""
    return sum(issubclass(type(one), (HttpToolsProtocol, WebSocketsSansIOProtocol)) for one in gc.get_objects())


async def test_refused_connections_are_freed_immediately(store_server: StoreServer, prefix: str) -> None:
    """No refused connection waits for the cycle collector, which the server runs rarely."""
    async with serving(redis_url=store_server.url, key_prefix=prefix, keep_alive_s=0.2) as server:
        await asyncio.gather(*(attack(server.port, data) for data in LEAVINGS.values()))
        gc.collect()
        gc.disable()
        try:
            for data in LEAVINGS.values():
                before = count_connections()
                await asyncio.gather(*(attack(server.port, data) for _ in range(5)))
                async with asyncio.timeout(PATIENCE_S):
                    while count_connections() > before:  # noqa: ASYNC110 no event for freed objects
                        await asyncio.sleep(0.01)
        finally:
            gc.enable()
