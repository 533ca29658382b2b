"""An Upgrade that the service does not take is ignored (RFC 9110, 7.8): its request keeps its body, and the next
request its beginning, however the bytes arrive. One that is taken waits for the answers before it."""

import asyncio
import contextlib
import json
import shutil
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from websockets.frames import Frame, Opcode

from tests.conftest import StoreServer
from tests.device import JSON, PATIENCE_S
from tests.missing import missing, program
from tests.rest import ok, rest
from tests.server.peer import head, peer, request
from tests.serving import Running, serving

pytestmark = [
    pytest.mark.parametrize("store_server", ["valkey"], indirect=True),  # independent of the store
    pytest.mark.asyncio(loop_scope="module"),
]

KEEP_ALIVE_S = 0.2
HANDSHAKE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
IGNORED = {
    "h2c": ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAA"),
    "TLS": ("Connection: upgrade", "Upgrade: TLS/1.0"),
    "a list": ("Connection: keep-alive, Upgrade", "Upgrade: HTTP/3.0, SHTTP/1.3, IRC/6.9, RTA/x11"),
    "a list with websocket": (*HANDSHAKE[:1], "Upgrade: websocket, h2c", *HANDSHAKE[2:]),
    "two lines": (*HANDSHAKE, "Upgrade: h2c"),
    "two lines of one": (*HANDSHAKE, "UPGRADE: websocket"),
    "no Connection": ("Upgrade: h2c",),
    "Connection in two lines": ("Connection: keep-alive", "Upgrade: h2c", "Connection: upgrade"),
    "Connection alone": ("Connection: upgrade",),
    "nothing": ("Connection: upgrade", "Upgrade:"),
    "a WebSocket elsewhere": HANDSHAKE,
    "a WebSocket of an old version": (*HANDSHAKE[:2], "Sec-WebSocket-Version: 8", *HANDSHAKE[3:]),
    "half a handshake": HANDSHAKE[:2],
}
U, V = str(uuid4()), str(uuid4())
FRAMINGS = ("length", "chunks")
CUTS = {"one segment": 0, "two segments": 1, "a segment a byte": 2}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(store_server: StoreServer) -> AsyncIterator[Running]:
    async with serving(redis_url=store_server.url, key_prefix=f"t{uuid4().hex}", keep_alive_s=KEEP_ALIVE_S) as running:
        yield running


def update(watched: int, user: str = U) -> bytes:
    said = {"userId": user, "videoId": V, "watchedDuration": watched, "lastWatched": "2024-05-01T10:00:00.000Z"}
    return json.dumps(said).encode()


REQUESTS = (
    ("POST", "/progress/update", update(60)),
    ("POST", "/progress/realtime", update(60)),
    ("POST", "/progress/sync", json.dumps({"userId": U, "progressData": []}).encode()),
    ("PUT", f"/videos/{V}", b'{"title":"A","duration":600}'),
    ("PATCH", "/progress/update", update(60)),
    ("POST", "/ws", update(60)),
    ("POST", "/progress/update", b"GET /nothing HTTP/1.1\r\n\r\n"),
    ("DELETE", f"/progress/{uuid4()}/{V}", b""),
    ("DELETE", f"/progress/{uuid4()}/{V}", b'{"for":"nobody"}'),
    ("GET", f"/progress/{U}/{V}", b""),
    ("GET", f"/progress/{U}/{V}", b'{"for":"nobody"}'),
    ("HEAD", "/livez", b""),
    ("OPTIONS", "/progress/update", b""),
)
LIVE = 200, b'{"status": "alive"}'


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("name", IGNORED)
async def test_an_upgrade_that_is_not_taken_changes_nothing(
    server: Running, read_apart: list[int], name: str, cuts: str
) -> None:
    """For each method, with a length and in chunks, the request is answered as without it; so is the request right
    behind it, and one that follows on the same connection."""
    async with rest(server) as api:
        ok(await api.post("/progress/update", content=update(60), headers={"Content-Type": "application/json"}))
    for method, target, body in REQUESTS if CUTS[cuts] < 2 else REQUESTS[::4]:
        for framing in FRAMINGS if body else FRAMINGS[:1]:
            answers = []
            for lines in ((), IGNORED[name]):
                start, end = request(method, target, *lines, body=body, framing=framing)
                segments = [[start + end + head("GET", "/livez")], [start, end + head("GET", "/livez")]]
                segments.append([bytes([byte]) for byte in segments[0][0]])
                async with peer(server) as opened:
                    await opened.send(*segments[CUTS[cuts]], reads=read_apart)
                    answers.append(await opened.answer(method))
                    assert await opened.answer() == LIVE
                    await opened.send(head("GET", "/livez", *lines))
                    assert await opened.answer() == LIVE
            plain, upgraded = answers
            assert upgraded == plain, (method, target, framing)
            assert plain[0] != 500


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_several_upgrades_on_one_connection(server: Running, framing: str) -> None:
    """All are sent at once, in one segment: there are as many answers, in order."""
    user = str(uuid4())
    sent = b"".join(
        b"".join(request("POST", "/progress/update", *lines, body=update(n, user), framing=framing))
        for n, lines in enumerate(IGNORED.values(), 1)
    )
    async with peer(server) as opened:
        await opened.send(sent)
        for n in range(1, len(IGNORED) + 1):
            status, body = await opened.answer()
            assert (status, json.loads(body)["watchedDuration"]) == (200, n)


