"""Chromium as learners use it; Playwright keeps every tab visible and disables the back/forward cache."""

import itertools
import json
import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from tests.browser.conftest import BROWSER_ARGS, BROWSERS, STEP_WITHIN_S, STOPPED_WITHIN_S, until
from tests.missing import program


class Tab:
    """A tab, controlled by the DevTools protocol, with those methods of Playwright's `Page` that the tests need."""

    def __init__(self, port: int) -> None:
        target = httpx.put(f"http://127.0.0.1:{port}/json/new?about:blank", timeout=STEP_WITHIN_S).json()
        self._ends = ExitStack()
        self._line: ClientConnection = self._ends.enter_context(connect(target["webSocketDebuggerUrl"], max_size=None))
        self._ids = itertools.count(1)

    def call(self, method: str, **params: Any) -> Any:
        name = next(self._ids)
        self._line.send(json.dumps({"id": name, "method": method, "params": params}))
        while True:
            answer = json.loads(self._line.recv(timeout=STEP_WITHIN_S))
            if answer.get("id") == name:
                assert "error" not in answer, answer
                return answer["result"]

    def evaluate(self, script: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for_function(self, condition: str) -> None:
        until(lambda: self.evaluate(f"!!({condition})"), condition)

    def goto(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.wait_for_function(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def on(self, event: str, handler: Callable[..., None]) -> None:
        """Ignore the handler: no event is reported."""

    def close(self) -> None:
        self._ends.close()


class Chromium:
    """Chromium with a profile of its own. It can be started again with the same profile after a kill."""

    def __init__(self, profile: Path) -> None:
        self._profile = profile
        self._tabs: list[Tab] = []
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        executable = program(*BROWSERS)
        port_file = self._profile / "DevToolsActivePort"
        port_file.unlink(missing_ok=True)
        command = [executable, "--headless=new", "--remote-debugging-port=0", f"--user-data-dir={self._profile}"]
        with self._profile.with_suffix(".log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *BROWSER_ARGS, "about:blank"], stdout=log, stderr=log, start_new_session=True
            )
        until(lambda: port_file.exists() and port_file.read_text().count("\n"), "the browser's port")
        self._port = int(port_file.read_text().split()[0])

    def tab(self) -> Tab:
        """Open a tab in the foreground."""
        self._tabs.append(Tab(self._port))
        return self._tabs[-1]

    def kill(self) -> None:
        """Kill all of its processes at the same time."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(STOPPED_WITHIN_S)
            self._process = None
        for tab in self._tabs:
            tab.close()
        self._tabs.clear()
