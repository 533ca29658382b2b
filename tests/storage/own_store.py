"""A store of the operator's own, with the users of examples/playhead.acl or as a test wants it."""

import contextlib
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from storage.store import Store
from tests.conftest import _await_answer
from tests.replicated import binary

PATIENCE_S = 20
PASSWORD = "Pass:w0rd@/%"
ACL = (Path(__file__).parents[2] / "examples" / "playhead.acl").read_text()


@contextlib.contextmanager
def running(kind: str, directory: Path, url: str, *options: str | Path) -> Iterator[None]:
    """A server of the test's own, from when `url` is answered."""
    command = [binary(kind), "--port", "0", "--dir", directory, *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _await_answer(process, url)
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


@contextlib.asynccontextmanager
async def opened(url: str, **more: Any) -> AsyncIterator[Store]:
    store = Store(url, worker=uuid4().hex, **more)
    try:
        yield store
    finally:
        await store.close()


def written_acl(directory: Path, more: str = "") -> Path:
    """The example with a password, and whatever is added to the user's line, the last one."""
    assert ACL.count("CHANGE-ME") == 1
    path = directory / "users.acl"
    path.write_text(ACL.rstrip("\n").replace("CHANGE-ME", PASSWORD) + more + "\n")
    return path


def as_playhead(socket_path: Path, db: int = 0) -> str:
    return f"unix://playhead:{quote(PASSWORD, safe='')}@{quote(str(socket_path))}?db={db}"
