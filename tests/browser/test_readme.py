"""The first conversations in README.md and docs/clients.md, executed as they are written, but for the address."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import Server, until
from tests.missing import program

ROOT = Path(__file__).parents[2]
USER, VIDEO = "0b6f1f8e-0f1d-4a8e-9d65-3f5a5b1c2d3e", "5b1f0c1e-9d3a-4c57-8a44-2f6d7f3e9b10"


def block(document: str, language: str, word: str, server: Server) -> str:
    """The one code block in this language with this word, with the address of the test's server."""
    text = (ROOT / document).read_text()
    found: str
    (found,) = [block for block in re.findall(rf"```{language}\n(.*?)```", text, re.S) if word in block]
    return found.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")


@pytest.mark.browser
def test_the_first_conversation_works_as_written(server: Server, new_page: Callable[[], Page]) -> None:
    """The curl commands store and answer; the lines for a browser's console bring welcome, synced and an ack."""
    program("curl")
    curl = block("docs/clients.md", "sh", "curl", server)
    output = subprocess.run(["bash", "-euc", curl], capture_output=True, text=True, check=True).stdout
    assert '"watchedDuration":42' in output
    assert '"resume":42.0' in output

    script = block("README.md", "js", "new WebSocket", server)
    page = new_page()
    received: list[str] = []
    page.goto(server.url)
    page.on("console", lambda line: received.append(line.text))
    page.evaluate(f"() => {{ {script} }}")  # as a console runs it: the page's own policy allows nothing inline

    def acked() -> bool:
        page.wait_for_timeout(20)  # lets the browser's events in
        return any('"ack"' in line for line in received)

    until(acked, "the ack on the console")
    assert [re.match(r'{"type":"(\w+)"', line).group(1) for line in received] == [  # type: ignore[union-attr]
        "welcome",
        "progress",
        "synced",
        "ack",
    ]
    record = server.progress(USER, VIDEO)
    assert (record["seen"], record["position"], record["watchedDuration"]) == ([[42, 47]], 47.5, 42)
