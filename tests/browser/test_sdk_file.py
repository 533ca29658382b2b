"""The SDK as a file: small, in one file for its plain life, typed, and served as it is."""

import gzip
import re
import subprocess
import sys
from collections.abc import Callable

import httpx
from playwright.sync_api import Page

from tests.browser.conftest import Server
from tests.browser.sdk_page import CLIENT
from tests.missing import program

MOST_BYTES = 10_240


def test_it_is_small() -> None:
    """At most 10 KB as it travels, comments and all: 8 until it knew whose seek it is and kept records."""
    assert len(gzip.compress((CLIENT / "playhead.js").read_bytes(), 9)) <= MOST_BYTES


def test_it_is_one_file() -> None:
    """Its plain life is in one file: what few pages need is imported at need, from files beside it."""
    source = (CLIENT / "playhead.js").read_text()
    assert not re.search(r"^\s*(import\b(?!\()|export .* from)|require\(", source, re.M)
    lazy = set(re.findall(r'\bimport\("(.+?)"\)', source))
    assert lazy == {"./forget.js", "./more/http.js", "./more/refusal.js", "./more/replacement.js"}
    assert all((CLIENT / name).is_file() for name in lazy)


def test_its_types_are_sound_and_published() -> None:
    """tsc --strict finds nothing, and playhead.d.ts is what it makes of playhead.js."""
    program("npm")
    script = [sys.executable, "-m", "tests.browser.check_types"]
    ended = subprocess.run(script, cwd=CLIENT.parent, capture_output=True, text=True, timeout=550)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_its_plain_life_loads_nothing_more(server: Server, new_page: Callable[[], Page]) -> None:
    """Watched, sought, paused, left: no second script is asked for."""
    page = new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(server.url)
    page.wait_for_function("() => document.querySelector('video').readyState >= 2")
    page.evaluate("() => void document.querySelector('video').play()")
    page.wait_for_function("() => document.querySelector('video').currentTime > 1")
    page.evaluate("() => void (document.querySelector('video').currentTime = 40)")
    page.wait_for_function("() => document.querySelector('video').currentTime > 41")
    page.goto("about:blank")
    assert [url for url in asked if "/client/" in url] == [f"{server.url}/client/playhead.js"]


def test_it_is_served(server: Server) -> None:
    """As a module, and its types beside it."""
    for name in ("playhead.js", "playhead.d.ts", "types.d.ts", "forget.js", "more/http.js", "adapters/hls.js"):
        answer = httpx.get(f"{server.url}/client/{name}")
        assert answer.status_code == httpx.codes.OK
        assert answer.text == (CLIENT / name).read_text()
    assert httpx.get(f"{server.url}/client/playhead.js").headers["content-type"].startswith("text/javascript")
