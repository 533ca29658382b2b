"""A load and its outcome, which the bench and the generator's process exchange as JSON."""

import json
from dataclasses import asdict, dataclass
from typing import Self
from uuid import UUID


def learner(seed: int, index: int) -> str:
    """The userId of a device, so that a case can store records of its learner."""
    return str(UUID(int=seed << 64 | index, version=4))


def video(seed: int, index: int) -> str:
    return str(UUID(int=1 << 80 | seed << 64 | index, version=4))


@dataclass(frozen=True, slots=True)
class Load:
    """An open loop: heartbeats are sent when they are due, however late the answers are.

    `rate` heartbeats/s are distributed round robin over the connections, without the last `idle` of them.
    """

    port: int
    kind: str
    """The protocol: a key of `bench.load.clients.KINDS`."""
    connections: int
    rate: float
    window_s: float
    """The measured time, after `warmup_s` of the same load."""
    warmup_s: float = 1.0
    idle: int = 0
    burst_s: float = 3.0
    """How long to wait for the next burst of acks."""
    drain_s: float = 3.0
    """How long to wait for the last acks."""
    videos: int = 100
    seed: int = 1
    connecting: int = 100
    """Concurrent handshakes."""
    since: int | None = None
    """The revision that each device sends as known, with `epoch`."""
    epoch: str | None = None

    def dumps(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> Self:
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the generator measured in the window. Latencies, in ms, are from when a heartbeat was due to its ack."""

    sent: int
    acked: int
    ack_frames: int
    p50_ms: float
    p99_ms: float
    lag_p99_ms: float
    """How late the generator sent."""
    cpu_s: float
    """CPU time of the generator."""
    unacked: int
    """Heartbeats without an ack at the end, after `drain_s`."""
    records: int
    """Records in all progress frames of the service since the start."""
    steady: bool
    """Whether the window started and ended after a burst of acks, or acks do not arrive in bursts."""
    trouble: list[str]
    """Errors from the server, and closed connections."""

    @property
    def kept_up(self) -> bool:
        """Whether the requested load was produced."""
        return self.lag_p99_ms < 100


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment of a run at which the bench reads counters: connected, begin, end, done."""

    name: str
    outcome: Outcome | None = None

    def dumps(self) -> str:
        return json.dumps({"name": self.name, "outcome": asdict(self.outcome) if self.outcome else None})

    @classmethod
    def loads(cls, text: str) -> Self:
        tree = json.loads(text)
        return cls(tree["name"], Outcome(**tree["outcome"]) if tree["outcome"] else None)
