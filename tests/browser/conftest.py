"""A real server in its own process and a real Chromium: nothing here is simulated."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.missing import program
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER_ARGS = [
    "--no-sandbox",  # Chromium's sandbox does not work for root in a container
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
]
READY_WITHIN_S = 30
STOPPED_WITHIN_S = 15
STEP_WITHIN_S = 30

T = TypeVar("T")


def until(ask: Callable[[], T], why: str, within_s: float = STEP_WITHIN_S) -> T:
    """Return the first true answer; fail with `why`, the awaited condition, if there is none in time."""
    deadline = time.monotonic() + within_s
    while not (answer := ask()):
        if time.monotonic() > deadline:
            pytest.fail(f"timed out after {within_s} s: {why}")
        time.sleep(0.05)
    return answer


class Server:
    """`playhead serve` on a port of its own. It can be started again on the same data directory after a kill.

    Args:
        program: the command line of another `playhead` than that of the checkout.
        cwd: the working directory of the process.
    """

    def __init__(
        self, data_dir: Path, program: Sequence[str] = (sys.executable, "-m", "playhead.server"), cwd: Path = ROOT
    ) -> None:
        self._program, self._cwd = program, cwd
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._data_dir = data_dir
        self._log = data_dir.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        begins_at = self._log.stat().st_size if self._log.exists() else 0
        command = [*self._program, "serve", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--data-dir", str(self._data_dir)]
        with self._log.open("ab") as log:
            self._process = process = subprocess.Popen(command, cwd=self._cwd, stdout=log, stderr=subprocess.STDOUT)

        def ready() -> bool:
            printed = self._log.read_bytes()[begins_at:].decode(errors="replace")
            if process.poll() is not None:
                pytest.fail(f"the server ended with {process.returncode} before it was ready:\n{printed}")
            return f"Playhead is ready on {self.url}" in printed

        until(ready, f"the server's ready line; see {self._log}", READY_WITHIN_S)

    def kill(self) -> None:
        """Kill it without warning, before it can flush."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def progress(self, user: str, video: str) -> dict[str, Any]:
        """The record with all details, or an empty dict if there is none."""
        answer = httpx.get(f"{self.url}/progress/{user}/{video}", params={"detail": "full"}, timeout=STEP_WITHIN_S)
        return {} if answer.status_code == httpx.codes.NOT_FOUND else answer.raise_for_status().json()

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        process.send_signal(how)
        try:
            process.wait(STOPPED_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            pytest.fail(f"the server was still running {STOPPED_WITHIN_S} s after {how.name}; see {self._log}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium per module: Playwright's event loop must have ended before asynchronous tests of other modules."""
    executable = program(*BROWSERS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=BROWSER_ARGS)
        yield browser
        browser.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server with an empty store."""
    server = Server(tmp_path / "data")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def new_page(browser: Browser) -> Iterator[Callable[[], Page]]:
    """Pages of separate devices, which share no storage. An error in a page's script fails the test."""
    contexts: list[BrowserContext] = []
    errors: list[str] = []

    def open_page() -> Page:
        context = browser.new_context(viewport={"width": 1100, "height": 1000})
        context.set_default_timeout(1000 * STEP_WITHIN_S)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not errors, "a script of the page failed"
