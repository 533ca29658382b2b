"""examples/walkthrough.sh, run as a reader would run it, against a real server."""

import asyncio
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StoreServer
from tests.missing import program
from tests.serving import serving

SCRIPT = Path(__file__).parents[2] / "examples" / "walkthrough.sh"
PATIENCE_S = 60
ENDED_BADLY = 1
CALL = re.compile(r"^\$ curl -X (\S+) http://[^/]+(\S+).*?\n(\d{3}) ([^\n]*)$", re.MULTILINE | re.DOTALL)
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@pytest.fixture(autouse=True, scope="module")
def curl() -> None:
    """The program that the script calls."""
    program("curl")


async def walk(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Run the script; its exit code, stdout and stderr. The server runs in this loop meanwhile."""
    process = await asyncio.create_subprocess_exec(
        "bash",
        str(SCRIPT),
        *arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "NO_PROXY": "127.0.0.1", **environment},
    )
    async with asyncio.timeout(PATIENCE_S):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def calls(out: str) -> list[tuple[str, str, int, Any]]:
    """(method, path with its ids named u, v, w by first appearance, status, answer with the same names)."""
    names: dict[str, str] = {}

    def named(match: re.Match[str]) -> str:
        if match[0] not in names:
            names[match[0]] = "vuw"[len(names)]  # the first call is for the catalogue
        return names[match[0]]

    return [
        (method, UUID.sub(named, path), int(status), json.loads(UUID.sub(named, answer)))
        for method, path, status, answer in CALL.findall(UUID.sub(named, out))
    ]


@pytest.mark.parametrize("by", ["argument", "environment"])
async def test_the_walkthrough_shows_every_endpoint_and_its_answer(
    store_server: StoreServer, prefix: str, by: str
) -> None:
    """It succeeds, and each command is followed by the documented answer."""
    async with serving(redis_url=store_server.url, key_prefix=prefix) as server:
        server.clock.wall = 4_000_000_000_000  # after whatever `date` says
        code, out, err = await walk(server.http + "/") if by == "argument" else await walk(BASE_URL=server.http)
    assert (code, err) == (0, ""), out + err
    assert out.endswith("\nAll answers were as expected.\n")
    found = calls(out)
    assert [(method, path, status) for method, path, status, _ in found] == [
        ("PUT", "/videos/v", 200),
        ("POST", "/progress/update", 200),
        ("GET", "/progress/u/v", 200),
        ("GET", "/progress/u/v?detail=full", 200),
        ("POST", "/progress/sync", 200),
        ("GET", "/progress/u", 200),
        ("POST", "/progress/realtime", 200),
        ("POST", "/progress/realtime", 200),
        ("GET", "/progress/summary/v", 200),
        ("GET", "/progress/engagement/u", 200),
        ("DELETE", "/progress/u/v", 200),
        ("GET", "/progress/u/v", 404),
        ("POST", "/progress/update", 409),
        ("POST", "/progress/update", 422),
    ]
    answers = [answer for *_, answer in found]
    at = answers[1].pop("lastWatched")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.000Z", at)
    assert answers[1] == {"userId": "u", "videoId": "v", "watchedDuration": 120}
    assert answers[2] == {**answers[1], "lastWatched": at}
    assert (answers[3]["duration"], answers[3]["completed"], answers[3]["rev"]) == (600, False, 1)
    items = {item["videoId"]: item["watchedDuration"] for item in answers[4]["progressData"]}
    assert items == {"v": 120, "w": 45}
    assert answers[5] == answers[4]
    assert answers[6] == {"userId": "u", "videoId": "v", "watchedDuration": 180, "lastWatched": at}
    assert answers[7] == {"acks": [{"type": "ack", "session": "walkthrough", "seq": 2}]}
    assert answers[8] == {"videoId": "v", "averageWatchedDuration": 180, "completionRate": 0.0}
    assert answers[9] == {
        "userId": "u",
        "totalWatchedDuration": 235,
        "mostWatchedVideos": [
            {"videoId": "v", "watchedDuration": 180},
            {"videoId": "w", "watchedDuration": 55},
        ],
    }
    assert answers[10] == {"message": "Progress deleted successfully"}
    assert [answer["type"].rpartition(":")[2] for answer in answers[11:]] == ["not_found", "deleted", "invalid"]
    assert [error["pointer"] for error in answers[13]["errors"]] == ["/watchedDuration"]


async def test_the_walkthrough_fails_at_an_unexpected_answer(store_server: StoreServer, prefix: str) -> None:
    """It stops at the first one, names it, and exits with an error code."""
    async with serving(redis_url=store_server.url, key_prefix=prefix) as server:
        code, out, err = await walk(f"{server.http}/nowhere")
    assert code == ENDED_BADLY
    assert re.fullmatch(r"walkthrough: PUT /videos/\S+ answered 404, not 200\n", err)
    assert len(calls(out)) == 1


async def test_the_walkthrough_fails_without_a_server() -> None:
    """The reader sees curl's own message."""
    code, _, err = await walk("http://127.0.0.1:1")
    assert code != 0
    assert "curl" in err
