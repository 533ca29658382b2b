"""The measured unit costs, read from bench/results.json, which a complete run of the bench writes."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from playhead.protocol.codecs import JsonCodec

MEASURED = Path(__file__).parent / "results.json"
FRAME_B, SEGMENT_B = 8, 66
"""Bytes of the head of a masked WebSocket frame, and of the headers of Ethernet, IPv4 and TCP with timestamps."""
BEAT = (
    '{"type":"heartbeat","seq":1234,"videoId":"5b1f0c1e-9d3a-4c57-8a44-2f6d7f3e9b10","played":[[1234.567,1239.567]],'
    '"position":1239.567,"duration":5400,"state":"playing","span":5000,"age":3}'
)


@dataclass(frozen=True, slots=True)
class UnitCosts:
    """Unit costs: CPU in µs, memory and messages in bytes."""

    beat_us: float
    """Server CPU of a heartbeat until it is in the batch."""
    record_us: float
    """Server CPU of a record in a flush, its ack included."""
    store_us: float
    """Store CPU of a record in a flush."""
    crowd_us: float
    """Store CPU of a record in a flush if everybody watches the same video."""
    cluster_us: float
    """Additional server CPU of a record in a flush to a cluster."""
    cluster_store_us: float
    """CPU of all primaries of a cluster for a record in a flush."""
    return_us: float
    """Server CPU of a device that reconnects."""
    connection_kib: float
    stored_b: float
    """Memory of the store for a record, with everything that is derived from it."""
    beat_b: int
    ack_b: int
    """Bytes on the wire: each is a TCP segment of its own, acknowledged by another one."""

    @classmethod
    def load(cls, path: Path = MEASURED) -> "UnitCosts":
        """Read them. Raises KeyError if a row is missing: run the bench again."""
        found = json.loads(path.read_text())
        apart, shared = (
            (rows[f"{name}: server"], rows[f"{name}: acks a heartbeat"])
            for rows, name in (
                (_section(found, "CPU a heartbeat by number of connections"), "10,000 beat once a flush"),
                (_section(found, "CPU a heartbeat by flush interval"), "flush 5 s"),
            )
        )
        record_us = (apart[0] - shared[0]) / (apart[1] - shared[1])  # heartbeats that share a record cost only one
        memory, cluster = _section(found, "Memory"), _section(found, "CPU a heartbeat on a cluster")
        ack = len(JsonCodec().plain_ack("0" * 16, 1234))
        return cls(
            beat_us=apart[0] - record_us * apart[1],
            record_us=record_us,
            store_us=_section(found, "CPU a heartbeat by number")["10,000 beat once a flush: store"],
            crowd_us=_section(found, "A flush of")["store CPU a record, where all watch one video"],
            cluster_us=cluster["a cluster: server"] - cluster["one server: server"],
            cluster_store_us=cluster["a cluster: store"],
            return_us=_section(found, "Coming back")["Playhead: accept, hello, sync of nothing"],
            connection_kib=memory["an active connection, a beat each second"],
            stored_b=memory["all that the store has grown by, a record"],
            beat_b=len(BEAT) + FRAME_B + 2 * SEGMENT_B,
            ack_b=ack + FRAME_B + 2 * SEGMENT_B,
        )

    def on_cluster(self) -> "UnitCosts":
        """The unit costs if the store is a cluster."""
        return replace(self, record_us=self.record_us + self.cluster_us, store_us=self.cluster_store_us)


def _section(found: dict[str, dict[str, float]], title: str) -> dict[str, float]:
    return next((rows for name, rows in found.items() if name.startswith(title)), {})