@pytest.mark.parametrize("name", ["h2c", "a WebSocket elsewhere"])
@pytest.mark.parametrize("cut", [False, True])
async def test_no_body_is_read_as_a_request(server: Running, read_apart: list[int], name: str, cut: bool) -> None:
    """What a proxy forwards as the body of a POST, but would refuse as a request, is not executed."""
    user = str(uuid4())
    async with rest(server) as api:
        ok(await api.post("/progress/update", content=update(60, user), headers={"Content-Type": "application/json"}))
        start, end = request("POST", "/progress/update", *IGNORED[name], body=head("DELETE", f"/progress/{user}/{V}"))
        async with peer(server) as opened:
            await opened.send(*((start, end) if cut else (start + end,)), reads=read_apart)
            status, body = await opened.answer()
            assert (status, json.loads(body)["type"]) == (400, "urn:playhead:problem:not_json")
            await opened.send(head("GET", "/livez", "Connection: close"))
            assert await opened.answer() == LIVE
            assert await opened.rest() == b""
        assert ok(await api.get(f"/progress/{user}/{V}"))["watchedDuration"] == 60


@pytest.mark.parametrize("lines", [(), *IGNORED.values()], ids=["none", *IGNORED])
async def test_data_after_a_last_request_is_not_read(server: Running, lines: tuple[str, ...]) -> None:
    """RFC 9112, 9.6: after `Connection: close` there is one answer, and nothing else is executed or validated."""
    user = str(uuid4())
    async with rest(server) as api:
        ok(await api.post("/progress/update", content=update(60, user), headers={"Content-Type": "application/json"}))
        for behind in (head("DELETE", f"/progress/{user}/{V}"), b"PRI * HTTP/2.0\r\n\r\n", b"\x00" * 100, b"\r\n\r\n"):
            async with peer(server) as opened:
                await opened.send(head("GET", "/livez", "Connection: close", *lines) + behind)
                assert await opened.answer() == LIVE
                assert await opened.rest() == b""
        assert ok(await api.get(f"/progress/{user}/{V}"))["watchedDuration"] == 60


