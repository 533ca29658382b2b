"""What a load is, and what came of it; goes from the bench to the generator's process and back as JSON."""

import json
from dataclasses import asdict, dataclass
from typing import Self
from uuid import UUID


def learner(seed: int, index: int) -> str:
    """The userId of a device, so that a case can give its learner a past."""
    return str(UUID(int=seed << 64 | index, version=4))


def video(seed: int, index: int) -> str:
    return str(UUID(int=1 << 80 | seed << 64 | index, version=4))


@dataclass(frozen=True, slots=True)
class Load:
    """An open loop: heartbeats leave when they are due, however late the answers are.

    `rate` heartbeats/s go round robin over the connections that beat; the last `idle` of them never do.
    """

    port: int
    kind: str
    """Whose protocol is spoken: a key of `bench.load.clients.KINDS`."""
    connections: int
    rate: float
    window_s: float
    """What is measured, after `warmup_s` of the same load."""
    warmup_s: float = 1.0
    idle: int = 0
    burst_s: float = 3.0
    """How long the next acks may take."""
    drain_s: float = 3.0
    """How long the last acks may take."""
    videos: int = 100
    seed: int = 1
    connecting: int = 100
    """Handshakes at once."""
    since: int | None = None
    """With `epoch`: what each device says that it knows already."""
    epoch: str | None = None

    def dumps(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> Self:
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the generator saw in the window. Latencies run from when a heartbeat was due to its ack, ms."""

    sent: int
    acked: int
    ack_frames: int
    p50_ms: float
    p99_ms: float
    lag_p99_ms: float
    """How late the generator itself sent."""
    cpu_s: float
    """Of the generator."""
    unacked: int
    """Heartbeats, at the very end, after `drain_s`."""
    records: int
    """Records in the frames of a Playhead's progress since the start."""
    steady: bool
    """The window began and ended with the end of a burst of acks, or acks come in no bursts."""
    trouble: list[str]
    """What the server said that no good server says to this load; closed connections."""

    @property
    def kept_up(self) -> bool:
        """Whether the load was the one that was asked for."""
        return self.lag_p99_ms < 100


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment of a run that the bench reads counters at: connected, begin, end, done."""

    name: str
    outcome: Outcome | None = None

    def dumps(self) -> str:
        return json.dumps({"name": self.name, "outcome": asdict(self.outcome) if self.outcome else None})

    @classmethod
    def loads(cls, text: str) -> Self:
        tree = json.loads(text)
        return cls(tree["name"], Outcome(**tree["outcome"]) if tree["outcome"] else None)
