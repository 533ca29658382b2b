"""Logs and replies never contain a token, a payload, a stack trace or a forged line."""

import asyncio
import json
import logging
import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from playhead.server.commands.logs import OneLine
from playhead.server.security.tokens import mint
from playhead.server.settings import Settings
from tests.conftest import StoreServer
from tests.device import JSON, device
from tests.ports import free_port
from tests.rest import rest
from tests.server.program import launched
from tests.serving import Running, serving

SECRET = "a throw-away secret of 32 bytes!"
PAYLOAD = "k3yboard-cat"
"""Part of every body, frame, header and path that is sent."""
FORGED = "2026-01-01 00:00:00,000 ERROR forged: all is lost"
LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO|WARNING|ERROR|CRITICAL) [\w.]+: \S.*")
V = "7c9e6679-7425-40de-944b-e07fc1f90ae7"


async def misbehave(server: Running, token: str) -> list[httpx.Response]:
    """Send valid and invalid requests and frames that contain PAYLOAD, FORGED and the token; the answers."""
    forged = f"{PAYLOAD}\r\n{FORGED}"
    answers: list[httpx.Response] = []
    async with rest(server) as api:
        for credentials in (token, token + PAYLOAD, PAYLOAD):
            api.headers["Authorization"] = f"Bearer {credentials}"
            for body in ({"userId": forged}, {"userId": str(uuid4()), forged: forged}, [forged], forged):
                answers += [
                    await api.post(path, json=body)
                    for path in ("/progress/update", "/progress/sync", "/progress/realtime")
                ]
            answers.append(await api.post("/progress/update", content=forged.encode() + b"\xff{"))
            answers.append(await api.put(f"/videos/{V}", json={"title": forged, "duration": forged}))
            answers.append(await api.get(f"/progress/{PAYLOAD}%0d%0a{FORGED.replace(' ', '%20')}"))
            answers.append(await api.get("/progress/x", params={"token": token, "detail": forged}))
            answers.append(await api.get("/nowhere", headers={"X-Forwarded-For": PAYLOAD, "Origin": PAYLOAD}))
    for data in (
        f"GET /{PAYLOAD} HTTP/9\r\n\r\n",
        f"{PAYLOAD} {token}\r\n\r\n",
        f"GET / HTTP/1.1\r\n{PAYLOAD}\r\n\r\n",
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(data.encode())
        answers.append(httpx.Response(400, content=await reader.read()))
        writer.close()
    for frame in (
        json.dumps({"type": "hello", "device": forged, "session": "s", "token": token}),
        json.dumps({"type": "hello", "device": "d", "session": "s", "token": token + PAYLOAD}),
        json.dumps({"type": "hello", "device": "d", "session": "s", "token": token, "userId": str(uuid4())}),
        forged,
        forged.encode(),
        b"\xff" + forged.encode(),
    ):
        for url in (server.ws, f"{server.ws}?token={token}&{PAYLOAD}"):
            try:
                headers = {"Authorization": f"Bearer {token}"}
                async with connect(url, subprotocols=[Subprotocol(JSON)], additional_headers=headers) as socket:
                    await socket.send(frame, text=True if isinstance(frame, str) else None)
                    answers += [httpx.Response(200, content=message) async for message in socket]
            except (ConnectionClosed, InvalidStatus):
                pass
    return answers


@pytest.fixture
def secret() -> str:
    return mint(Settings(jwt_secret=SECRET), str(uuid4()), "", 600)


def assert_silent(text: str, token: str) -> None:
    """Check that the text contains neither the payload nor any part of the token."""
    for part in (token, *token.split("."), SECRET, PAYLOAD, "Traceback", 'File "'):
        assert part not in text, part


@pytest.mark.parametrize("level", ["debug", "info", "error"])
async def test_nothing_that_was_sent_is_logged_or_sent_back(tmp_path: Path, secret: str, level: str) -> None:
    """Run the program at each log level: every line is its own, without tokens, payloads or stack traces."""
    port = free_port()
    options = ["--port", str(port), "--data-dir", str(tmp_path / "data"), "--log-level", level]
    async with launched(*options, PLAYHEAD_JWT_SECRET=SECRET) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        await process.stdout.readline()
        answers = await misbehave(Running(port, Settings()), secret)
        process.terminate()
        out, err = await process.communicate()
    log = out.decode() + err.decode()
    assert_silent(log, secret)
    for line in err.decode().splitlines():
        assert LINE.fullmatch(line), line
        assert "forged" not in line
    assert len(answers) > 40
    for answer in answers:
        assert_silent(answer.text.replace(PAYLOAD, "") if answer.status_code == 404 else answer.text, secret)
        assert "server" not in answer.headers


async def test_an_internal_error_is_logged_without_request_content(
    store_server: StoreServer, prefix: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply is a bare 500; the log has the type and the place of the error in one line."""

    def broken(*_: Any) -> None:
        raise RuntimeError(f"{PAYLOAD}\n{FORGED}")

    monkeypatch.setattr("playhead.server.rest.progress._record_response", broken)
    where = serving(redis_url=store_server.url, key_prefix=prefix)
    async with where as server, rest(server) as api, device(server, str(uuid4())) as player:
        await player.play(V, 0, 1)
        answer = await api.get(f"/progress/{player.user_id}/{V}")
        assert answer.status_code == 500
        assert answer.json()["type"] == "urn:playhead:problem:internal"
        assert_silent(answer.text, SECRET)
    (record,) = [record for record in caplog.records if record.exc_info]
    line = OneLine().format(record)
    assert LINE.fullmatch(line), line
    assert "RuntimeError at test_silence.py:" in line
    assert_silent(line, SECRET)
    assert "forged" not in line
    caplog.clear()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("one\ntwo", r"one\ntwo"),
        ("\r\x1b[2Jx\x00\x7f", r"\r\x1b[2Jx\x00\x7f"),
        ("\u2028\u202e", r"\u2028\u202e"),
        ("Zoë 集", "Zoë 集"),
    ],
)
def test_control_characters_are_escaped(text: str, line: str) -> None:
    """Line breaks and terminal commands are escaped, Unicode ones included; letters remain letters."""
    record = logging.LogRecord("server", logging.INFO, "f.py", 1, "%s", (text,), None)
    assert OneLine().format(record).endswith(f" INFO server: {line}")
