"""The README's first conversation is executed as it stands there, but for the address."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import Server, until
from tests.missing import program

README = (Path(__file__).parents[2] / "README.md").read_text()
USER, VIDEO = "0b6f1f8e-0f1d-4a8e-9d65-3f5a5b1c2d3e", "5b1f0c1e-9d3a-4c57-8a44-2f6d7f3e9b10"


def blocks(language: str, server: Server) -> list[str]:
    """The README's code blocks in a language, pointed at the test's own server."""
    address = f"127.0.0.1:{server.port}"
    return [block.replace("127.0.0.1:8000", address) for block in re.findall(rf"```{language}\n(.*?)```", README, re.S)]


@pytest.mark.browser
def test_the_first_conversation_works_as_written(server: Server, new_page: Callable[[], Page]) -> None:
    """The curl commands store and answer; the lines for a browser's console bring welcome, synced and an ack."""
    program("curl")
    (curl,) = [block for block in blocks("sh", server) if "curl" in block]
    said = subprocess.run(["bash", "-euc", curl], capture_output=True, text=True, check=True).stdout
    assert '"watchedDuration":42' in said
    assert '"resume":42.0' in said

    (script,) = [block for block in blocks("js", server) if "new WebSocket" in block]
    page = new_page()
    heard: list[str] = []
    page.goto(server.url)
    page.on("console", lambda line: heard.append(line.text))
    page.evaluate(f"() => {{ {script} }}")  # as a console runs it: the page's own policy allows nothing inline

    def acked() -> bool:
        page.wait_for_timeout(20)  # lets the browser's events in
        return any('"ack"' in line for line in heard)

    until(acked, "the ack on the console")
    assert [re.match(r'{"type":"(\w+)"', line).group(1) for line in heard] == [  # type: ignore[union-attr]
        "welcome",
        "progress",
        "synced",
        "ack",
    ]
    record = server.progress(USER, VIDEO)
    assert (record["seen"], record["position"], record["watchedDuration"]) == ([[42, 47]], 47.5, 42)
