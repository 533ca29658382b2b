"""Stores on real servers, and servers that a test may kill."""

import contextlib
import itertools
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from playhead.storage.embedded.valkey import server_binary
from playhead.storage.parts import Parts
from playhead.storage.store import Store, open_store
from tests.conftest import StoreServer

PATIENCE_S = 20.0
"""Bound on every wait; a test that gets here has failed."""

NewStore = Callable[..., Any]


@pytest.fixture
async def new_store(store_server: StoreServer, prefix: str) -> AsyncIterator[NewStore]:
    """Opens stores on the server and prefix of this test, each a worker of its own.

    `kind` takes the arguments of `open_store`; it may also create the parts only.
    """
    async with contextlib.AsyncExitStack() as opened:
        numbers = itertools.count(1)

        def open_one(kind: Callable[..., Any] = open_store, **more: Any) -> Any:
            store = kind(store_server.url, worker=f"w{next(numbers)}", key_prefix=prefix, **more)
            opened.push_async_callback(store.link.aclose if isinstance(store, Parts) else store.close)
            return store

        yield open_one


@pytest.fixture
def store(new_store: NewStore) -> Store:
    opened: Store = new_store()
    return opened


class PrivateServer:
    """A Valkey for one test, on a fixed socket: it can be stopped, paused and restarted."""

    def __init__(self, directory: Path) -> None:
        self.url = f"unix://{directory}/private.sock"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words: list[str | Path] = [server_binary(), "--port", "0", "--unixsocket", self._directory / "private.sock"]
        words += ["--dir", self._directory, "--save", "", "--appendonly", "yes", "--appendfsync", "always"]
        self._process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE_S
        with redis.Redis.from_url(self.url) as client:
            while True:
                with contextlib.suppress(redis.ConnectionError, redis.BusyLoadingError):
                    client.ping()
                    return
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.01)

    def kill(self) -> None:
        """Kill it by SIGKILL."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(PATIENCE_S)
            self._process = None

    def pause(self) -> None:
        """Stop it by SIGSTOP: it accepts connections and does not answer."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self._process is not None:
            os.kill(self._process.pid, number)


@pytest.fixture
def private_server(tmp_path: Path) -> Iterator[PrivateServer]:
    server = PrivateServer(tmp_path)
    server.start()
    yield server
    server.kill()
