"""Keeps a server process running: it is spawned, awaited, and spawned again when it dies unexpectedly.

One thread spawns and awaits every server, and lives as long as any of them. On Linux the kernel sends a server SIGTERM
when the thread that spawned it ends (PDEATHSIG), so a killed owner leaves no server behind. `setpriv` sets this, if it
is installed, because code between fork and exec is not safe in a threaded process. It is only a convenience: the locks
of `storage/embedded/data_dir.py` alone ensure that no two servers write one directory.

The supervisor uses a thread and blocking calls instead of asyncio, because the parent of several workers, which has no
event loop, needs it too.
"""

import contextlib
import logging
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from playhead.storage.embedded.data_dir import POLL_S, STOP_TIMEOUT_S, EmbeddedStoreFailed, ask
from playhead.storage.embedded.private_files import UMASK, open_file
from playhead.storage.outage import Outage

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 30.0  # without any answer; a server that answers that it is loading gets more time
RESTART_DELAY_MIN_S = 0.1
RESTART_DELAY_MAX_S = 5.0
STEADY_S = 30.0  # a server that ran this long died for a new reason, so the delay starts over
READY = b"Ready to accept connections"  # in the log of a server that has loaded its data
LOG_CHECK_S = 0.05  # between two checks of the log for it
PROBE_S = 5.0  # for the test run of setpriv
JOIN_S = 5.0  # for the kernel to end a server that was killed


class Supervisor:
    """A server that is restarted whenever it dies unexpectedly after it has answered once.

    Args:
        command: the program and its options.
        lock: a descriptor that each server inherits.
        log: the file to which the server's output is appended.
        on_restart: called from a thread before each restart.
    """

    def __init__(
        self, command: Sequence[str | Path], *, lock: int, log: Path, on_restart: Callable[[], None] = lambda: None
    ) -> None:
        self._command = [*_tied_to_parent(), *command]
        self._lock = lock
        self._log = log
        self._on_restart = on_restart
        self._state_lock = threading.Lock()  # guards the state that await_answer, stop and the thread share
        self._stopping = threading.Event()
        self._log_start = 0
        """Where the output of the newest server begins in the log."""
        self._outage = Outage(logger, "valkey died and is restarted", "valkey answers again")
        self._ready = self._died_before_ready = False
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="embedded-valkey", daemon=True)

    @property
    def pid(self) -> int | None:
        """The newest server's process id; None before the first."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Spawn the first server without waiting until it answers. May be called once."""
        self._thread.start()

    def await_answer(self, path: Path, at_safe_point: Callable[[], None] = lambda: None) -> None:
        """Block until the server has loaded its data and answers at the socket `path`.

        Args:
            at_safe_point: called between two attempts.

        Raises:
            EmbeddedStoreFailed: the server died first, or gave no answer for START_TIMEOUT_S.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            answer = b""
            with contextlib.suppress(OSError):
                answer = ask(path, b"PING")
            with self._state_lock:
                if self._died_before_ready:
                    raise EmbeddedStoreFailed(f"The embedded store did not start: {self._last_output()}")
                self._ready = answer.startswith(b"+PONG")
                if self._ready:
                    return
            if answer.startswith(b"-LOADING"):
                deadline = time.monotonic() + START_TIMEOUT_S
            at_safe_point()
            time.sleep(POLL_S)
        raise EmbeddedStoreFailed(f"The embedded store does not answer: {self._last_output()}")

    def stop(self) -> None:
        """End the server, by force after STOP_TIMEOUT_S. Does nothing before `start`."""
        with self._state_lock:
            self._stopping.set()
        if self._thread.ident is None:
            return
        if self._process is not None:
            self._process.terminate()
        self._thread.join(STOP_TIMEOUT_S)
        if self._thread.is_alive() and self._process is not None:
            logger.warning("valkey (pid %d) did not stop within %.0f s, killing it", self._process.pid, STOP_TIMEOUT_S)
            self._process.kill()
            self._thread.join(JOIN_S)
            if self._thread.is_alive():  # pragma: no cover - only a disk that hangs blocks a killed process
                logger.error("valkey (pid %d) was killed but has not ended", self._process.pid)

    def _run(self) -> None:
        delay_s = RESTART_DELAY_MIN_S
        while True:
            spawned_at = time.monotonic()
            try:
                with self._state_lock:
                    if self._stopping.is_set():
                        return
                    self._process = self._spawn()
                death = f"it exited unexpectedly with {self._wait(self._process)}"
            except OSError as error:
                death = f"it could not be run ({error})"
            with self._state_lock:
                self._died_before_ready = not self._ready
                if self._died_before_ready or self._stopping.is_set():
                    return
            if time.monotonic() - spawned_at > STEADY_S:
                delay_s = RESTART_DELAY_MIN_S
            self._outage.failed(f"{death}; its last output: {self._last_output()}")
            if self._stopping.wait(delay_s):
                return
            delay_s = min(2 * delay_s, RESTART_DELAY_MAX_S)
            self._on_restart()

    def _wait(self, process: "subprocess.Popen[bytes]") -> int:
        """Wait until a server ends, and return its exit code. During an outage, end the outage once it is ready."""
        while self._outage.is_ongoing:
            ended = process.poll() is not None
            with contextlib.suppress(OSError), self._log.open("rb") as log:
                log.seek(self._log_start)
                if READY in log.read():
                    self._outage.worked()
            if ended:
                break
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LOG_CHECK_S)
        return process.wait()

    def _spawn(self) -> subprocess.Popen[bytes]:
        with open(open_file(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab") as log:
            self._log_start = log.tell()
            return subprocess.Popen(  # noqa: S603 - no part of the command comes from a peer
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(self._lock,),
                umask=UMASK,
                start_new_session=True,  # Ctrl-C must not reach it, because the owner still has to flush
            )

    def _last_output(self) -> str:
        try:
            lines = self._log.read_text(errors="replace").splitlines()
        except OSError as error:
            return f"its log can't be read ({error})"
        return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")


def _tied_to_parent() -> list[str | Path]:
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return []
    prefix: list[str | Path] = [setpriv, "--pdeathsig", "TERM"]
    try:
        probe = subprocess.run([*prefix, "true"], capture_output=True, check=False, timeout=PROBE_S)  # noqa: S603 - fixed words
    except subprocess.TimeoutExpired:
        return []
    return prefix if probe.returncode == 0 else []
