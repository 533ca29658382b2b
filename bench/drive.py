"""Puts a load on a server and reads the CPU time of server and store at both ends of a steady window."""

import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.load.spec import Load, Mark, Outcome
from bench.processes import Failed, python, rss_bytes, running
from bench.servers import Server


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU time and memory of a window, with the generator's outcome."""

    outcome: Outcome
    window_s: float
    server_cpu_s: float
    store_cpu_s: float
    connect_cpu_s: float
    """CPU time of the server from the first handshake until all connections were ready."""
    rss_bytes: int
    """Memory of the server at the end of the window."""

    done: int
    """Heartbeats acked in the window, or received if the protocol has no acks."""

    @property
    def server_us(self) -> float:
        return 1e6 * self.server_cpu_s / self.done

    @property
    def store_us(self) -> float:
        return 1e6 * self.store_cpu_s / self.done

    @property
    def busy(self) -> float:
        """The part of one core that the server used."""
        return self.server_cpu_s / self.window_s

    @property
    def caveat(self) -> str:
        """Reasons to distrust the numbers; empty if there are none."""
        caveats = [] if self.outcome.kept_up else [f"generator {self.outcome.lag_p99_ms:.0f} ms late"]
        caveats += [] if self.outcome.steady else ["acks in no bursts"]
        caveats += [f"{self.outcome.unacked} never acked"] if self.outcome.unacked else []
        return "; ".join(caveats + self.outcome.trouble[:1])


def drive(server: Server, load: Load) -> Cost:
    """Run a load. Raises Failed if the generator fails, or too few heartbeats were acked."""
    with TemporaryDirectory(prefix="playhead-bench-") as work:
        log = Path(work) / "load.log"
        connecting = server.cpu_s()[0]
        with running(python("bench.load", load.dumps()), log) as process:
            assert process.stdout is not None  # noqa: S101 asked for
            assert process.stdin is not None  # noqa: S101 asked for
            seen: dict[str, tuple[float, tuple[float, float]]] = {}
            outcome, rss = None, 0
            for line in process.stdout:
                mark = Mark.loads(line)
                seen[mark.name] = time.monotonic(), server.cpu_s()
                if mark.name == "end":
                    rss = rss_bytes(server.pid)
                if mark.name == "done":
                    outcome = mark.outcome
                    break
            if outcome is None:
                raise Failed(f"the generator died: {log.read_text()[-800:]}")
            process.stdin.write("\n")
            process.stdin.flush()
            process.wait(20)
    (began, (server_0, store_0)), (ended, (server_1, store_1)) = seen["begin"], seen["end"]
    connect = seen["connected"][1][0] - connecting
    done = outcome.sent if load.kind == "bare" else outcome.acked
    if load.rate and done < load.rate * load.window_s / 4:
        raise Failed(f"only {done:,} of {outcome.sent:,} heartbeats were acked in the window: {outcome.trouble}")
    return Cost(outcome, ended - began, server_1 - server_0, store_1 - store_0, connect, rss, done)
