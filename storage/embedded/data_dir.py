"""The data directory of an embedded store: who owns it, and the socket at which its server answers.

Invariant: **at most one server writes a data directory, and it serves one owner.** Two locks ensure it. The
kernel releases both however their holder dies, so no stale pid is ever trusted:

- `playhead.lock` is held by the owner (this process) and not inherited: a second owner is refused.
- `valkey.lock` is inherited by every server that the owner spawns. If it is taken, a server still runs whose
  owner was killed. It is shut down, through the socket that the file names, before a new one starts.

And **no other user can read it**: it is closed to others, or refused (`storage/embedded/private_files.py`).
"""

import contextlib
import fcntl
import os
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from playhead.storage.embedded.private_files import open_directory, open_file

OWNER_LOCK, SERVER_LOCK, LOG = "playhead.lock", "valkey.lock", "valkey.log"
MARKS = frozenset((OWNER_LOCK, SERVER_LOCK, LOG, "appendonlydir"))
"""The names of files that only a data directory of the embedded store has."""
SOCKET_NAME = "valkey.sock"
SOCKET_DIR_PREFIX = "playhead-"  # of the private temporary directory used when the socket's path would be too long
SOCKET_PATH_MAX_BYTES = 103  # sun_path holds 104 bytes on macOS and 108 on Linux, including a NUL
LOCK_GRACE_S = 1.0  # a killed owner counts as dead shortly before its last thread releases the lock
STOP_TIMEOUT_S = 15.0  # more than the 10 s that Valkey may take to shut down
POLL_S = 0.01


class EmbeddedStoreFailed(Exception):
    """The embedded store cannot run; the message is one sentence for the user who started the program."""


class DataDirLocked(EmbeddedStoreFailed):
    """Another process owns the data directory."""


class DataDir:
    """A directory that one process owns at a time; `path` is created if it is missing."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._resources = contextlib.ExitStack()
        self._descriptor = -1

    def own(self, at_safe_point: Callable[[], None]) -> None:
        """Close the directory to other users, and take the owner's lock.

        Raises:
            DataDirLocked: another process has the lock.
            OSError: the directory can't be created or used, or other users could have changed it.
        """
        self._descriptor = open_directory(self.path, MARKS)
        self._resources.callback(os.close, self._descriptor)
        lock = self._open_file(OWNER_LOCK)
        deadline = time.monotonic() + LOCK_GRACE_S
        while not (owned := _try_lock(lock)) and time.monotonic() < deadline:
            at_safe_point()
            time.sleep(POLL_S)
        if not owned:
            pid = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
            raise DataDirLocked(
                f"The data directory {self.path} is in use by another Playhead process (pid {pid}): "
                "stop that process, or choose another directory."
            )
        _rewrite(lock, b"%d\n" % os.getpid())

    def take_server_lock(self, at_safe_point: Callable[[], None]) -> tuple[int, Path]:
        """Take the server's lock. A server that is left over from a killed owner is shut down first.

        Returns:
            The descriptor of the lock, which every server must inherit, and the socket path at which it must listen.

        Raises:
            EmbeddedStoreFailed: the old server does not shut down.
            OSError: the directory can't be used.
        """
        lock = self._open_file(SERVER_LOCK)
        self._end_orphan(lock, at_safe_point)
        path = self._place_socket()
        _rewrite(lock, os.fsencode(path.name if path.parent == self.path else path))
        return lock, path

    def release(self) -> None:
        """Release both locks. May be called more than once."""
        self._resources.close()

    def _open_file(self, name: str) -> int:
        descriptor = open_file(name, os.O_RDWR | os.O_CREAT, self._descriptor)
        self._resources.callback(os.close, descriptor)
        return descriptor

    def _end_orphan(self, lock: int, at_safe_point: Callable[[], None]) -> None:
        deadline = time.monotonic() + STOP_TIMEOUT_S
        path = self.path / (os.fsdecode(os.pread(lock, 4096, 0)) or SOCKET_NAME)
        while not _try_lock(lock):
            if time.monotonic() > deadline:
                raise EmbeddedStoreFailed(
                    f"A valkey-server of an earlier Playhead process still writes to {self.path} "
                    "and does not shut down: end it first."
                )
            with contextlib.suppress(OSError):
                ask(path, b"SHUTDOWN NOSAVE")
            at_safe_point()
            time.sleep(POLL_S)
        if path.parent.name.startswith(SOCKET_DIR_PREFIX):
            try:
                ask(path, b"PING")  # answered if this directory is a copy of a directory in use
            except OSError:
                _remove_socket(path)

    def _place_socket(self) -> Path:
        path = self.path / SOCKET_NAME
        if len(os.fsencode(path)) > SOCKET_PATH_MAX_BYTES:
            path = Path(tempfile.mkdtemp(prefix=SOCKET_DIR_PREFIX)) / SOCKET_NAME
            self._resources.callback(_remove_socket, path)
        return path


def running_url(data_dir: Path) -> str:
    """The URL of the embedded store that another process runs in a directory, and may end at any time.

    Raises:
        EmbeddedStoreFailed: no store runs there.
    """
    directory = data_dir.absolute()
    path = directory / SOCKET_NAME
    try:
        with open(open_file(directory / SERVER_LOCK, os.O_RDONLY), "rb") as lock:
            path = directory / (os.fsdecode(lock.read()) or SOCKET_NAME)
        ask(path, b"PING")
    except OSError as error:
        raise EmbeddedStoreFailed(f"No store answers in {data_dir} ({error}).") from error
    return url_of(path)


def url_of(path: Path) -> str:
    """The URL of a store at a socket, for `redis.from_url`."""
    return f"unix://{quote(os.fsencode(path))}"


def ask(path: Path, command: bytes) -> bytes:
    """Send one inline command and return the first bytes of the answer, without a client's handshake and retries."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        connection.connect(os.fspath(path))
        connection.sendall(command + b"\r\n")
        return connection.recv(64)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _rewrite(descriptor: int, content: bytes) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, content, 0)


def _remove_socket(path: Path) -> None:
    """Remove a socket and the private directory created for it, which is then empty."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        path.parent.rmdir()
