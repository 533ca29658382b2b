"""The worker processes of `playhead serve --workers N`: replaced when they die, and stopped within a time limit."""

import logging
import signal
import socket
import time
from multiprocessing import resource_tracker

from uvicorn.supervisors import Multiprocess

from playhead.server.commands.shared_count import SharedCount
from playhead.server.lifecycle.signals import ignore_hangup, is_hangup_ignored
from playhead.server.transport.config import ServiceConfig
from playhead.storage.store import Backoff, Outage

logger = logging.getLogger(__name__)

RETRY_S = 0.5, 30.0
"""The first delay before another dead worker is replaced, and the longest. Replacing never stops."""
STEADY_S = 60.0
"""Without a death for this long, the next delay is the first one again."""
END_S = 5.0
"""Time for a worker to exit, beyond the time that it has to drain."""


class Workers(Multiprocess):
    """uvicorn's supervisor with a bounded shutdown: a second signal, or a worker that exceeds its time, ends it."""

    def __init__(self, config: ServiceConfig, sockets: list[socket.socket], restarts: SharedCount) -> None:
        ignored = is_hangup_ignored()
        ignore_hangup()
        # multiprocessing's helper process: started while SIGHUP is ignored, so that a closing terminal doesn't end it
        # before the workers.
        resource_tracker.ensure_running()
        super().__init__(config, sockets)  # installs handlers for all signals
        if ignored:
            ignore_hangup()
        self._restarts = restarts
        self._backoff = Backoff(*RETRY_S)
        self._not_before = 0.0
        steady = f"No worker has died for {STEADY_S:g} s"
        self._outage = Outage(logger, "A worker died and is replaced", steady)

    def handle_hup(self) -> None:
        """Stop, as with one process; uvicorn would replace the workers one by one."""
        self.handle_term()

    def handle_ttin(self) -> None:
        """Do nothing. uvicorn would add a worker, but terminals send SIGTTIN and SIGTTOU to background processes that
        read or write."""

    def handle_ttou(self) -> None:
        """Do nothing; see `handle_ttin`."""

    def keep_subprocess_alive(self) -> None:
        """Replace dead workers, with a growing delay while they keep dying."""
        now = time.monotonic()
        if now < self._not_before:
            return
        before = list(self.processes)
        super().keep_subprocess_alive()
        if replaced := len(set(self.processes) - set(before)):
            self._restarts.add(replaced)
            self._not_before = now + self._backoff.next_s()
            self._outage.failed(f"{self._restarts()} so far; /metrics counts further ones")
        elif now > self._not_before + STEADY_S:
            self._backoff.reset()
            self._outage.worked()

    def join_all(self) -> None:
        """Wait for the workers; kill them at a second signal, or when they exceed the drain timeout."""
        until = time.monotonic() + self.config.settings.drain_timeout_s + END_S  # type: ignore[attr-defined]
        self.signal_queue.clear()
        for each in self.processes:
            while each.process.exitcode is None:
                again = {signal.SIGINT, signal.SIGTERM}.intersection(self.signal_queue)
                if again or time.monotonic() > until:
                    self._kill_all()
                    if again:
                        raise SystemExit(128 + again.pop())
                each.process.join(0.1)

    def _kill_all(self) -> None:
        """Kill all workers. Nothing is lost: what was acked is stored, and players still hold the rest."""
        for each in self.processes:
            each.process.kill()
