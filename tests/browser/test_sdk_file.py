"""The SDK as a file: small, of one piece, typed, and served as it is."""

import gzip
import re
import subprocess
import sys

import httpx

from tests.browser.conftest import Server
from tests.browser.sdk_page import CLIENT
from tests.missing import program

MOST_BYTES = 8_192


def test_it_is_small() -> None:
    """At most 8 KB as it travels, comments and all."""
    assert len(gzip.compress((CLIENT / "playhead.js").read_bytes(), 9)) <= MOST_BYTES


def test_it_is_one_file() -> None:
    """It imports nothing when it runs."""
    assert not re.search(
        r"^\s*(import\b|export .* from)|\bimport\(|require\(", (CLIENT / "playhead.js").read_text(), re.M
    )


def test_its_types_are_sound_and_published() -> None:
    """tsc --strict finds nothing, and playhead.d.ts is what it makes of playhead.js."""
    program("npm")
    script = [sys.executable, "-m", "tests.browser.check_types"]
    ended = subprocess.run(script, cwd=CLIENT.parent, capture_output=True, text=True, timeout=550)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_it_is_served(server: Server) -> None:
    """As a module, and its types beside it."""
    for name in ("playhead.js", "playhead.d.ts", "types.d.ts"):
        answer = httpx.get(f"{server.url}/client/{name}")
        assert answer.status_code == httpx.codes.OK
        assert answer.text == (CLIENT / name).read_text()
    assert httpx.get(f"{server.url}/client/playhead.js").headers["content-type"].startswith("text/javascript")
