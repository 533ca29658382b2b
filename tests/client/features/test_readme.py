"""The README's Python example, executed as written except for the address."""

import asyncio
import re
import textwrap
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from playhead.client import playhead_client
from tests.serving import Running

README = (Path(__file__).parents[3] / "README.md").read_text()
WITHIN_S = 20


def example(address: str) -> Callable[..., Awaitable[None]]:
    """A coroutine function with the example as its body."""
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    imports, rest = code.split("\n\n", 1)
    body = textwrap.indent(rest.replace("http://127.0.0.1:8000", address), "    ")
    scope: dict[str, Any] = {}
    exec(f"{imports}\nasync def example(user, video, print):\n{body}", scope)  # noqa: S102 our own README
    made: Callable[..., Awaitable[None]] = scope["example"]
    return made


async def test_the_python_example_works_as_written(
    server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stores the play, keeps its outbox in the file it names, and prints another device's change."""
    monkeypatch.chdir(tmp_path)
    user, video = str(uuid4()), str(uuid4())
    printed: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
    running = asyncio.ensure_future(example(server.http)(user, video, lambda *words: printed.put_nowait(words)))
    try:
        async with asyncio.timeout(WITHIN_S), playhead_client(server.http, device="phone", user_id=user) as phone:
            async for record in phone.changes():
                if record.seen:
                    break
            assert record.seen == [(0, 5)]
            await phone.watch(video, played=[(100, 120)], position=120)
            while await printed.get() != (video, 120):
                pass
        assert (tmp_path / "outbox").exists()
    finally:
        running.cancel()
        await asyncio.wait([running])