async def test_an_upgrade_in_http_1_0_is_ignored(server: Running) -> None:
    """RFC 9110, 7.8: even a valid handshake."""
    async with peer(server) as opened:
        await opened.send(head("GET", "/ws", *HANDSHAKE).replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert (await opened.answer())[0] == 426
        assert await opened.rest() == b""


async def test_expect_continue_with_an_upgrade(server: Running) -> None:
    """The body is asked for and read."""
    start, end = request("POST", "/progress/update", "Expect: 100-continue", *IGNORED["h2c"], body=update(60))
    async with peer(server) as opened:
        await opened.send(start)
        assert (await opened.answer())[0] == 100
        await opened.send(end)
        assert (await opened.answer())[0] == 200


# 426


@pytest.mark.parametrize("name", [*(name for name in IGNORED if name != "a WebSocket elsewhere"), "none", "a body"])
async def test_the_websocket_path_requires_a_handshake(server: Running, name: str) -> None:
    """RFC 9110, 15.5.22: 426, with the protocol and its version. The connection stays open."""
    lines = {"none": (), "a body": (*HANDSHAKE, "Content-Length: 5")}.get(name) or IGNORED.get(name, ())
    async with peer(server) as opened:
        await opened.send(head("GET", "/ws", *lines) + (b"hello" if name == "a body" else b""))
        async with asyncio.timeout(PATIENCE_S):
            answered = (await opened.reader.readuntil(b"\r\n\r\n")).lower()
        assert answered.startswith(b"http/1.1 426 upgrade required\r\n")
        for line in (b"upgrade: websocket", b"connection: upgrade", b"sec-websocket-version: 13"):
            assert b"\r\n" + line + b"\r\n" in answered
        length = int(answered.partition(b"content-length: ")[2].split(b"\r\n")[0])
        problem = json.loads(await opened.reader.readexactly(length))
        assert problem["type"] == "urn:playhead:problem:upgrade_required"
        assert "Upgrade: websocket" in problem["detail"]
        await opened.send(head("GET", "/livez"))
        assert await opened.answer() == LIVE


# An Upgrade that is taken


def said(**message: Any) -> bytes:
    return Frame(Opcode.TEXT, json.dumps(message).encode()).serialize(mask=True)


def hello() -> bytes:
    return said(type="hello", device="test", session="s", userId=str(uuid4()))


BEFORE = {
    "nothing": (b"", 0),
    "a GET": (head("GET", "/livez"), 1),
    "a page": (head("GET", "/client/playhead.js"), 1),
    "a stored update": (b"".join(request("POST", "/progress/update", body=update(60))), 1),
    "several": (b"".join(request("POST", "/progress/realtime", body=update(60))) + head("GET", "/livez") * 5, 6),
    "one with another Upgrade": (b"".join(request("POST", "/progress/update", *IGNORED["h2c"], body=update(60))), 1),
}
SOCKET = head("GET", "/ws", *HANDSHAKE, f"Sec-WebSocket-Protocol: {JSON}")


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("before", BEFORE)
async def test_a_handshake_behind_requests_becomes_a_lasting_websocket(
    server: Running, before: str, together: bool
) -> None:
    """In one segment with the requests, or after their answers: those come first, and none of HTTP's timers ends the
    socket."""
    requests, count = BEFORE[before]
    async with peer(server) as opened:
        await opened.send(*((requests + SOCKET,) if together else (requests,)))
        for _ in range(count):
            assert (await opened.answer())[0] == 200
        if not together:
            await opened.send(SOCKET)
        assert (await opened.answer())[0] == 101
        await opened.send(hello())
        await opened.message("synced")
        loop = asyncio.get_running_loop()
        until = loop.time() + 3 * KEEP_ALIVE_S
        while loop.time() < until:  # long after any HTTP timer that was armed before
            await opened.send(said(type="ping"))
            await opened.message("pong")
            await asyncio.sleep(KEEP_ALIVE_S / 4)


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("before", ["nothing", "several"])
async def test_frames_right_behind_the_handshake_are_read(store_server: StoreServer, direct: bool, before: str) -> None:
    """A client should wait for the 101 (RFC 6455, 4.1); frames that it sends without waiting are not lost."""
    requests, count = BEFORE[before]
    async with serving(redis_url=store_server.url, key_prefix=f"t{uuid4().hex}", direct=direct) as server:
        for cut in (0, 1, 5):
            async with peer(server) as opened:
                frames = hello() + said(type="ping")
                await opened.send(requests + SOCKET + frames[:cut], frames[cut:])
                for _ in range(count):
                    assert (await opened.answer())[0] == 200
                assert (await opened.answer())[0] == 101
                await opened.message("synced")
                await opened.message("pong")


async def test_more_than_a_frame_behind_the_handshake_is_cut_off(server: Running) -> None:
    """The data that is kept until the 101 is bounded."""
    async with peer(server) as opened:
        await opened.send(SOCKET + b"\x81" + bytes(server.settings.max_frame_bytes))
        with contextlib.suppress(ConnectionError):
            assert b"welcome" not in await opened.rest()


# Real clients

JAVA = """
import java.net.URI;
import java.net.http.*;

class Ask {
    public static void main(String[] args) throws Exception {
        var client = HttpClient.newHttpClient();  // asks for HTTP/2, as is its default
        for (int n = 1; n <= 3; n++) {
            var body = args[1].replace("60", "6" + n);
            var request = HttpRequest.newBuilder(URI.create(args[0])).header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(body)).build();
            var answer = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(answer.statusCode() + " " + answer.body());
        }
    }
}
"""


async def output(*command: str) -> list[str]:
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    try:
        async with asyncio.timeout(6 * PATIENCE_S):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    return out.decode().splitlines()


async def test_javas_client_keeps_its_body(server: Running, tmp_path: Any) -> None:
    """Java's HttpClient sends Upgrade: h2c by default."""
    if shutil.which("javac") is None:
        missing("there is no JDK (apt-get install openjdk-17-jdk-headless)")
    source = tmp_path / "Ask.java"
    source.write_text(JAVA)
    lines = await output("java", str(source), f"{server.http}/progress/update", update(60, str(uuid4())).decode())
    assert [line[:3] for line in lines] == ["200"] * 3
    assert [json.loads(line[4:])["watchedDuration"] for line in lines] == [61, 62, 63]


async def test_curl_asking_for_http2_keeps_its_body(server: Running) -> None:
    """curl --http2 sends Upgrade: h2c with the request."""
    url, body = f"{server.http}/progress/update", update(60, str(uuid4())).decode()
    one = [url, "--http2", "--silent", "--json", body, "--write-out", "\n"]
    first, second = await output(program("curl"), *one, "--next", *one)
    assert json.loads(first) == json.loads(second) == json.loads(body)
