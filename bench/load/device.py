"""A device on picows: it counts its seqs, and acks tell it which of them are stored.

Frames are formatted with `%` and read with `find` instead of a parser: the generator must take less CPU time than any
server that it measures.
"""

import random
import time
from collections import deque
from typing import ClassVar

from picows import WSFrame, WSListener, WSMsgType, WSTransport

from bench.load.spec import Load, learner, video

DURATION_S = 5_400
CLOCK = time.perf_counter


class Tally:
    """The counters of all devices of a generator."""

    def __init__(self) -> None:
        self.sent = self.acked = self.ack_frames = self.ready = self.records = 0
        self.latencies: list[float] | None = None
        """Latencies, s; None outside of the window."""
        self.trouble: list[str] = []

    def complain(self, what: str) -> None:
        if len(self.trouble) < 5:
            self.trouble.append(what[:200])


class Client(WSListener):
    """A device that only sends: the bare transport does not answer."""

    path = "/ws"
    headers: ClassVar[dict[str, str]] = {}
    message: ClassVar[WSMsgType] = WSMsgType.TEXT
    bursts: ClassVar[bool] = False
    """Whether acks arrive in bursts, one for each flush."""

    def __init__(self, load: Load, index: int, tally: Tally, dice: random.Random) -> None:
        beating = load.connections - load.idle
        self.load, self.tally, self.seq, self.stored = load, tally, 0, 0
        self.step_s = beating / load.rate if load.rate else 0.0
        self.user, self.session = learner(load.seed, index), f"{dice.getrandbits(64):016x}"
        self.video, self.at = video(load.seed, index % load.videos), dice.uniform(0, DURATION_S / 2)
        self.due: deque[float] = deque()
        self.transport: WSTransport | None = None
        self.closing = False
        self.frame = (
            '{"type":"heartbeat","seq":%d,"videoId":"' + self.video + '","position":%.3f,"played":[[%.3f,%.3f]],'
            f'"duration":{DURATION_S},"state":"playing"}}'
        )

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport
        self.opened()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if not self.closing:
            self.tally.complain(f"closed: {transport.close_handshake and transport.close_handshake.recv}")

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            self.tally.complain(f"close {frame.get_close_code()} {frame.get_close_reason()}")
        elif frame.msg_type in (WSMsgType.TEXT, WSMsgType.BINARY):
            self.received(frame.get_payload_as_bytes())

    def opened(self) -> None:
        self.tally.ready += 1

    def received(self, payload: bytes) -> None:
        self.tally.complain(f"unexpected {payload[:100]!r}")

    def beat(self, due: float) -> None:
        """Report the media time since the last heartbeat, at normal speed."""
        self.seq += 1
        start, self.at = self.at, self.at + self.step_s
        if self.at > DURATION_S:
            start, self.at = 0.0, self.step_s
        self.say(self.heartbeat(self.seq, start, self.at))
        self.due.append(due)
        self.tally.sent += 1

    def heartbeat(self, seq: int, start: float, end: float) -> bytes:
        return (self.frame % (seq, end, start, end)).encode()

    def say(self, payload: bytes) -> None:
        assert self.transport is not None  # noqa: S101 opened
        self.transport.send(self.message, payload)

    def ack(self, seq: int) -> None:
        """Note that everything up to `seq` is stored."""
        now, tally = CLOCK(), self.tally
        tally.ack_frames += 1
        while self.stored < seq and self.due:
            self.stored += 1
            tally.acked += 1
            due = self.due.popleft()
            if tally.latencies is not None:
                tally.latencies.append(now - due)
