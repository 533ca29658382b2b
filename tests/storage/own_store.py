"""A store that an operator runs, with the users of examples/playhead.acl or others."""

import contextlib
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from playhead.storage.store import Store, open_store
from tests.conftest import _await_answer
from tests.replicated import binary

PATIENCE_S = 20
PASSWORD = "Pass:w0rd@/%"
OPERATOR_PASSWORD = "other-Pass:w0rd"
EXAMPLES = Path(__file__).parents[2] / "examples"


@contextlib.contextmanager
def running(kind: str, directory: Path, url: str, *options: str | Path) -> Iterator[None]:
    """A server for one test, started once `url` answers."""
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
    store = open_store(url, worker=uuid4().hex, **more)
    try:
        yield store
    finally:
        await store.close()


def written_acl(directory: Path, more: str = "") -> Path:
    """The example files with passwords, and with an addition to the line of the service's user."""
    service, operator = (read_example(name) for name in ("playhead", "playhead-operator"))
    path = directory / "users.acl"
    path.write_text(
        service.replace("CHANGE-ME", PASSWORD).rstrip("\n")
        + more
        + "\n"
        + operator.replace("CHANGE-ME", OPERATOR_PASSWORD)
    )
    return path


def read_example(name: str, user: str | None = None) -> str:
    """An ACL file as it is shipped: its last line is a user, with a password to be changed."""
    text = (EXAMPLES / f"{name}.acl").read_text()
    assert text.count("CHANGE-ME") == 1
    assert text.splitlines()[-1].startswith(f"user {user or name} ")
    return text


def rights(name: str) -> set[str]:
    """The commands that the user of an example may run."""
    return {word[1:] for word in read_example(name).splitlines()[-1].split() if word.startswith("+")}


def as_playhead(socket_path: Path, db: int = 0) -> str:
    return f"unix://playhead:{quote(PASSWORD, safe='')}@{quote(str(socket_path))}?db={db}"


def as_operator(socket_path: Path, db: int = 0) -> str:
    return f"unix://playhead-operator:{quote(OPERATOR_PASSWORD, safe='')}@{quote(str(socket_path))}?db={db}"
