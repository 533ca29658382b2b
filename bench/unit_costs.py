"""What the bench measured, as one number each: read from bench/results.json, which a whole run of the bench writes."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from playhead.protocol.codecs import JsonCodec

MEASURED = Path(__file__).parent / "results.json"
FRAME_B, SEGMENT_B = 8, 66
"""Of a WebSocket frame's head with a mask; of the headers of Ethernet, IPv4 and TCP with time stamps."""
BEAT = (
    '{"type":"heartbeat","seq":1234,"videoId":"5b1f0c1e-9d3a-4c57-8a44-2f6d7f3e9b10","played":[[1234.567,1239.567]],'
    '"position":1239.567,"duration":5400,"state":"playing","span":5000,"age":3}'
)


@dataclass(frozen=True, slots=True)
class UnitCosts:
    """CPU in µs, memory and messages in bytes."""

    beat_us: float
    """Of the server for a heartbeat, until it is in the batch."""
    record_us: float
    """Of the server for a record of a flush, its ack included."""
    store_us: float
    """Of the store for a record of a flush."""
    crowd_us: float
    """Of the store for a record of a flush, where all watch one video."""
    cluster_us: float
    """Of the server for a record of a flush to a cluster, more than to one server."""
    cluster_store_us: float
    """Of a cluster's primaries for a record of a flush, together."""
    return_us: float
    """Of the server for a device that comes back."""
    connection_kib: float
    stored_b: float
    """Of the store's memory, a record with all that is counted from it."""
    beat_b: int
    ack_b: int
    """On the wire, each in a segment of its own that the other side confirms by one more."""

    @classmethod
    def load(cls, path: Path = MEASURED) -> "UnitCosts":
        """Raises KeyError where a row is not there: measure anew then."""
        found = json.loads(path.read_text())
        apart, shared = (
            (rows[f"{name}: server"], rows[f"{name}: acks a heartbeat"])
            for rows, name in (
                (_section(found, "CPU a heartbeat by number of connections"), "10,000 beat once a flush"),
                (_section(found, "CPU a heartbeat by flush interval"), "flush 5 s"),
            )
        )
        record_us = (apart[0] - shared[0]) / (apart[1] - shared[1])  # beats that share a record cost no second one
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
        """What they are where the store is a cluster."""
        return replace(self, record_us=self.record_us + self.cluster_us, store_us=self.cluster_store_us)


def _section(found: dict[str, dict[str, float]], title: str) -> dict[str, float]:
    return next((rows for name, rows in found.items() if name.startswith(title)), {})
